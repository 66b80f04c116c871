"""The sums that every metric of two tensors is made of, in float64, a block at a time. Knows numpy only.

Where both hold a mask's huge values at the same places, those are summed up apart: they would hide the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from aligndbg.core.types import Array
from aligndbg.measure.blocks import BLOCK, Moments, Reader, Tiling
from aligndbg.measure.masks import beyond, mask_limit
from aligndbg.measure.tolerance import Tolerance
from aligndbg.measure.violations import JointBuilder

__all__ = ["PairSums", "Sums"]

Block = tuple[slice, ...]


@dataclass
class Sums:
    """Of some of the elements, `seen` in all: both sides' moments; and of d = r - c, d.r and r.c where both are finite.

    `mismatch` are those with a NaN or Inf where the other side has not the same.
    """

    reference: Moments = field(default_factory=Moments)
    candidate: Moments = field(default_factory=Moments)
    seen: int = 0
    count: int = 0
    mismatch: int = 0
    total: float = 0.0
    total_abs: float = 0.0
    squares: float = 0.0
    with_reference: float = 0.0
    product: float = 0.0
    max_abs: float = -1.0
    worst: tuple[Block, int] | None = None
    lsb_max: float = 0.0
    lsb_total: float = 0.0
    violations: int = 0
    joint: JointBuilder | None = None


class PairSums:
    """Of all elements of two sides of one shape, `whole`; where both have a mask, of its huge values, `masked`, and of
    the `rest`, which is `whole` without one. A mask by itself, zeros elsewhere, hides nothing.

    What is counted element by element (violations, steps) is of `whole`: no mask hides it.
    """

    def __init__(self, left: Reader, right: Reader, tolerance: Tolerance | None = None, joint: bool = False) -> None:
        self.tiling = Tiling(left.arrays + right.arrays)
        self.left, self.right = left.sorted(self.tiling), right.sorted(self.tiling)
        self.stepper = self.right if self.right.scale is not None else self.left
        limits = (None, None) if tolerance is None else (tolerance.atol, tolerance.rtol)
        self.counts_violations = limits != (None, None)
        self._atol, self._rtol = limits[0] or 0.0, limits[1] or 0.0
        self._buffers = np.empty((5, BLOCK))
        self.whole = self.rest = Sums(joint=JointBuilder() if joint else None)
        self.masked: Sums | None = None
        with np.errstate(all="ignore"):
            for block, r, c in self._blocks():
                self._add(self.whole, block, r, c)
            if limits_of_masks := self._masks():
                self._sum_apart(*limits_of_masks)

    def _blocks(self) -> Iterator[tuple[Block, Array, Array]]:
        for block in self.tiling.blocks():
            yield block, self.left.read(block, self._buffers[0]), self.right.read(block, self._buffers[1])

    def _masks(self) -> tuple[float, float] | None:
        """The limits of both sides' masks, where both have one."""
        ours = self._limit(self.left, self.whole.reference)
        theirs = self._limit(self.right, self.whole.candidate) if ours else 0.0
        return (ours, theirs) if ours * theirs > 0 else None

    def _limit(self, side: Reader, moments: Moments) -> float:
        def finite() -> Iterator[Array]:
            for block in self.tiling.blocks():
                values = side.read(block, self._buffers[0])
                yield values[np.isfinite(values)] if moments.nans or moments.infs else values

        return mask_limit(finite, moments.finite, moments.least, moments.greatest) if moments.finite else 0.0

    def _sum_apart(self, ours: float, theirs: float) -> None:
        rest, masked = Sums(), Sums()
        for block, r, c in self._blocks():
            huge = beyond(r, ours) & beyond(c, theirs) & np.isfinite(r) & np.isfinite(c)
            if not huge.any():
                self._add(rest, block, r, c)
                continue
            for sums, places in ((masked, np.flatnonzero(huge)), (rest, np.flatnonzero(~huge))):
                self._add(sums, block, r[places], c[places], places)
        if masked.seen and (rest.reference.squares or rest.candidate.squares):
            self.rest, self.masked = rest, masked

    def _add(self, sums: Sums, block: Block, r: Array, c: Array, places: Array | None = None) -> None:
        """Adds elements of one block: those at `places` of it, None for all."""
        sums.seen += r.size
        d = np.subtract(r, c, out=self._buffers[2][: r.size])
        squares = float(np.dot(d, d))
        if not math.isfinite(squares):
            finite_r, finite_c = np.isfinite(r), np.isfinite(c)
            both = finite_r & finite_c
            same = (r == c) | (np.isnan(r) & np.isnan(c))
            sums.mismatch += int(np.count_nonzero(~both & ~same))
            sums.reference.add(sums.reference.without_nonfinite(r, finite_r))
            sums.candidate.add(sums.candidate.without_nonfinite(c, finite_c))
            places = np.flatnonzero(both) if places is None else places[both]
            r, c, d = r[both], c[both], d[both]
            squares = float(np.dot(d, d))
        else:
            sums.reference.add(r)
            sums.candidate.add(c)
        if d.size:
            self._add_difference(sums, block, r, d, squares, places)
            sums.product += float(np.dot(r, c))

    def _add_difference(
        self, sums: Sums, block: Block, r: Array, d: Array, squares: float, places: Array | None
    ) -> None:
        sums.count += d.size
        sums.squares += squares
        sums.total += float(d.sum())
        sums.with_reference += float(np.dot(d, r))
        absolute = np.abs(d, out=self._buffers[3][: d.size])
        sums.total_abs += float(absolute.sum())
        greatest = float(absolute.max())
        if greatest > sums.max_abs:
            offset = int(absolute.argmax())
            sums.max_abs = greatest
            sums.worst = (block, offset if places is None else int(places[offset]))
        if self.counts_violations and greatest > self._atol:
            sums.violations += int(np.count_nonzero(absolute > self._atol + self._rtol * np.abs(r)))
        if sums.joint is not None and greatest > 0:
            sums.joint.add(np.abs(r, out=self._buffers[4][: r.size]), absolute)
        if self.stepper.scale is not None:
            scale = self.stepper.read_scale(block)
            steps = absolute / (scale if places is None or not scale.ndim else scale[places])
            sums.lsb_max = max(sums.lsb_max, float(steps.max()))
            sums.lsb_total += float(steps.sum())
