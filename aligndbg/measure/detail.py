"""A picture of one pair for reports: histograms, a scatter sample, where the difference lies. Knows numpy only.

Its size is bounded (a few KB) whatever the tensors' size, so that it can be kept for every pair of a run, while the
tensors themselves are let go. It is made in one pass over blocks in the reference's C order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from aligndbg.core.types import Array, Quant
from aligndbg.measure.blocks import Reader
from aligndbg.measure.results import AxisProfile, Detail, Element, ErrorMap, Metrics
from aligndbg.measure.tolerance import Tolerance

__all__ = ["detail", "element_limit"]


BLOCK = 1 << 16  # elements read at a time
BINS = 40
POINTS = 240  # of the scatter
LISTED = 8  # elements in each list
AXES, MAP_AXES = 4, 3  # axes looked at, the longest ones
PROFILE_CELLS = 64
MAP_CELLS = 32
POOLED_CELLS = {0: 1, 1: 64, 2: 64, 3: 64, 4: 32}  # by the number of axes, so that at most 2^20 are held


def element_limit(tolerance: Tolerance, metrics: Metrics) -> tuple[float, float]:
    """(atol, rtol) that tell a bad element by itself.

    The tolerance's own where it has them. Else the largest |d| that an error spread evenly may have: steps for
    `max_lsb`; for limits on the whole tensor that share of the reference's root mean square, with cos = 1 - e^2 / 2.
    """
    if tolerance.atol is not None or tolerance.rtol is not None:
        return tolerance.atol or 0.0, tolerance.rtol or 0.0
    if tolerance.max_lsb is not None and metrics.lsb_max:
        return tolerance.max_lsb * metrics.max_abs / metrics.lsb_max, 0.0
    shares = []
    if tolerance.rel_l2 is not None:
        shares.append(tolerance.rel_l2)
    if tolerance.min_cosine is not None:
        shares.append(math.sqrt(max(0.0, 2 * (1 - tolerance.min_cosine))))
    if tolerance.min_euclid is not None:
        shares.append(max(0.0, 1 - tolerance.min_euclid))
    if tolerance.min_sqnr is not None:
        shares.append(10 ** (-tolerance.min_sqnr / 20))
    rms = math.hypot(metrics.mean_reference, metrics.std_reference)
    return (min(shares, default=0.0) * rms if math.isfinite(rms) else 0.0), 0.0


def detail(
    reference: Array,
    candidate: Array,
    metrics: Metrics,
    limit: tuple[float, float],
    reference_quant: Quant | None = None,
    candidate_quant: Quant | None = None,
) -> Detail | None:
    """The picture of two tensors of the same shape, any real dtype; None for empty ones.

    `metrics` are theirs (for the histogram's range), `limit` comes from `element_limit`.
    """
    if not reference.size:
        return None
    making = _Making(reference.shape, metrics, limit)
    left, right = Reader(reference, reference_quant), Reader(candidate, candidate_quant)
    buffers = np.empty((2, min(BLOCK, reference.size)))
    with np.errstate(all="ignore"):
        start = 0
        for block in _blocks(reference.shape):
            r, c = left.read(block, buffers[0]), right.read(block, buffers[1])
            making.add(block, start, r, c)
            start += r.size
    return making.done()


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Blocks of at most BLOCK elements that follow each other in C order."""
    split = next((k for k in range(len(shape)) if math.prod(shape[k + 1 :]) <= BLOCK), 0)
    inner = math.prod(shape[split + 1 :])
    rest = tuple(slice(0, size) for size in shape[split + 1 :])
    step = max(1, BLOCK // max(1, inner))
    for place in np.ndindex(shape[:split]):
        outer = tuple(slice(i, i + 1) for i in place)
        if not shape:
            yield ()
            return
        for start in range(0, shape[split], step):
            yield (*outer, slice(start, min(shape[split], start + step)), *rest)


class _Making:
    """The running state of one `detail`."""

    def __init__(self, shape: tuple[int, ...], metrics: Metrics, limit: tuple[float, float]) -> None:
        self.shape, self.limit = shape, limit
        size = math.prod(shape)
        self.edges = _edges(metrics)
        self.counts = np.zeros((2, BINS), np.int64)
        chosen = np.random.default_rng(0).integers(0, size, POINTS) if size > POINTS else np.arange(size)
        self.places = np.unique(chosen)
        self.points: list[Array] = []
        longest = sorted((a for a in range(len(shape)) if shape[a] > 1), key=lambda a: -shape[a])[:AXES]
        self.axes = tuple(sorted(longest))
        cap = POOLED_CELLS[len(self.axes)]
        self.steps = tuple(-(-shape[a] // cap) for a in self.axes)
        self.pooled = np.zeros([-(-shape[a] // s) for a, s in zip(self.axes, self.steps, strict=True)])
        self.bad = 0
        self.first: list[tuple[int, float, float]] = []
        self.worst: list[tuple[float, int, float, float]] = []

    def add(self, block: tuple[slice, ...], start: int, r: Array, c: Array) -> None:
        """Adds one block, flat; `start` is the flat position of its first element."""
        d = np.abs(r - c)
        greatest = float(d.max())
        if math.isfinite(greatest):
            self._count(0, r)
            self._count(1, c)
        else:
            same = (r == c) | (np.isnan(r) & np.isnan(c))
            d[~np.isfinite(d)] = np.inf
            d[same] = 0.0
            greatest = float(d.max())
            self._count(0, r[np.isfinite(r)])
            self._count(1, c[np.isfinite(c)])
        lo, hi = np.searchsorted(self.places, (start, start + r.size))
        here = self.places[lo:hi] - start
        self.points.append(np.stack([r[here], c[here]], axis=1))
        if greatest > 0:
            self._pool(block, d)
            self._list(start, r, c, d, greatest)

    def _count(self, side: int, x: Array) -> None:
        low, high = self.edges[0], self.edges[-1]
        cells = np.clip((x - low) * (BINS / (high - low)), 0, BINS - 1).astype(np.int32)
        self.counts[side] += np.bincount(cells, minlength=BINS)

    def _pool(self, block: tuple[slice, ...], d: Array) -> None:
        small = d.reshape([part.stop - part.start for part in block])
        small = small.max(axis=tuple(a for a in range(small.ndim) if a not in self.axes))
        where = []
        for k, (axis, step) in enumerate(zip(self.axes, self.steps, strict=True)):
            part = block[axis]
            cells = np.arange(part.start, part.stop) // step
            starts = np.flatnonzero(np.r_[True, cells[1:] != cells[:-1]])
            small = np.maximum.reduceat(small, starts, axis=k)
            where.append(slice(int(cells[0]), int(cells[-1]) + 1))
        place = tuple(where)
        self.pooled[place] = np.maximum(self.pooled[place], small)

    def _list(self, start: int, r: Array, c: Array, d: Array, greatest: float) -> None:
        atol, rtol = self.limit
        if greatest > atol:
            over = np.flatnonzero((d > atol + rtol * np.abs(r)) | np.isposinf(d))
            self.bad += over.size
            for i in over[: LISTED - len(self.first)]:
                self.first.append((start + int(i), float(r[i]), float(c[i])))
        if len(self.worst) == LISTED and greatest <= self.worst[-1][0]:
            return
        top = np.argpartition(d, -LISTED)[-LISTED:] if d.size > LISTED else np.arange(d.size)
        found = [(float(d[i]), -start - int(i), float(r[i]), float(c[i])) for i in top if d[i] > 0]
        self.worst = sorted([*self.worst, *found], reverse=True)[:LISTED]

    def done(self) -> Detail:
        points = np.concatenate(self.points) if self.points else np.empty((0, 2))
        return Detail(
            edges=self.edges,
            counts_reference=self.counts[0],
            counts_candidate=self.counts[1],
            points=points[np.isfinite(points).all(axis=1)],
            profiles=self._profiles() if self.pooled.any() else (),
            maps=self._maps() if self.pooled.any() else (),
            atol=self.limit[0],
            rtol=self.limit[1],
            bad=self.bad,
            first=tuple(self._element(*each) for each in self.first),
            worst=tuple(self._element(-i, r, c) for _, i, r, c in self.worst),
        )

    def _element(self, place: int, r: float, c: float) -> Element:
        return Element(tuple(int(i) for i in np.unravel_index(place, self.shape)), r, c)

    def _profiles(self) -> tuple[AxisProfile, ...]:
        every = range(len(self.axes))
        return tuple(
            AxisProfile(a, self.shape[a], self.steps[k], self.pooled.max(axis=tuple(i for i in every if i != k)))
            for k, a in enumerate(self.axes)
        )

    def _maps(self) -> tuple[ErrorMap, ...]:
        """One for each two of the MAP_AXES longest axes, the last two (the spatial ones of NCHW) first."""
        out = []
        longest = sorted(range(len(self.axes)), key=lambda k: -self.shape[self.axes[k]])[:MAP_AXES]
        for pair in reversed(list(combinations(sorted(longest), 2))):
            cells = self.pooled.max(axis=tuple(i for i in range(len(self.axes)) if i not in pair))
            steps = []
            for side, k in enumerate(pair):
                again = -(-cells.shape[side] // MAP_CELLS)
                cells = np.maximum.reduceat(cells, np.arange(0, cells.shape[side], again), axis=side)
                steps.append(self.steps[k] * again)
            out.append(ErrorMap((self.axes[pair[0]], self.axes[pair[1]]), (steps[0], steps[1]), cells))
        return tuple(out)


def _edges(metrics: Metrics) -> Array:
    """Bins over the finite range of both sides; a constant one is widened, so that it lies in the middle."""
    limits = (metrics.min_reference, metrics.min_candidate, metrics.max_reference, metrics.max_candidate)
    known = [x for x in limits if math.isfinite(x)] or [0.0]
    low, high = min(known), max(known)
    if not high > low:
        room = abs(low) or 1.0
        low, high = low - room, high + room
    if not math.isfinite(high - low):
        low, high = low / 4, high / 4  # what lies outside counts in the outermost bins
    return np.linspace(low, high, BINS + 1)
