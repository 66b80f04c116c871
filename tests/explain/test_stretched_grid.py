"""A grid calibrated with a mask: the scores fall between its steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aligndbg
from aligndbg.core.types import Fault, Layout, LayoutKind, Pair, Quant
from aligndbg.diff_result import Diff
from aligndbg.explain.stretched_grid import stretched_by_mask
from judging import trace
from nets import Net

ROWS, COLUMNS = 8, 16
MASK = np.tril(np.ones((ROWS, ROWS), bool))


def attention(path: Path, low: float, grid: tuple[float, float] | None = None, dtype: type = np.int8) -> Path:
    """Scores, a mask, a softmax; with `grid` (least and greatest value) the masked scores are put on one and back."""
    net = Net()
    net.op("MatMul", ["x", net.weight("w", COLUMNS, COLUMNS)], "q")
    net.op("Transpose", ["q"], "k", perm=[0, 2, 1])
    net.op("MatMul", ["x", "k"], "s")
    net.op("Add", ["s", net.constant("mask", np.where(MASK, 0, low))], "a")
    scores = "a"
    if grid is not None:
        limits = np.iinfo(dtype)
        step = np.float32((grid[1] - grid[0]) / (limits.max - limits.min))
        parts = [
            net.constant("step", step),
            net.constant("zero", round(limits.min - grid[0] / float(step)), dtype),
        ]
        stored = net.op("QuantizeLinear", ["a", *parts], "stored")
        scores = net.op("DequantizeLinear", [stored, *parts], "back")
    net.op("Softmax", [scores], "p", axis=-1)
    return net.save(path, net.op("MatMul", ["p", "q"], "y"), (1, ROWS, COLUMNS))


def compared(*paths: Path) -> Diff:
    x = np.random.default_rng(2).standard_normal((1, ROWS, COLUMNS)).astype(np.float32)
    return aligndbg.diff(*paths, {"x": x}, checks=False)


@pytest.mark.parametrize("low", [-3.4e38, -65504.0, -1e4])
@pytest.mark.parametrize("swapped", [False, True])
def test_the_grid_that_a_mask_stretches_is_the_fault(tmp_path: Path, low: float, swapped: bool) -> None:
    paths = attention(tmp_path / "a.onnx", low), attention(tmp_path / "b.onnx", low, (low, 8.0))
    found = compared(*(paths[::-1] if swapped else paths))
    assert found.verdict == "diverged"
    (fault,) = found.faults
    assert (fault.candidate if not swapped else fault.reference) in ("a", "back")
    assert fault.cause is not None
    assert fault.cause.kind == "quantization_scale"
    assert "a mask of" in fault.cause.summary
    assert fault.cause.before == pytest.approx(1.0, abs=0.2)
    assert fault.cause.after < 0.02


@pytest.mark.parametrize(
    ("low", "grid", "dtype"), [(-100.0, (-100.0, 8.0), np.int8), (-3.4e38, (-30.0, 8.0), np.int8)], ids=["-100", "cut"]
)
def test_a_mask_that_leaves_room_on_the_grid_is_none(
    tmp_path: Path, low: float, grid: tuple[float, float], dtype: type
) -> None:
    paths = attention(tmp_path / "a.onnx", low), attention(tmp_path / "b.onnx", low, grid, dtype)
    found = compared(*paths)
    assert (found.verdict, found.faults) == ("aligned", ())


def test_what_both_sides_lose_alike_is_no_fault(tmp_path: Path) -> None:
    path = attention(tmp_path / "b.onnx", -3.4e38, (-3.4e38, 8.0))
    found = compared(path, path)
    assert (found.verdict, found.faults) == ("aligned", ())


def test_a_grid_without_end_is_told_too() -> None:
    """A mask of -inf, calibrated: the scale is inf, and what is read NaN."""
    real = np.where(MASK, np.linspace(-1, 1, MASK.size).reshape(MASK.shape), -np.inf).astype(np.float32)
    endless = Quant(np.array([np.inf], np.float32), np.array([0]))
    left, right = trace({"a": real}), trace({"a": np.zeros(MASK.shape, np.int8)}, quants={"a": endless})
    pair = Pair("a", "a", Layout(LayoutKind.IDENTITY, MASK.shape, (0, 1), MASK.shape, MASK.shape), "value", 1.0)
    cause = stretched_by_mask(Fault("a", "a", "Add", "Add", 1.0, "rel_l2"), [pair], left, right)
    assert cause is not None
    assert (cause.kind, cause.before) == ("quantization_scale", np.inf)
    assert cause.after < 0.02
    assert "a mask of -inf" in cause.summary
