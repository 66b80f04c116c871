"""How absolute error and reference value go together, kept small: what |d| <= atol + rtol |r| can be asked of later.

Two statistics of the points (|r|, |d|) of a pair of tensors. The upper left of their convex hull says exactly whether
any element violates a limit, for every atol and rtol there is: the largest |d| - rtol |r| is at one of its corners. A
histogram in both, two bins an octave, bounds how many do. Knows numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aligndbg.core.types import Array

__all__ = ["JointBuilder", "JointErrors"]


_SHIFT = 51  # of a float64's bits: what is left is its exponent and one bit of its mantissa
_LEAST_REFERENCE, _LEAST_ERROR = 2.0**-40, 2.0**-60
_BINS = 160  # 80 octaves from the least; what is below or above goes into the first and the last bin
_SAMPLE = 256  # points from which a first hull is made, so that few others have to be looked at
MAX_CORNERS = 1024
SLACK = 1e-13  # points that lie on the hull but for rounding (d = c r) would all be corners


def _bin_of(value: float) -> int:
    return int(np.float64(value).view(np.int64) >> _SHIFT)


def _edges(least: float) -> tuple[Array, Array]:
    """Lower and upper ends of the bins, the outer ones open."""
    ends = (np.arange(_BINS + 1, dtype=np.int64) + _bin_of(least) << _SHIFT).view(np.float64)
    low, high = ends[:-1].copy(), ends[1:].copy()
    low[0], high[-1] = 0.0, np.inf
    return low, high


_REFERENCE_EDGES, _ERROR_EDGES = _edges(_LEAST_REFERENCE), _edges(_LEAST_ERROR)


@dataclass(frozen=True, eq=False)
class JointErrors:
    """`corners` float64 (n, 2): |r| and |d|, both ascending; `cells` int64 (m, 3): bin of |r|, bin of |d|, elements.

    Elements with d = 0 are in neither. No |d| is above (1 + slack) times the hull; `largest` is the largest one.
    """

    corners: Array
    cells: Array
    largest: float = 0.0
    slack: float = 0.0

    def violations(self, atol: float, rtol: float) -> tuple[int, int]:
        """The least and the most elements that can have |d| > atol + rtol |r|, computed in float64; atol, rtol >= 0.

        (0, 0) is exact, and so is a least of 1 or more: then there is a violation.
        """
        with np.errstate(all="ignore"):
            bins_r, bins_d, counts = self.cells.T
            surely = _ERROR_EDGES[0][bins_d] > atol + rtol * _REFERENCE_EDGES[1][bins_r]
            perhaps = _ERROR_EDGES[1][bins_d] > atol + rtol * _REFERENCE_EDGES[0][bins_r]
            least, most = int(counts[surely].sum()), int(counts[perhaps].sum())
            reference, error = self.corners.T
            limit = atol + rtol * reference
            if rtol == 0:
                some, none = self.largest > atol, self.largest <= atol
            else:
                some, none = bool((error > limit).any()), bool((error * (1 + self.slack) <= limit).all())
        return (0, 0) if none else (max(least, int(some)), most)


class JointBuilder:
    """Takes blocks of |r| and |d| and makes JointErrors of them."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS * _BINS, np.int64)
        self._corners = np.empty((0, 2))
        self._largest, self._slack = 0.0, SLACK

    def add(self, reference: Array, error: Array) -> None:
        """Adds a flat block: |r| and |d|, finite float64."""
        if not error.all():
            kept = error != 0
            reference, error = reference[kept], error[kept]
        if not error.size:
            return
        self._largest = max(self._largest, float(error.max()))
        bins = _bins(reference, _LEAST_REFERENCE)
        self._add_corners(reference, error, bins)
        bins *= _BINS
        bins += _bins(error, _LEAST_ERROR)
        self._counts += np.bincount(bins, minlength=_BINS * _BINS)

    def _add_corners(self, reference: Array, error: Array, bins: Array) -> None:
        if not self._corners.size:
            step = max(1, error.size // _SAMPLE)
            self._corners = _upper_left(reference[::step], error[::step])
        # The hull's height at each bin's lower end: what is not above it lies under the hull.
        x, y = self._corners.T
        height = np.interp(_REFERENCE_EDGES[0], x, y, left=-1.0)
        above = np.flatnonzero(error > height[bins])
        above = above[error[above] > (1 + self._slack) * np.interp(reference[above], x, y, left=-1.0)]
        if above.size:
            corners = _upper_left(np.concatenate([x, reference[above]]), np.concatenate([y, error[above]]))
            self._corners = self._thinned(corners)

    def _thinned(self, corners: Array) -> Array:
        """At most MAX_CORNERS of them: those go that the hull misses least, into the slack."""
        if len(corners) > MAX_CORNERS:
            while len(corners) > MAX_CORNERS // 2:
                x, y = corners.T
                inner = np.arange(1, len(x) - 1, 2)
                chord = y[inner - 1] + (y[inner + 1] - y[inner - 1]) * (
                    (x[inner] - x[inner - 1]) / (x[inner + 1] - x[inner - 1])
                )
                missed = y[inner] / chord - 1
                limit = float(np.median(missed))
                corners = np.delete(corners, inner[missed <= limit], axis=0)
                self._slack = (1 + self._slack) * (1 + max(0.0, limit)) - 1
        return corners

    def result(self) -> JointErrors:
        used = np.flatnonzero(self._counts)
        cells = np.stack([used // _BINS, used % _BINS, self._counts[used]], axis=1)
        return JointErrors(self._corners, cells, self._largest, self._slack)


def _bins(values: Array, least: float) -> Array:
    found = np.ascontiguousarray(values).view(np.int64) >> _SHIFT
    found -= _bin_of(least)
    clipped: Array = np.clip(found, 0, _BINS - 1, out=found)
    return clipped


def _upper_left(x: Array, y: Array) -> Array:
    """The corners of the convex hull, x and y ascending, at which y - t x is largest for some t >= 0."""
    order = np.lexsort((-y, x))
    x, y = x[order], y[order]
    highest = np.maximum.accumulate(y)
    rising = np.concatenate([[True], y[1:] > highest[:-1]])  # no point to its left is as high
    hull: list[tuple[float, float]] = []
    for point in zip(x[rising].tolist(), y[rising].tolist(), strict=True):
        while len(hull) > 1 and _under(hull[-1], hull[-2], point):
            hull.pop()
        hull.append(point)
    return np.array(hull)


def _under(middle: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether `middle` lies under the line from `left` to `right`, or on it."""
    rise, run = right[1] - left[1], right[0] - left[0]
    return (middle[1] - left[1]) * run <= rise * (middle[0] - left[0])
