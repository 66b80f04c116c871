"""How far two values are apart, as one number, where a mask's huge values must not hide the rest. Knows numpy only."""

from __future__ import annotations

import numpy as np

from aligndbg.core.types import Array

__all__ = ["distance", "huge_values"]

# A mask holds one huge value at many places (-3.4e38, -65504, -1e9): over 2,000 times the rms of the rest, and all
# within 1 % of each other. Measured apart from the rest, it no longer hides what is wrong there (DESIGN 5.1).
HUGE, ALIKE = 2e3, 1e-2


def distance(reference: Array, candidate: Array) -> float:
    """Relative L2 of two arrays of one shape, float64: |r - c| / |r|.

    Non-finite elements must be the same on both sides (inf otherwise) and are left out; where a mask's huge values are
    among them, those and the rest are measured apart, and the larger of the two counts. inf where only r is all zero.
    """
    r, c = np.asarray(reference, np.float64).reshape(-1), np.asarray(candidate, np.float64).reshape(-1)
    finite = np.isfinite(r)
    if not finite.all() or not np.isfinite(c).all():
        if not np.array_equal(finite, np.isfinite(c)) or not np.array_equal(r[~finite], c[~finite], equal_nan=True):
            return float("inf")
        r, c = r[finite], c[finite]
    masked = huge_values(r)
    if masked is None:
        return _relative(r, c)
    return max(_relative(r[masked], c[masked]), distance(r[~masked], c[~masked]))


def huge_values(values: Array) -> Array | None:
    """Where a mask's huge values lie, bool of the shape of `values` (finite, float64); None where there is no mask."""
    top = float(np.max(np.abs(values), initial=0.0))
    if not top > 0:
        return None
    high = np.abs(values) > top / 10
    count = int(np.count_nonzero(high))
    if not 1 < count < values.size or float(np.ptp(values[high])) > ALIKE * top:
        return None
    rest = float(np.sqrt(np.mean(np.square(values[~high]))))
    return high if 0 < rest < top / HUGE else None


def _relative(r: Array, c: Array) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        norm, apart = float(np.linalg.norm(r)), float(np.linalg.norm(r - c))
    if not np.isfinite(norm) or not np.isfinite(apart):  # squares past float64: scaled down first
        scale = float(np.max(np.abs(r), initial=0.0)) or 1.0
        norm, apart = float(np.linalg.norm(r / scale)), float(np.linalg.norm(r / scale - c / scale))
    return apart / norm if norm > 0 else (0.0 if apart == 0 else float("inf"))
