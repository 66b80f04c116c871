"""A float side that computes from what the quantized side holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg.core.types import Array, Graph, Node, Quant, TensorInfo
from aligndbg.locate.fake_quantize import FakeQuantizer


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_quantized_reference_is_judged_as_fairly_as_a_quantized_candidate(fixtures: Path, seed: int) -> None:
    files = fixtures / "cnn_int8.tflite", fixtures / "cnn.onnx"
    found = aligndbg.diff(*files, seed=seed, checks=False)
    assert found.verdict == "aligned"
    assert found.faults == ()
    assert max(m.isolated.lsb_max or 0 for m in found.pairs if m.isolated) <= 1.5


def test_a_fault_against_a_quantized_reference(fixtures: Path, tmp_path: Path) -> None:
    model = onnx.load(fixtures / "cnn.onnx")
    node = next(n for n in model.graph.node if n.name == "/mix/Conv")
    weight = next(i for i in model.graph.initializer if i.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.3), weight.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    found = aligndbg.diff(fixtures / "cnn_int8.tflite", tmp_path / "wrong.onnx", checks=False)
    (fault,) = found.faults
    assert "/mix/Conv" in fault.region_candidate.nodes


@pytest.fixture(scope="module")
def qdq(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture network as ONNX Runtime quantizes it: float operators between QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Two(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.left = [{"input": rng.random((1, 3, 32, 40), np.float32)} for _ in range(2)]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    path = tmp_path_factory.mktemp("qdq") / "cnn_qdq.onnx"
    quantize_static(fixtures / "cnn.onnx", path, Two(), quant_format=QuantFormat.QDQ, per_channel=True)
    return path


def test_an_explicitly_quantized_model_is_judged_on_what_its_operators_read(fixtures: Path, qdq: Path) -> None:
    for files in ((fixtures / "cnn.onnx", qdq), (qdq, fixtures / "cnn.onnx")):
        found = aligndbg.diff(*files, seed=0, checks=False)
        assert found.verdict == "aligned"
        assert found.faults == ()
    found = aligndbg.diff(fixtures / "cnn.onnx", qdq, seed=0, checks=False)
    own = [m.isolated.rel_l2 for m in found.pairs if m.isolated and m.isolated.lsb_max is None]
    assert len(own) > 12
    assert max(own) < 2e-4


def test_a_fault_of_two_percent_in_an_explicitly_quantized_model(fixtures: Path, qdq: Path, tmp_path: Path) -> None:
    model = onnx.load(qdq)
    scale = next(i for i in model.graph.initializer if i.name == "mix.weight_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.02), scale.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    (fault,) = aligndbg.diff(fixtures / "cnn.onnx", tmp_path / "wrong.onnx", seed=0, checks=False).faults
    assert "/mix/Conv" in fault.region_candidate.nodes


def test_a_scale_that_differs_between_quantizing_and_back_is_a_fault(fixtures: Path, qdq: Path, tmp_path: Path) -> None:
    model = onnx.load(qdq)
    back = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.output[0].startswith("/squeeze"))
    wrong = numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == back.input[1])) * np.float32(1.3)
    model.graph.initializer.append(numpy_helper.from_array(wrong, "wrong"))
    back.input[1] = "wrong"
    onnx.save(model, tmp_path / "wrong.onnx")
    (fault,) = aligndbg.diff(fixtures / "cnn.onnx", tmp_path / "wrong.onnx", seed=0, checks=False).faults
    assert back.name in fault.region_candidate.nodes


@pytest.mark.parametrize(("scale", "cut"), [(0.02, False), (0.004, True)])
def test_values_that_a_range_cuts_off_are_a_finding_and_no_fault(tmp_path: Path, scale: float, cut: bool) -> None:
    rng = np.random.default_rng(0)
    weights = [(0.3 * rng.standard_normal(s)).astype(np.float32) for s in ((8, 3, 3, 3), (4, 8, 3, 3))]
    constants = [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights)]
    grid = [numpy_helper.from_array(np.float32(scale), "s"), numpy_helper.from_array(np.int8(-128), "z")]

    def model(path: Path, quantized: bool) -> str:
        nodes = [helper.make_node("Conv", ["x", "w0"], ["c"], "first"), helper.make_node("Relu", ["c"], ["r"], "relu")]
        if quantized:
            nodes.append(helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], "down"))
            nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "up"))
        nodes.append(helper.make_node("Conv", ["d" if quantized else "r", "w1"], ["y"], "second"))
        shapes = {"x": [1, 3, 12, 12], "y": [1, 4, 8, 8]}
        ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in shapes.items()]
        graph = helper.make_graph(nodes, "g", *ends, constants + (grid if quantized else []))
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return str(path)

    found = aligndbg.diff(model(tmp_path / "a.onnx", False), model(tmp_path / "b.onnx", True), seed=0)
    assert found.faults == ()
    assert [(c["reference"], c["candidate"]) for c in found.checks["clipped"]] == [("r", "q")] * cut
    assert any("cut off values" in w for w in found.warnings) == cut


def folded(value: Array, factor: Array, dtype: Any = np.int8) -> tuple[FakeQuantizer, Array]:
    """A weight (out, in, h, w) beside the integers that its channels times `factor` were stored as; and what those
    leave of it."""
    moved = value * factor.reshape(-1, 1, 1, 1)
    steps = (np.abs(moved).reshape(len(factor), -1).max(axis=1) / np.iinfo(dtype).max).astype(np.float32)
    stored = np.round(moved / steps.reshape(-1, 1, 1, 1)).astype(dtype)
    quant = Quant(steps, np.zeros(len(factor), np.int64), 0)
    infos = TensorInfo("w", value.shape, "float32"), TensorInfo("q", value.shape, np.dtype(dtype).name, quant)
    graphs = [
        Graph((Node("Conv", "conv", ("x", i.name), ("c",)),), {i.name: i}, ("x",), ("c",), frozenset({i.name}))
        for i in infos
    ]
    left = quant.dequantize(stored) / factor.reshape(-1, 1, 1, 1)
    return FakeQuantizer(*graphs, lambda names: {"w": value}, lambda names: {"q": stored}), left.astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_a_normalization_folded_into_a_weight_is_taken_out_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(6, 1, 3, 3)).astype(np.float32)
    factor = (rng.uniform(0.02, 30, 6) * rng.choice([-1, 1], 6)).astype(np.float32)
    quantizer, left = folded(value, factor)
    found = quantizer.weights({"c": "c"})["w"]
    assert np.abs(found - left).max() <= 2e-6 * np.abs(left).max()
    assert np.abs(found - value).max() > 1e-3, "the grid leaves another weight"


def test_one_faulty_channel_is_put_on_the_grid_that_a_converter_would_choose(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    value, factor = rng.normal(size=(6, 4, 3, 3)).astype(np.float32), rng.uniform(0.5, 2, 6).astype(np.float32)
    wrong = value.copy()
    wrong[2, 1] *= np.float32(1.5)
    quantizer, left = folded(wrong, factor)
    quantizer._read = (lambda names: {"w": value}), quantizer._read[1]
    found = quantizer.weights({"c": "c"})["w"]
    step = np.abs(value[2]).max() / 127
    assert np.abs(found[2] - value[2]).max() <= 0.51 * step, "its own weights, rounded"
    assert np.abs(np.delete(found - left, 2, axis=0)).max() <= 2e-6 * np.abs(left).max()


def test_another_weight_of_the_size_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    quantizer, _ = folded(rng.normal(size=(6, 4, 3, 3)).astype(np.float32), np.ones(6, np.float32))
    other = rng.normal(size=(6, 4, 3, 3)).astype(np.float32)
    quantizer._read = (lambda names: {"w": other}), quantizer._read[1]
    assert quantizer.weights({"c": "c"}) == {}


def test_a_folded_factor_that_is_nearly_one_is_no_one() -> None:
    """Of most channels the factor is told by the largest weight; one that also fits must not be taken for a few."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 9)).astype(np.float32)
    factor = rng.uniform(0.5, 2, (8, 1)).astype(np.float32)
    factor[3] = 1.0015
    folded = weight * factor
    scale = np.abs(folded).max(axis=1) / 127
    integers = np.round(folded / scale[:, None]).astype(np.int8)
    quant = Quant(scale.astype(np.float32), np.zeros(8, np.int64), 0)
    infos = TensorInfo("w", (8, 9), "float32"), TensorInfo("w", (8, 9), "int8", quant)
    gemm = Node("Gemm", "gemm", ("x", "w"), ("y",))
    graphs = [Graph((gemm,), {"w": info}, ("x",), ("y",), frozenset({"w"})) for info in infos]
    quantizer = FakeQuantizer(*graphs, lambda _: {"w": weight}, lambda _: {"w": integers})
    (found,) = quantizer.weights({"y": "y"}).values()
    assert np.allclose(found * factor, quant.dequantize(integers), rtol=1e-5, atol=1e-7)
