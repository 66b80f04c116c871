from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import aligndbg


def test_a_weight_of_one_value_is_no_dead_tensor(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sqrt", ["ones"], ["scale"], name="sqrt"),
        helper.make_node("Mul", ["x", "scale"], ["scaled"], name="mul"),
        helper.make_node("Sub", ["scaled", "big"], ["low"], name="sub"),
        helper.make_node("Relu", ["low"], ["dead"], name="relu"),
        helper.make_node("Add", ["dead", "scaled"], ["out"], name="add"),
    ]
    stored = {"ones": np.ones(4, np.float32), "big": np.array([100], np.float32)}
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 4])] for n in ("x", "out")]
    weights = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "g", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    found = aligndbg.diff(tmp_path / "m.onnx", tmp_path / "m.onnx")
    assert found.checks["constant_tensors"] == ["dead"]
