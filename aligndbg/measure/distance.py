"""How far two values are apart, as one number; a mask's huge values do not hide the rest. Knows numpy only."""

from __future__ import annotations

import math

import numpy as np

from aligndbg.core.types import Array
from aligndbg.measure.blocks import Reader
from aligndbg.measure.sums import PairSums, Sums

__all__ = ["distance"]


def distance(reference: Array, candidate: Array) -> float:
    """Relative L2 of two arrays of one shape, any real dtype: |r - c| / |r|.

    A mask's huge values and the rest are measured apart, as in `metrics.compare`, and the larger of the two counts.
    Non-finite elements must be the same on both sides (inf otherwise) and are left out. inf where only r is all zero.
    """
    r, c = np.asarray(reference), np.asarray(candidate)
    sums = PairSums(Reader(r, None), Reader(c, None))
    if sums.whole.mismatch:
        return math.inf
    parts = [sums.rest] if sums.masked is None else [sums.rest, sums.masked]
    if any(not math.isfinite(part.squares + part.reference.squares) for part in parts):  # past float64 once squared
        top = max(side.largest for side in (sums.whole.reference, sums.whole.candidate))
        return distance(r.astype(np.float64) / top, c.astype(np.float64) / top)
    return max(map(_relative, parts))


def _relative(part: Sums) -> float:
    norm, apart = math.sqrt(part.reference.squares), math.sqrt(part.squares)
    return apart / norm if norm > 0 else (0.0 if apart == 0 else math.inf)
