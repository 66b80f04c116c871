"""Values rounded to a coarser number format: fp16, bf16, fp8, and integers with a scale."""

from __future__ import annotations

import numpy as np

from aligndbg.core.types import Array
from aligndbg.explain.thresholds import (
    FEWEST_DISTINCT,
    FEWEST_VALUES,
    LESS_THAN_ROUNDING,
    ROUNDING_COST,
    ROUNDING_LEAVES,
)

__all__ = ["NUMBER_FORMATS", "held_format", "round_to", "rounded_to"]


NUMBER_FORMATS = ("float16", "bfloat16", "int8", "int8 per channel", "float8_e4m3fn", "float8_e5m2")


def round_to(value: Array, number_format: str) -> Array:
    """`value` rounded, in its own dtype; int8 is symmetric, max|v| / 127, and may be per channel of the first axis."""
    if number_format.startswith("int8"):
        axes = tuple(range(1, value.ndim)) if "channel" in number_format and value.ndim > 1 else None
        step = np.max(np.abs(value), axis=axes, keepdims=True) / 127
        step = np.where(step > 0, step, 1.0)
        out: Array = (np.round(value / step) * step).astype(value.dtype)
        return out
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, number_format, number_format))
    with np.errstate(over="ignore"):
        return value.astype(dtype).astype(value.dtype)


def rounded_to(reference: Array, candidate: Array) -> tuple[str, str] | None:
    """(side, format) where that side's values are the other's rounded; None for any other difference."""
    if reference.dtype.kind != "f" or candidate.dtype.kind != "f":
        return None
    apart = float(np.linalg.norm(reference.astype(np.float64) - candidate))
    for number_format in NUMBER_FORMATS if apart else ():
        for side, source, target in (("candidate", reference, candidate), ("reference", candidate, reference)):
            rounded = round_to(source, number_format).astype(np.float64)
            changed = float(np.linalg.norm(rounded - source))
            if changed and float(np.linalg.norm(rounded - target)) <= ROUNDING_LEAVES * apart:
                return side, number_format
    return None


def held_format(value: Array, apart: float) -> str | None:
    """The format that all of `value` is in already, if `apart` (relative L2) is what rounding to it costs."""
    if value.dtype != np.float32 or value.size < FEWEST_VALUES or np.unique(value).size < FEWEST_DISTINCT:
        return None
    for number_format, cost in ROUNDING_COST:
        if apart <= cost and np.array_equal(round_to(value, number_format), value):
            return number_format if apart > cost / LESS_THAN_ROUNDING else None
    return None
