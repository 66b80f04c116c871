"""Torch operators in ONNX's words compute what torch computes, and planted faults get the right cause."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.core.types import Trace
from aligndbg.explain.to_program import canonical_program

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from aligndbg.backends.torch.backend import TorchBackend  # noqa: E402
from torch_networks import small  # noqa: E402

Array = np.ndarray[Any, np.dtype[Any]]
X = np.random.default_rng(0).standard_normal((2, 4, 10, 12)).astype(np.float32)


class Function(nn.Module):
    def __init__(self, function: Callable[[Any], Any], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)

    def forward(self, x: Any) -> Any:
        return self.function(x, *self.inner)


class First(nn.Module):
    """All the results of a recurrent module, and its last states added to them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        y, state = self.inner(x)
        states = state if isinstance(state, tuple) else (state,)
        return y + sum(s.mean() for s in states)


def captured(module: nn.Module, x: Array) -> tuple[Trace, dict[str, Array]]:
    torch.manual_seed(0)
    backend = TorchBackend(module.eval(), {"threads": "1"})
    trace = aligndbg.capture(backend, {next(iter(backend.graph().inputs)): x})
    wanted = sorted({i for n in trace.graph.nodes for i in n.inputs if i in trace.graph.constants})
    return trace, dict(backend.run({}, wanted)) if wanted else {}


def worst_form(trace: Trace, constants: dict[str, Array]) -> float:
    """The largest relative L2 error of a node's form, over all floating point nodes."""
    known = {**constants, **(trace.feeds or {}), **trace.values}
    worst = 0.0
    for node in trace.graph.nodes:
        for output in node.outputs:
            if output not in trace.values:
                continue
            inputs = [i for i in node.inputs if i not in constants]
            program = canonical_program(
                "torch", trace.graph, [node], inputs, output, constants, lambda name: tuple(known[name].shape)
            )
            (made,) = program.run({i: np.asarray(known[i]) for i in inputs})
            value = np.asarray(trace.values[output], np.float64)
            assert made.shape == value.shape, node.op_type
            apart = float(np.linalg.norm(made.astype(np.float64) - value)) / (float(np.linalg.norm(value)) or 1.0)
            worst = max(worst, apart)
    return worst


def _attention(x: Any) -> Any:
    q = x.flatten(2)
    mask = torch.linspace(-1, 1, 16).reshape(4, 4)
    return F.scaled_dot_product_attention(q, q + 1, q * 2, is_causal=True) + F.scaled_dot_product_attention(
        q + 1, q, q - 1, attn_mask=mask, scale=0.1
    )


def _shapes(x: Any) -> Any:
    left, right = x.chunk(2, 1)
    first, rest = x.split([1, 3], 1)
    parts = [left[:, :1, ::2], x.select(1, 2).unsqueeze(1)[:, :, :5], first[:, :, 1:6], rest.unbind(1)[1][:, None, -5:]]
    y = torch.cat(parts, 1).transpose(1, 2).permute(0, 2, 1, 3).contiguous()
    return (
        torch.stack([y, y.flip(-1)], -1).flatten(1, 2).repeat(1, 1, 2, 1),
        right.expand(2, 2, 10, 12),
        x.reshape(2, -1),
    )


CASES: dict[str, Callable[[Any], Any]] = {
    "binary": lambda x: (2 - x * x / 3) ** 2 - torch.add(x, x + 1, alpha=0.5) + torch.maximum(x, -x) + 2**x,
    "itself": lambda x: (x * x) + (x + x),
    "unary": lambda x: x.abs().sqrt().rsqrt() + x.exp().neg().sigmoid() + x.erf().tanh() + (x.square() + 1).log(),
    "in place": lambda x: x.clone().add_(1).mul_(x).relu_().clamp_(max=0.5),
    "activations": lambda x: (
        F.silu(x) + F.mish(x) + F.hardswish(x) + F.hardsigmoid(x) + F.elu(x, 0.7) + F.leaky_relu(x, 0.2) + F.softplus(x)
    ),
    "gelu": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "clips": lambda x: F.relu6(x) + F.hardtanh(x, -0.5, 0.7) + x.clamp(min=0.1) + x.clamp_max(0.2) + x.clamp(-1, 1),
    "where": lambda x: torch.where((x > 0) & (x < 1), x, -x) + x.masked_fill(x.le(0), 3.0),
    "softmax": lambda x: x.softmax(1) + x.log_softmax(-1),
    "pools": lambda x: (
        F.max_pool2d(x, 3, 2, 1, ceil_mode=True) + F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)[:, :, :6, :7],
        F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) + F.avg_pool2d(x, 3, 2, 1),
        F.adaptive_avg_pool2d(x, 1) + F.adaptive_avg_pool2d(x, (5, 4)).mean((2, 3), keepdim=True),
    ),
    "pads": lambda x: F.pad(
        F.pad(F.pad(x, (1, 0, 0, 2), value=3.0), (1, 2, 3, 1), "reflect"), (0, 1, 2, 0), "replicate"
    ),
    "resizes": lambda x: [
        F.interpolate(x, scale_factor=2.0, mode="nearest"),
        F.interpolate(x, size=(13, 7), mode="nearest"),
        F.interpolate(x, size=(13, 7), mode="bilinear"),
        F.interpolate(x, size=(13, 7), mode="bilinear", align_corners=True),
        F.interpolate(x, scale_factor=1.7, mode="bicubic"),
    ],
    "reductions": lambda x: (
        x.mean((2, 3)) + x.sum(3).amax(2) + x.mean() + x.amin(dim=(2, 3)) + F.normalize(x).sum((2, 3))
    ),
    "matrices": lambda x: torch.baddbmm(x[0], x[0] @ x[1].mT, x[1], beta=0.5, alpha=2.0).bmm(x[1].transpose(1, 2)),
    "attention": _attention,
    "shapes": _shapes,
    "placed": lambda x: (
        torch.zeros_like(x).index_add(1, torch.tensor([0, 2, 0, 2]), x)
        + torch.zeros_like(x).scatter(1, torch.ones(2, 4, 10, 12, dtype=torch.long), x)
        + torch.ones_like(x).scatter_add(2, torch.ones(2, 4, 10, 12, dtype=torch.long), x)
        + x.gather(3, torch.arange(12).flip(0).expand(2, 4, 10, 12))
    ),
    "picked": lambda x: (x.topk(3, dim=2)[0].sum() + x[torch.tensor([1, 0])], x.topk(2, largest=False)[0]),
    "spread": lambda x: x.var((2, 3)) + x.std((2, 3), correction=0) + x.var(1, unbiased=False).sum((1, 2))[:, None],
    "whole numbers": lambda x: torch.floor_divide(x * 5, 2) + ((torch.arange(12) - 6) // 4) * x,
    "einsum": lambda x: torch.einsum("abcd,abce->acde", x, x),
}


@pytest.mark.parametrize("name", CASES)
def test_forms_of_functions(name: str) -> None:
    assert worst_form(*captured(Function(CASES[name]), X)) < 5e-6


MODULES: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=(2, 1), dilation=(2, 1), groups=2),
    "conv, same": lambda: nn.Conv2d(4, 6, (4, 3), padding="same", bias=False),
    "conv transpose": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    "conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 5, 5, padding=2)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(4, eps=0.1), nn.BatchNorm2d(4, affine=False)),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(12), nn.LayerNorm([10, 12], bias=False)),
    "group norm": lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.GroupNorm(4, 4, affine=False)),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "linear": lambda: nn.Sequential(nn.Linear(12, 5), nn.Flatten(), nn.Linear(200, 3, bias=False)),
    "prelu": lambda: nn.PReLU(4),
    "recurrent": lambda: nn.Sequential(
        nn.Flatten(2),
        First(nn.GRU(120, 8, 2, batch_first=True, bidirectional=True)),
        First(nn.LSTM(16, 8)),
        First(nn.RNN(8, 5, nonlinearity="relu", bias=False)),
        First(nn.RNN(5, 6, batch_first=True)),
    ),
    "shuffle": lambda: nn.PixelShuffle(2),
    "small": small,
}


@pytest.mark.parametrize("name", MODULES)
def test_forms_of_modules(name: str) -> None:
    torch.manual_seed(1)
    module = MODULES[name]()
    for parameter in module.parameters():
        parameter.data.uniform_(-0.5, 1)
    x = X[:, :3, :8, :8].copy() if name == "small" else X
    assert worst_form(*captured(module, x)) < 5e-6


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_precisions(dtype: Any) -> None:
    module = nn.Sequential(nn.Linear(12, 7), nn.SiLU(), nn.Hardtanh(-0.1, 0.3)).to(
        torch.float64 if dtype == np.float64 else torch.float16
    )
    assert worst_form(*captured(module, X.astype(dtype))) < (1e-12 if dtype == np.float64 else 4e-3)


def test_a_tensor_changed_through_shared_memory_has_no_form() -> None:
    def shared(x: Any) -> Any:
        y = x * 2
        y[:, 0].add_(1)
        return y * 1.0

    trace, constants = captured(Function(shared), X)
    overlaid = [n for n in trace.graph.nodes if n.canonical == "ScatterND"]
    assert overlaid
    with pytest.raises(CannotEvaluateError, match="no canonical form"):
        canonical_program(
            "torch", trace.graph, overlaid, overlaid[0].inputs, overlaid[0].outputs[0], constants, lambda _: ()
        )


class Net(nn.Module):
    """Knobs for what can be wrong."""

    def __init__(
        self, pad: int = 1, epsilon: float = 1e-3, slope: float = 0.1, gelu: str = "none", axis: int = 1
    ) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 8, epsilon)
        self.down = nn.Conv2d(8, 8, 3, stride=2)
        self.down.weight.data *= 4  # into the part where the two forms of GELU differ
        self.head = nn.Linear(8, 5)
        self.pad, self.slope, self.gelu, self.axis = pad, slope, gelu, axis

    def forward(self, x: Any) -> Any:
        y = F.leaky_relu(self.norm(self.stem(x) * 0.05), self.slope)
        y = F.gelu(self.down(F.pad(y, (self.pad, 2 - self.pad, self.pad, 2 - self.pad))), approximate=self.gelu)
        return self.head(y.mean((2, 3))).reshape(1, -1, 5).softmax(self.axis)


def _bias(net: Net) -> None:
    net.down.bias.data[2] += 1.5  # (one of the head is a common offset before the softmax: no fault)


def _weight(net: Net) -> None:
    net.stem.weight.data[3] *= 1.7


PLANTED: list[tuple[str, dict[str, Any], Callable[[Net], None] | None]] = [
    ("padding", {"pad": 0}, None),
    ("epsilon", {"epsilon": 1e-2}, None),
    ("activation", {"slope": 0.3}, None),
    ("approximation", {"gelu": "tanh"}, None),
    ("axis", {"axis": 2}, None),
    ("bias", {}, _bias),
    ("weight", {}, _weight),
]


@pytest.mark.parametrize(("kind", "knobs", "change"), PLANTED, ids=[p[0] for p in PLANTED])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_planted_faults_get_the_right_cause(
    kind: str, knobs: dict[str, Any], change: Callable[[Net], None] | None, side: str
) -> None:
    clean, faulty = Net().eval(), Net(**knobs).eval()
    if change is not None:
        change(faulty)
    pair = (clean, faulty) if side == "candidate" else (faulty, clean)
    found = aligndbg.diff(*pair, X, details=False)
    (fault,) = found.faults
    assert fault.cause is not None
    assert fault.cause.kind == kind, fault.cause.summary
    assert fault.cause.after is not None
    assert fault.cause.before is not None
    assert fault.cause.after < 0.2 * fault.cause.before


def test_a_clean_pair_has_no_cause() -> None:
    found = aligndbg.diff(Net().eval(), Net().eval(), X, details=False)
    assert not found.faults
    assert not found.causes


def test_the_reproduction_runs_without_torch(tmp_path: Path) -> None:
    found = aligndbg.diff(Net().eval(), Net(pad=0).eval(), X, details=False, repro=tmp_path)
    assert found.faults
    folder = tmp_path / "fault_1"
    about = json.loads((folder / "about.json").read_text())
    assert about["reference"]["file"] == "reference.onnx"
    assert about["candidate"]["file"] == "candidate.onnx"
    done = subprocess.run([sys.executable, "repro.py"], cwd=folder, capture_output=True, text=True, check=True)
    (error,) = [float(line.split(":")[1]) for line in done.stdout.splitlines() if line.startswith("relative L2")]
    assert error == pytest.approx(found.faults[0].isolated_error, rel=1e-3)
