"""Quantized torch programs: judged on the grids of their weights, as quantized ONNX and TFLite files are."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligndbg import diff
from aligndbg.backends.torch.backend import TorchBackend

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
X = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 8)).eval()


def dynamic(module: nn.Module, kinds: set[Any], dtype: Any = None) -> nn.Module:
    quantization = pytest.importorskip("torch.ao.quantization")
    return quantization.quantize_dynamic(copy.deepcopy(module), kinds, dtype=dtype or torch.qint8)


def test_a_dynamically_quantized_module_is_aligned_with_the_float_one() -> None:
    module, quantized = network(), dynamic(network(), {nn.Linear})
    found = diff(module, quantized, X)
    assert found.verdict == "aligned"
    assert found.coverage["reference"].compared == 5
    own = [m.isolated.rel_l2 for m in found.pairs if m.isolated is not None]
    assert 1e-3 < max(own) < 5e-2  # it is not what a float module would get away with
    assert diff(quantized, module, X).verdict == "aligned"


def test_a_fault_under_dynamic_quantization_is_found() -> None:
    spoilt = network()
    with torch.no_grad():
        spoilt[2].weight[3] *= 1.8
    faults = diff(network(), dynamic(spoilt, {nn.Linear}), X).faults
    assert [f.reference for f in faults] == ["2:linear@0"]


def test_packed_weights_are_read_with_their_scales() -> None:
    quantized = dynamic(network(), {nn.Linear})
    backend = TorchBackend(quantized, {})
    list(backend.run({"input": X}, ()))
    graph = backend.graph()
    node = graph.nodes[0]
    assert node.canonical == "Gemm"
    name = node.inputs[1]
    info = graph.tensors[name]
    assert info.dtype == "int8"
    assert name in graph.constants
    ((_, stored),) = backend.run({}, [name])
    assert info.quant is not None
    step = float(info.quant.scale.max())
    np.testing.assert_allclose(info.quant.dequantize(stored), network()[0].weight.detach(), atol=step / 2 * 1.001)


def test_half_weights_and_recurrent_cells_under_dynamic_quantization() -> None:
    assert diff(network(), dynamic(network(), {nn.Linear}, torch.float16), X).verdict == "aligned"
    torch.manual_seed(0)
    recurrent = nn.Sequential(nn.LSTM(32, 8)).eval()
    assert diff(recurrent, dynamic(recurrent, {nn.LSTM}), X[:, None]).verdict == "aligned"


class Grids(nn.Module):
    """Quantize and dequantize around a Linear of int8 weights, as torch's exporters write them."""

    def __init__(self, float_one: nn.Linear, weight_scale: float = 1.0) -> None:
        super().__init__()
        weight = float_one.weight.detach()
        scales = weight.abs().amax(1) / 127
        self.register_buffer("stored", torch.round(weight / scales[:, None]).to(torch.int8))
        self.register_buffer("scales", scales * weight_scale)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))
        self.register_buffer("bias", float_one.bias.detach())

    def forward(self, x: Any) -> Any:
        ops = torch.ops.quantized_decomposed
        q = ops.quantize_per_tensor(x, 0.03, 3, -128, 127, torch.int8)
        x = ops.dequantize_per_tensor(q, 0.03, 3, -128, 127, torch.int8)
        weight = ops.dequantize_per_channel(self.stored, self.scales, self.zeros, 0, -128, 127, torch.int8)
        return nn.functional.linear(x, weight, self.bias).relu()


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch.ao.quantization.fx._decomposed")
    folder = tmp_path_factory.mktemp("grids")
    linear = network()[0]
    made = {"float": nn.Sequential(linear, nn.ReLU()), "int8": Grids(linear), "spoilt": Grids(linear, 1.5)}
    for name, module in made.items():
        torch.export.save(torch.export.export(module.eval(), (torch.from_numpy(X),)), folder / f"{name}.pt2")
    return {name: folder / f"{name}.pt2" for name in made}


def test_quantize_and_dequantize_operators_carry_their_grids(grids: dict[str, Path]) -> None:
    graph = TorchBackend(str(grids["int8"]), {}).graph()
    assert {n.canonical for n in graph.nodes} == {"QuantizeLinear", "DequantizeLinear", "Gemm", "Relu"}
    made = graph.tensors["quantize_per_tensor"].quant
    assert made is not None
    assert (made.scale.tolist(), made.zero_point.tolist()) == ([pytest.approx(0.03)], [3])
    weight = graph.tensors["stored"].quant
    assert weight is not None
    assert (weight.axis, weight.scale.size) == (0, 64)


def test_a_program_on_grids_is_aligned_with_the_float_one_and_a_wrong_scale_is_a_fault(grids: dict[str, Path]) -> None:
    assert diff(grids["float"], grids["int8"], X).verdict == "aligned"
    (fault,) = diff(grids["float"], grids["spoilt"], X).faults
    assert fault.reference == "linear"


def test_a_program_on_grids_opens_where_nothing_else_was_imported(grids: dict[str, Path]) -> None:
    words = [sys.executable, "-m", "aligndbg", "layers", str(grids["int8"])]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "dequantize_per_channel" in shown.stdout
