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
SHAPE, WIDE = [1, 3, 9, 7], [1, 3, 21, 19]


def chain(path: Path, wrong: int | None = None, shape: list[int] = SHAPE) -> dict[str, Array]:
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
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), (last, None))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    model.graph.output.extend(helper.make_empty_tensor_value_info(n.output[0]) for n in nodes[:-1])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [n.output[0] for n in nodes]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
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


def rounded(path: Path, wrong: int | None = None) -> tuple[Array, dict[str, Array]]:
    """The same with a softmax of what is nearly alike behind it; its values, run with each ReLU's result put on 255
    steps: what a device records of a quantized run, in float and under names of its own."""
    x = chain(path, wrong, WIDE)["x"]
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.node.append(helper.make_node("GlobalAveragePool", [f"r{DEPTH - 1}"], ["mean"], "mean"))
    model.graph.node.append(helper.make_node("Softmax", ["mean"], ["prob"], "prob", axis=1))
    model.graph.output.append(helper.make_tensor_value_info("prob", TensorProto.FLOAT, None))
    onnx.save(model, path)
    values: dict[str, Array] = {}
    for k in range(DEPTH):
        model.graph.output.append(helper.make_empty_tensor_value_info(f"r{k}"))
    for k in range(DEPTH):  # from each rounded result on
        value = _run(model, {"x": x} | values)[f"r{k}"]
        step = float(value.max()) / 255
        values[f"r{k}"] = np.asarray(np.round(value / step) * step, np.float32)
    kept = {f"{name}_fused": value for name, value in values.items()}
    prob = _run(model, {"x": x} | values)["prob"]
    return x, kept | {"prob_fused": prob, "prob_fused_reshaped": prob.reshape(1, -1)}


def _run(model: onnx.ModelProto, given: dict[str, Array]) -> dict[str, Array]:
    """With these tensors in place of what the model computes."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for node in other.graph.node:
        node.output[:] = [f"own_{o}" if o in given else o for o in node.output]
    for name in given.keys() - {"x"}:
        other.graph.initializer.append(numpy_helper.from_array(given[name], name))
    names = [o.name for o in other.graph.output]
    for name in names:
        if name in given:
            other.graph.output.append(helper.make_empty_tensor_value_info(f"own_{name}"))
    names = [f"own_{n}" if n in given else n for n in names]
    kept = [o for o in other.graph.output if o.name in names]
    del other.graph.output[:]
    other.graph.output.extend(kept)
    session = onnxruntime.InferenceSession(other.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(names, {"x": given["x"]})
    return {n.removeprefix("own_"): v for n, v in zip(names, found, strict=True)}


def test_a_recorded_int8_run_that_agrees_has_no_fault(tmp_path: Path) -> None:
    """What lies on 255 steps agrees as such; a softmax of nearly equal values is near to any other."""
    x, values = rounded(tmp_path / "reference.onnx")
    np.savez(tmp_path / "recorded.npz", **values)
    found = aligndbg.diff(tmp_path / "reference.onnx", tmp_path / "recorded.npz", {"x": x})
    assert (found.verdict, found.faults) == ("aligned", ())


def test_a_fault_in_a_recorded_int8_run_is_named(tmp_path: Path) -> None:
    x, _ = rounded(tmp_path / "reference.onnx")
    _, values = rounded(tmp_path / "wrong.onnx", wrong=2)
    np.savez(tmp_path / "recorded.npz", **values)
    found = aligndbg.diff(tmp_path / "reference.onnx", tmp_path / "recorded.npz", {"x": x})
    assert found.verdict == "diverged"
    assert [f.reference for f in found.faults] == ["r2"]
