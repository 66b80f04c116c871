"""Weights that a graph computes from its constants are compared and cut like any other tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg

pytest.importorskip("onnxruntime")


def positions(path: Path, act: str = "Relu", grid: float = 0.0) -> Path:
    """y = softmax(x W P), where P = (act(C W) V)^T is made of constants; on a grid of this step where one is given."""
    rng = np.random.default_rng(3)
    c, w, v = (rng.standard_normal((16, 16)).astype(np.float32) * 0.4 for _ in range(3))
    stored = {"c": c, "w": w, "v": v, "step": np.float32(grid), "zero": np.int8(0)}
    nodes = [
        helper.make_node("MatMul", ["c", "w"], ["table"], "table"),
        helper.make_node(act, ["table"], ["bent"], "bent"),
        helper.make_node("MatMul", ["bent", "v"], ["keys"], "keys"),
        helper.make_node("Transpose", ["keys"], ["turned"], "turned", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w"], ["query"], "query"),
        helper.make_node("MatMul", ["query", "read" if grid else "turned"], ["score"], "score"),
        helper.make_node("Softmax", ["score"], ["y"], "y", axis=-1),
    ]
    if grid:
        nodes[4:4] = [
            helper.make_node("QuantizeLinear", ["turned", "step", "zero"], ["stored"], "stored"),
            helper.make_node("DequantizeLinear", ["stored", "step", "zero"], ["read"], "read"),
        ]
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, (8, 16))
    graph = helper.make_graph(
        nodes,
        "g",
        [shape],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (8, 16))],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_fault_in_them_is_found_where_it_is(tmp_path: Path) -> None:
    found = aligndbg.diff(positions(tmp_path / "a.onnx"), positions(tmp_path / "b.onnx", act="Abs"))
    assert [(f.reference, f.candidate_op) for f in found.faults] == [("bent", "Abs")]
    assert {"table", "bent", "keys"} <= {m.pair.reference for m in found.pairs}


def test_what_reads_them_is_not_blamed_for_the_grid_they_are_on(tmp_path: Path) -> None:
    found = aligndbg.diff(positions(tmp_path / "a.onnx"), positions(tmp_path / "b.onnx", grid=0.05))
    assert (found.verdict, found.faults) == ("aligned", ())


def test_those_that_one_side_holds_ready_are_skipped(tmp_path: Path) -> None:
    """A converter folds them: that says nothing of how much was compared."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    whole = positions(tmp_path / "a.onnx")
    ort.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
    found = aligndbg.diff(whole, tmp_path / "folded.onnx")
    assert (found.verdict, found.coverage["reference"].unmatched) == ("aligned", 0)
    assert {"table", "bent"} <= {s.name for s in found.matching.skipped_reference}
