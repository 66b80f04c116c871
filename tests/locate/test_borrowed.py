"""Recordings without a graph: names or the order of recording propose, experiments decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg.core.types import Array

DEPTH = 5


def chain(path: Path, wrong: int | None = None) -> dict[str, Array]:
    """Convolutions with a ReLU behind each; the bias of the one called `wrong` is off. The values of one run."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for k in range(DEPTH):
        weight = rng.normal(scale=0.15, size=(8, 3 if k == 0 else 8, 3, 3)).astype(np.float32)
        bias = rng.normal(scale=0.1, size=8).astype(np.float32) + np.float32(0.5 * (k == wrong))
        weights += [numpy_helper.from_array(weight, f"w{k}"), numpy_helper.from_array(bias, f"b{k}")]
        nodes.append(helper.make_node("Conv", [last, f"w{k}", f"b{k}"], [f"c{k}"], f"conv{k}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"], f"relu{k}"))
        last = f"r{k}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 9, 7]), (last, None))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    model.graph.output.extend(helper.make_empty_tensor_value_info(n.output[0]) for n in nodes[:-1])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [n.output[0] for n in nodes]
    x = np.random.default_rng(1).normal(size=(1, 3, 9, 7)).astype(np.float32)
    return {"x": x} | dict(zip(names, session.run(names, {"x": x}), strict=True))


@pytest.mark.parametrize("wrong", [0, 2, DEPTH - 1])
@pytest.mark.parametrize("named", [True, False])
def test_the_operator_of_a_recording_is_named(tmp_path: Path, wrong: int, named: bool) -> None:
    chain(tmp_path / "reference.onnx")
    values = chain(tmp_path / "wrong.onnx", wrong)
    x = values.pop("x")
    if not named:
        values = {f"layer_{k:03}": value.reshape(-1) for k, value in enumerate(values.values())}
    np.savez(tmp_path / "recorded.npz", **values)
    found = aligndbg.diff(tmp_path / "reference.onnx", tmp_path / "recorded.npz", {"x": x})
    (fault,) = found.faults
    assert found.verdict == "diverged"
    assert fault.reference == f"c{wrong}"
    assert fault.region_reference.nodes == (f"conv{wrong}",)
    assert found.corrected is not None
    assert max(found.corrected.values()) < 1e-5


def test_a_recording_that_agrees_has_no_fault(tmp_path: Path) -> None:
    values = chain(tmp_path / "reference.onnx")
    np.savez(tmp_path / "recorded.npz", **{k: v for k, v in values.items() if k != "x"})
    found = aligndbg.diff(tmp_path / "reference.onnx", tmp_path / "recorded.npz", {"x": values["x"]})
    assert (found.verdict, found.faults, found.checks["isolation_runs"]) == ("aligned", (), 1)
