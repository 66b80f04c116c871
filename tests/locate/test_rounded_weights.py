"""An output that rounding the weights moves far is no fault, and hides none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg.core.types import Verdict

RNG = np.random.default_rng(5)
FIRST = RNG.standard_normal((64, 64)).astype(np.float32)
WEIGHTS = {"a": FIRST, "b": FIRST + (RNG.standard_normal((64, 64)) * 4e-3).astype(np.float32)}
X = {"x": RNG.standard_normal((1, 64)).astype(np.float32)}


def network(path: Path, half: bool, wrong: float = 0.0, last: str = "Sub") -> Path:
    """The difference of two products that are nearly equal; `half` stores the weights in float16, as converters do."""
    nodes, stored = [], []
    for name, value in WEIGHTS.items():
        weight = value + np.float32(wrong) * (name == "b")
        stored.append(numpy_helper.from_array(weight.astype(np.float16) if half else weight, name))
        if half:
            nodes.append(helper.make_node("Cast", [name], [f"{name}32"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("MatMul", ["x", f"{name}32" if half else name], [f"m{name}"]))
    nodes.append(helper.make_node(last, ["ma", "mb"], ["y"]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.mark.parametrize("half", [(False, True), (True, False)], ids=["candidate", "reference"])
def test_an_output_is_held_to_what_rounding_the_weights_does(tmp_path: Path, half: tuple[bool, bool]) -> None:
    sides = [network(tmp_path / f"{k}.onnx", h) for k, h in enumerate(half)]
    found = aligndbg.diff(*sides, X)
    (output,) = [m for m in found.pairs if m.pair.reference == "y"]
    assert output.metrics.rel_l2 > 0.03  # far over what float16 is usually given
    assert found.verdict is Verdict.ALIGNED, found.verdict_reason
    assert any("rounding the weights alone was seen to move it" in w for w in found.warnings)
    assert aligndbg.judge(found, min_coverage=0.1).verdict is Verdict.ALIGNED


@pytest.mark.parametrize("change", [{"wrong": 3e-4}, {"last": "Add"}], ids=["a weight off by little", "an operator"])
def test_what_rounding_does_not_explain_still_diverges(tmp_path: Path, change: dict[str, Any]) -> None:
    sides = network(tmp_path / "r.onnx", half=False), network(tmp_path / "c.onnx", half=True, **change)
    found = aligndbg.diff(*sides, X)
    assert found.verdict is Verdict.DIVERGED
    assert not any("rounding the weights alone" in w for w in found.warnings)


def test_a_limit_of_the_users_is_not_widened(tmp_path: Path) -> None:
    sides = network(tmp_path / "r.onnx", half=False), network(tmp_path / "c.onnx", half=True)
    assert aligndbg.diff(*sides, X, min_cosine=0.999999).verdict is Verdict.DIVERGED
