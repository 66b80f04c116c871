"""A tensor's layout-free fingerprint: the same for any permutation of its elements, up to rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aligndbg.core.types import Array, Quant
from aligndbg.measure.blocks import BLOCK, Moments, Reader, Tiling

__all__ = ["Fingerprint", "fingerprint"]


@dataclass(frozen=True)
class Fingerprint:
    """Moments of the finite elements; `count` counts all. All in the tensor's own unit, nan where nothing is finite.

    `third` is mean(x |x|) / rms, an odd moment that tells a tensor from its mirror image without the noise of a cube.
    """

    count: int
    finite: int
    mean: float
    mean_abs: float
    rms: float
    third: float
    min: float
    max: float
    zeros: int
    constant: bool

    def distance(self, other: Fingerprint) -> float:
        """0 for equal ones; else the largest difference of the moments, in units of the larger rms.

        inf where the counts differ, or where nothing finite or an overflow leaves nothing to compare. `zeros` is left
        out: rounding makes and unmakes them.
        """
        if (self.count, self.finite) != (other.count, other.finite) or not self.finite:
            return math.inf
        apart = max(abs(x - y) for x, y in zip(self._moments(), other._moments(), strict=True))
        scale = max(self.rms, other.rms)
        if not math.isfinite(apart) or not math.isfinite(scale):
            return math.inf
        return apart / scale if scale else apart

    def _moments(self) -> tuple[float, ...]:
        return (self.mean, self.mean_abs, self.rms, self.third, self.min, self.max)


def fingerprint(array: Array, quant: Quant | None = None) -> Fingerprint:
    """The fingerprint of an array of any shape, stride order and real dtype; dequantized where `quant` is given.

    Raises UsageError for a dtype without a real value.
    """
    reader = Reader(array, quant)
    tiling = Tiling(reader.arrays or [array])
    ordered, moments = reader.sorted(tiling), Moments()
    buffers = np.empty((2, min(BLOCK, max(1, array.size))))
    with np.errstate(all="ignore"):
        for block in tiling.blocks():
            x = ordered.read(block, buffers[0])
            if not math.isfinite(float(np.dot(x, x))):
                x = moments.without_nonfinite(x, np.isfinite(x))
            moments.add(x)
            moments.add_absolute(x, buffers[1])
    return _from_moments(array.size, moments)


def _from_moments(count: int, moments: Moments) -> Fingerprint:
    if not moments.finite:
        nothing = math.nan
        return Fingerprint(count, 0, nothing, nothing, nothing, nothing, nothing, nothing, 0, False)
    rms = math.sqrt(moments.squares / moments.finite)
    return Fingerprint(
        count=count,
        finite=moments.finite,
        mean=moments.mean,
        mean_abs=moments.total_abs / moments.finite,
        rms=rms,
        third=moments.signed_squares / moments.finite / rms if rms else 0.0,
        min=moments.least,
        max=moments.greatest,
        zeros=moments.zeros,
        constant=moments.constant,
    )
