"""A tensor that is put on a grid for some of its readers, and not for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg.core.types import Array

STEP = np.float32(0.02)


def residual(path: Path, grids: bool, scale: float = 1.0) -> str:
    """A convolution and what it reads, added up. With `grids` it alone reads on a grid, as TensorRT places Q/DQ.

    `scale` is a factor on one channel of the weights' scales.
    """
    rng = np.random.default_rng(0)
    weight = rng.normal(scale=0.2, size=(6, 6, 3, 3)).astype(np.float32)
    steps = np.abs(weight).reshape(6, -1).max(axis=1) / np.float32(127)
    constants: dict[str, Array] = {"half": np.float32(0.5)}
    nodes = [helper.make_node("Tanh", ["x"], ["t"], "tanh"), helper.make_node("Mul", ["t", "half"], ["h"], "mul")]
    read = ["h", "w"]
    if grids:
        told = steps.copy()
        told[2] *= np.float32(scale)
        constants |= {"s": STEP, "z": np.int8(0), "ws": told, "wz": np.zeros(6, np.int8)}
        constants["wq"] = np.round(weight / steps.reshape(6, 1, 1, 1)).astype(np.int8)
        nodes += [
            helper.make_node("QuantizeLinear", ["h", "s", "z"], ["hq"], "q"),
            helper.make_node("DequantizeLinear", ["hq", "s", "z"], ["hd"], "dq"),
            helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], "dqw", axis=0),
        ]
        read = ["hd", "wd"]
    else:
        constants["w"] = weight
    nodes += [
        helper.make_node("Conv", read, ["c"], "conv", pads=[1] * 4),
        helper.make_node("Add", ["c", "h"], ["a"], "add"),
        helper.make_node("Sigmoid", ["a"], ["y"], "sigmoid"),
    ]
    shape: list[Any] = [1, 6, 8, 8]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return str(path)


@pytest.mark.parametrize("seed", range(3))
def test_each_reader_is_fed_what_its_counterpart_gets(tmp_path: Path, seed: int) -> None:
    found = aligndbg.diff(residual(tmp_path / "f.onnx", False), residual(tmp_path / "q.onnx", True), seed=seed)
    assert (found.verdict, found.faults) == ("aligned", ())
    own = {m.pair.reference: m.isolated.rel_l2 for m in found.pairs if m.isolated}
    assert max(own["c"], own["a"]) < 1e-5, "the convolution reads rounded values, the sum those before"


def test_a_scale_of_one_channel_is_found_though_the_sum_reads_the_same_tensor(tmp_path: Path) -> None:
    files = residual(tmp_path / "f.onnx", False), residual(tmp_path / "q.onnx", True, scale=1.5)
    (fault,) = aligndbg.diff(*files, seed=0).faults
    assert fault.reference == "c"
    assert "conv" in fault.region_candidate.nodes
