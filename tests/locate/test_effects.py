"""What faults do at the outputs, in one unit whatever the pairs are judged in."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import numpy_helper

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
