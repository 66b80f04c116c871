"""Values put on a coarser grid: fp16, bf16, fp8, and integers with a scale."""

from __future__ import annotations

import numpy as np

from aligndbg.core.types import Array

__all__ = ["GRIDS", "held_grid", "round_to", "rounded_to"]


GRIDS = ("float16", "bfloat16", "int8", "int8 per channel", "float8_e4m3fn", "float8_e5m2")
# The coarsest first, each with the largest relative error (rms over the whole) that rounding to it leaves.
HELD = (("float8_e5m2", 0.1), ("float8_e4m3fn", 0.06), ("int8", 0.06), ("bfloat16", 3e-3), ("float16", 4e-4))
FEWEST, DISTINCT = 48, 8  # values, fewer of which may be on a grid by chance
LEFT = 0.05  # of the difference that rounding may leave: folded factors move a few values to the next step


def round_to(value: Array, grid: str) -> Array:
    """`value` on a grid, in its own dtype; per channel along its first axis. Integers are symmetric, max|v| / 127."""
    if grid.startswith("int8"):
        axes = tuple(range(1, value.ndim)) if "channel" in grid and value.ndim > 1 else None
        step = np.max(np.abs(value), axis=axes, keepdims=True) / 127
        step = np.where(step > 0, step, 1.0)
        out: Array = (np.round(value / step) * step).astype(value.dtype)
        return out
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, grid, grid))
    with np.errstate(over="ignore"):
        return value.astype(dtype).astype(value.dtype)


def rounded_to(reference: Array, candidate: Array) -> tuple[str, str] | None:
    """(side, grid) where that side's values are the other's rounded; None for any other difference."""
    if reference.dtype.kind != "f" or candidate.dtype.kind != "f":
        return None
    apart = float(np.linalg.norm(reference.astype(np.float64) - candidate))
    for grid in GRIDS if apart else ():
        for side, source, target in (("candidate", reference, candidate), ("reference", candidate, reference)):
            rounded = round_to(source, grid).astype(np.float64)
            changed = float(np.linalg.norm(rounded - source))
            if changed and float(np.linalg.norm(rounded - target)) <= LEFT * apart:
                return side, grid
    return None


def held_grid(value: Array, apart: float) -> str | None:
    """The grid that all of `value` is on already, if `apart` (relative L2) is what rounding to it costs."""
    if value.dtype != np.float32 or value.size < FEWEST or np.unique(value).size < DISTINCT:
        return None
    for grid, cost in HELD:
        if apart <= cost and np.array_equal(round_to(value, grid), value):
            return grid if apart > cost / 30 else None
    return None
