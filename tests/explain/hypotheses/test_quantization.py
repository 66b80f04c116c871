"""Scales and zero points that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aligndbg
from causes import EitherSide, Planted
from nets import Middle, Net


def dequantized(scale: float, zero: int = 0) -> Middle:
    """Quantized in steps of 0.02 from 0, and read back with another scale or zero point."""

    def build(net: Net, x: str) -> str:
        stored = net.op("QuantizeLinear", [x, net.constant("s", 0.02), net.constant("z", 0, np.int8)], "stored")
        back = [net.constant("back_s", scale), net.constant("back_z", zero, np.int8)]
        return net.op("DequantizeLinear", [stored, *back], "middle")

    return build


class TestQuantization(EitherSide):
    PLANTED = (
        Planted("quantizer_scale", "quantization_scale", dequantized(0.02), dequantized(0.03)),
        Planted("zero_point", "quantization_scale", dequantized(0.02), dequantized(0.02, 9)),
    )


@pytest.mark.parametrize("factor", [0.6, 1.3])
@pytest.mark.parametrize("layer", [3, 6])
def test_a_scale_of_int8_weights_that_does_not_fit(tmp_path: Path, fixtures: Path, layer: int, factor: float) -> None:
    """The weights' stored integers stay; only the number that they are multiplied by is another."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    packed = bytearray((fixtures / "cnn_int8.tflite").read_bytes())
    model = schema.ModelT.InitFromPackedBuf(packed, 0)
    graph = model.subgraphs[0]
    quantization = graph.tensors[graph.operators[layer].inputs[1]].quantization
    quantization.scale = (np.asarray(quantization.scale) * factor).astype(np.float32)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "scaled.tflite"
    path.write_bytes(bytes(builder.Output()))
    fed = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 40)).astype(np.float32)
    (fault,) = aligndbg.diff(fixtures / "cnn.onnx", path, fed, checks=False).faults
    assert fault.isolated_unit == "lsb"
    assert fault.cause is not None
    assert fault.cause.kind == "quantization_scale", fault.cause.summary
    told = fault.cause.details.get("factor", fault.cause.details.get("ratio"))  # of the values, or of the weights
    assert told == pytest.approx(factor, rel=0.03)
