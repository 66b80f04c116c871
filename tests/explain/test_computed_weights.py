"""Weights that a graph computes from constants are part of the region that is run alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import aligndbg

RNG = np.random.default_rng(0)
WEIGHT, GAIN, SPREAD = (RNG.uniform(0.5, 1.5, shape).astype(np.float32) for shape in ((4, 3, 3, 3), (4,), (4,)))


def written_out(path: Path) -> Path:
    """A convolution whose normalization is left as its steps: a factor computed from gain and spread."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["spread", "epsilon"], ["wide"], name="wide"),
        helper.make_node("Sqrt", ["wide"], ["root"], name="root"),
        helper.make_node("Div", ["gain", "root"], ["factor"], name="factor"),
        helper.make_node("Mul", ["conv", "factor"], ["y"], name="scaled"),
    ]
    stored = {
        "w": WEIGHT,
        "gain": GAIN[:, None, None],
        "spread": SPREAD[:, None, None],
        "epsilon": np.array(1e-3, np.float32),
    }
    return save(path, nodes, stored)


def folded(path: Path, by: float) -> Path:
    weight = WEIGHT * (GAIN / np.sqrt(SPREAD + 1e-3))[:, None, None, None] * by
    return save(path, [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])], {"w": weight})


def save(path: Path, nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray]) -> Path:
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 6, 6])]
        for name, channels in (("x", 3), ("y", 4))
    ]
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "g", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_scale_is_told_against_a_factor_that_is_computed(tmp_path: Path) -> None:
    found = aligndbg.diff(written_out(tmp_path / "a.onnx"), folded(tmp_path / "b.onnx", 1.25))
    (fault,) = found.faults
    assert fault.cause is not None
    assert fault.cause.kind == "scale"
    assert "1.25" in fault.cause.summary
    assert not fault.cause.details["not_evaluated"]


def test_folded_right_is_aligned(tmp_path: Path) -> None:
    found = aligndbg.diff(written_out(tmp_path / "a.onnx"), folded(tmp_path / "b.onnx", 1.0))
    assert str(found.verdict) == "aligned"
