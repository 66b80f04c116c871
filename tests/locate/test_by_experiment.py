"""Isolated errors over networks of a few operators, one of them wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg.core.types import Array
from chains import chain, places


@pytest.mark.parametrize("wrong", [(0,), (2,), (4,), (1, 3), (0, 2, 4)], ids=str)
def test_each_wrong_operator_is_a_fault_and_nothing_else(x: Array, wrong: tuple[int, ...]) -> None:
    diff = aligndbg.diff(chain(), chain(wrong, "c_"), {"x": x})
    assert places(diff) == [(f"t{k}", f"c_t{k}") for k in wrong]
    assert all(f.isolated_error == pytest.approx(0.1, rel=1e-3) for f in diff.faults)


def test_an_override_that_is_refused_leaves_the_rest_judged(x: Array) -> None:
    diff = aligndbg.diff(chain(), chain([3], "c_", refused=[1]), {"x": x})
    assert places(diff) == [("t3", "c_t3")]
    (fault,) = diff.faults
    assert fault.region_candidate.nodes == ("Sqrt_3",)


def test_nothing_is_blamed_for_a_wrong_tensor_that_could_not_be_overridden(x: Array) -> None:
    """Which of the operators before the next tensor that can be overridden it is, nothing tells: a region of them."""
    diff = aligndbg.diff(chain(), chain([1], "c_", refused=[1, 2]), {"x": x})
    (fault,) = diff.faults
    assert (fault.reference, fault.candidate) == ("t3", "c_t3")
    assert fault.region_reference.outputs == ("t3",)
    assert len(fault.region_candidate.nodes) == 3
    below = {m.pair.reference: m for m in diff.pairs}
    assert below["t4"].isolated is not None, "t3 could be overridden, so what follows is judged"


def head(path: Path, order: Sequence[int], last: Sequence[int] = (0, 1, 2, 3), early: bool = False) -> str:
    """A square feature map through a convolution, read as (anchor, y, x, value), squashed and flattened.

    With `early` it is squashed first and moved then, which is the same.
    """
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 3, 3, 3), dtype=np.float32)
    steps: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
        ("Reshape", "split", ("apart",), {}),
        ("Transpose", "turn", (), {"perm": list(order)}),
        ("Sigmoid", "squash", (), {}),
        ("Transpose", "back", (), {"perm": list(last)}),
        ("Reshape", "flatten", ("flat",), {}),
    ]
    if early:
        steps.insert(0, steps.pop(2))
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1])]
    for op, name, shape, more in steps:
        output = "y" if name == "flatten" else f"{name}ed"
        nodes.append(helper.make_node(op, [nodes[-1].output[0], *shape], [output], name=name, **more))
    shapes = {"apart": [2, 3, 5, 5], "flat": [1, 50, 3]}
    constants = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in shapes.items()]
    constants.append(numpy_helper.from_array(weight, "w"))
    ends = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in (("x", [1, 3, 5, 5]), ("y", [1, 50, 3]))
    ]
    graph = helper.make_graph(nodes, "g", *ends, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def test_axes_of_one_size_exchanged_before_a_flattened_output(tmp_path: Path) -> None:
    """What is squashed agrees under another order of axes, which only the reshape after it refutes."""
    right, wrong = head(tmp_path / "a.onnx", (0, 2, 3, 1)), head(tmp_path / "b.onnx", (0, 3, 2, 1), early=True)
    diff = aligndbg.diff(right, wrong, seed=0)
    assert diff.verdict == "diverged"
    (fault,) = diff.faults
    assert (fault.reference, fault.candidate) == ("squashed", "turned")
    assert fault.region_candidate.nodes == ("turn",)
    assert fault.cause is not None
    assert fault.cause.kind == "layout"


def test_an_output_that_holds_the_other_ones_values_in_another_order_is_no_equal(tmp_path: Path) -> None:
    """Its own counterpart, one move before it, is not what its user reads."""
    right = head(tmp_path / "a.onnx", (0, 2, 3, 1))
    wrong = head(tmp_path / "b.onnx", (0, 2, 3, 1), last=(0, 2, 1, 3))
    diff = aligndbg.diff(right, wrong, seed=0)
    assert diff.verdict == "diverged"
    (fault,) = diff.faults
    assert (fault.reference, fault.candidate) == ("backed", "backed")
    assert "back" in fault.region_candidate.nodes
