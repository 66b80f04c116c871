"""What faults do at the outputs, in one unit whatever the pairs are judged in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg


def test_effects_on_a_grid_are_relative_to_the_values(tmp_path: Path, fixtures: Path) -> None:
    model = onnx.load(fixtures / "cnn.onnx")
    stored = next(i for i in model.graph.initializer if i.name == "spatial.weight")
    weight = numpy_helper.to_array(stored).copy()
    weight[0] *= -1
    stored.CopyFrom(numpy_helper.from_array(weight, stored.name))
    onnx.save(model, tmp_path / "other.onnx")
    found = aligndbg.diff(tmp_path / "other.onnx", fixtures / "cnn_int8.tflite")
    (fault,) = found.faults
    assert (fault.reference, fault.isolated_unit) == ("/spatial/Conv_output_0", "lsb")
    assert fault.effect is not None
    assert found.corrected is not None
    (out,) = (m for m in found.pairs if m.pair.reference in found.corrected)
    assert found.corrected[out.pair.reference] < out.metrics.rel_l2 / 2
    assert 0.5 < fault.effect.alone[out.pair.reference] / out.metrics.rel_l2 < 2


def test_of_faults_in_a_row_each_has_its_own_effect(tmp_path: Path) -> None:
    """Correcting the second one's output would hide the first."""

    def network(path: Path, first: float, second: float) -> Path:
        rng = np.random.default_rng(0)
        weights = [rng.standard_normal((6, 6)).astype(np.float32) * by for by in (first, 1.0, second, 1.0)]
        nodes, x = [], "x"
        for k in range(4):
            nodes += [helper.make_node("MatMul", [x, f"w{k}"], [f"m{k}"], name=f"matmul{k}")]
            nodes += [helper.make_node("Tanh", [f"m{k}"], [x := f"t{k}"], name=f"tanh{k}")]
        ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 6])] for n in ("x", x)]
        stored = [numpy_helper.from_array(weight, f"w{k}") for k, weight in enumerate(weights)]
        graph = helper.make_graph(nodes, "g", *ends, stored)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return path

    right, both = network(tmp_path / "right.onnx", 1, 1), network(tmp_path / "both.onnx", 1.5, 0.7)
    x = np.random.default_rng(1).standard_normal((2, 6)).astype(np.float32)
    found = aligndbg.diff(right, both, {"x": x})
    assert [fault.reference for fault in found.faults] == ["m0", "m2"]
    for k, (fault, spoilt) in enumerate(zip(found.faults, ((1.5, 1), (1, 0.7)), strict=True)):
        alone = aligndbg.diff(right, network(tmp_path / f"only{k}.onnx", *spoilt), {"x": x}, isolate=False)
        other = aligndbg.diff(
            right, network(tmp_path / f"not{k}.onnx", *((1, 0.7), (1.5, 1))[k]), {"x": x}, isolate=False
        )
        assert fault.effect is not None
        assert fault.effect.alone["t3"] == pytest.approx(alone.pairs[-1].metrics.rel_l2, rel=1e-3)
        assert fault.effect.corrected["t3"] == pytest.approx(other.pairs[-1].metrics.rel_l2, rel=1e-3)
