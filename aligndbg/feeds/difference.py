"""Did both sides get the same logical input? If not, what was done to one of them. Knows numpy only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aligndbg.core.arrays import is_float_dtype
from aligndbg.core.errors import FeedError
from aligndbg.core.types import Array, Quant
from aligndbg.feeds.layouts import MAX_PERMUTED_RANK
from aligndbg.feeds.translate import FeedLink, real_values

__all__ = ["FeedFinding", "logical_difference"]

MAX_CHANNELS = 4  # RGBA; longer axes are not tried in other orders
FEWEST_WRAPPED = 8  # distinct values; of fewer an offset says nothing. Chosen.
EDGE = 2  # tolerances, of half a step each: a range of whole steps may end one before the float one
SAME_SCALE = 1e-5  # relative: the fits of channels with one scale differ by no more
FLOAT32_ULP = 2.0**-23
# Of a fit: the scale carries the reference's rounding too and is itself off by a part of it; preprocessing in float32
# costs a few bits.
FIT_SLACK, FIT_FLOOR = 1.25, 4e-6
HALF_STEP = 0.5 * (1 + 1e-6)  # of a quantization step; the scale is a rounded number itself


@dataclass(frozen=True)
class FeedFinding:
    """What one candidate input holds instead of the reference's feed.

    `kind` is one of the report's causes: input_channel_order, input_normalization, layout, flip, saturation, shape, or
    unexplained. `max_abs` is the difference as fed, in real units; `details` holds the correction's numbers.
    """

    reference: str
    candidate: str
    kind: str
    what: str
    max_abs: float
    details: Mapping[str, Any] = field(default_factory=dict)


def logical_difference(
    reference_feeds: Mapping[str, Array],
    candidate_feeds: Mapping[str, Array],
    links: Sequence[FeedLink],
    reference_quants: Mapping[str, Quant | None] | None = None,
    candidate_quants: Mapping[str, Quant | None] | None = None,
) -> list[FeedFinding]:
    """One or two findings for each link whose sides differ by more than rounding: half a quantization step, a cast.

    Both feeds are brought to real values in the reference's layout. A difference is explained, where it can be, by a
    layout, a flip, a channel order, a scale and offset (per tensor or channel), or clipping to the quantized range.
    Raises FeedError where a feed is missing.
    """
    findings: list[FeedFinding] = []
    for link in links:
        for name, feeds in ((link.reference, reference_feeds), (link.candidate, candidate_feeds)):
            if name not in feeds:
                raise FeedError(f"there is no feed for the input {name!r}", hint="every linked input needs one")
        findings += _FedLink(
            link,
            (reference_feeds[link.reference], (reference_quants or {}).get(link.reference)),
            (candidate_feeds[link.candidate], (candidate_quants or {}).get(link.candidate)),
        ).findings()
    return findings


class _FedLink:
    """What both sides of one link are fed: `r` and `c`, real values in float64 in the reference's layout."""

    def __init__(self, link: FeedLink, left: tuple[Array, Quant | None], right: tuple[Array, Quant | None]) -> None:
        self.link, self.stored = link, right
        self.r = real_values(*left).astype(np.float64)
        self.raw = real_values(*right).astype(np.float64)
        self.fits = self.raw.size == math.prod(link.layout.from_shape)
        self.c = link.layout.to_reference(self.raw) if self.fits else self.raw
        self.tolerance = _rounding(self.r, *left) + _rounding(self.raw, *right)
        self.range = _stored_range(*right)

    def findings(self) -> list[FeedFinding]:
        if not self.fits:
            what = f"the candidate is fed shape {self.raw.shape}, the reference {self.r.shape}"
            return [FeedFinding(self.link.reference, self.link.candidate, "shape", what, math.nan)]
        self.apart = _apart(self.r, self.c)
        if self.apart <= self.tolerance or self._at_the_edge():
            return []
        others = (self._layout, self._flip, self._channels, self._scale, self._scaled_channels)
        for explain in (self._clipped, self._wrapped, *others):
            found = explain()
            if found:
                return found
        return [self._finding("unexplained", "the candidate is fed other values than the reference")]

    def _finding(self, kind: str, what: str, **details: Any) -> FeedFinding:
        return FeedFinding(self.link.reference, self.link.candidate, kind, what, self.apart, details)

    def _same(self, values: Array) -> bool:
        return values.shape == self.c.shape and _apart(values, self.c) <= self.tolerance

    def _at_the_edge(self) -> bool:
        """True where values are clipped by a step at most: a symmetric range holds -1, and 1 only but for a step."""
        return self.apart <= EDGE * self.tolerance and self._is_clipped()

    def _is_clipped(self) -> bool:
        return self.range is not None and self._same(np.clip(self.r, *self.range))

    def _clipped(self) -> list[FeedFinding]:
        if self.range is None or not self._is_clipped():
            return []
        share = float(np.mean((self.r < self.range[0]) | (self.r > self.range[1])))
        what = (
            f"{share:.1%} of the values are outside the candidate's {self.range[0]:g} to {self.range[1]:g} and clipped"
        )
        cut = float(np.linalg.norm(self.r - np.clip(self.r, *self.range)) / np.linalg.norm(self.r))
        return [self._finding("saturation", what, share=share, range=self.range, cut=cut)]

    def _wrapped(self) -> list[FeedFinding]:
        """The integers are the expected ones some steps off, and wrapped around: of another type with as many bits."""
        stored, quant = self.stored
        if quant is None or stored.dtype.kind not in "iu" or quant.scale.size > 1:
            return []
        bits = 8 * stored.dtype.itemsize
        there = self.link.layout.to_reference(stored).astype(np.int64)
        steps = np.round(self.r / float(quant.scale[0])).astype(np.int64) + int(quant.zero_point[0]) - there
        off, counts = np.unique(steps % 2**bits, return_counts=True)
        usual = int(off[np.argmax(counts)])
        apart = (steps - usual + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
        if usual in (0, 1, 2**bits - 1) or np.max(np.abs(apart)) > 1 or np.unique(there).size < FEWEST_WRAPPED:
            return []
        half = " (unsigned ones read as signed, or the other way round)" if abs(usual - 2 ** (bits - 1)) <= 1 else ""
        what = f"the candidate is fed {stored.dtype} values that are {usual} steps off and wrap around{half}"
        return [self._finding("input_normalization", what, offset_steps=usual)]

    def _layout(self) -> list[FeedFinding]:
        shape = self.r.shape
        wrong = self.raw.reshape(shape)
        if _apart(self.r, wrong) <= self.tolerance:
            what = f"the candidate is fed the reference's memory as it lies, as {self.raw.shape} without a transpose"
            return [self._finding("layout", what, expected=self.link.layout.permutation)]
        orders = itertools.permutations(range(len(shape))) if len(shape) <= MAX_PERMUTED_RANK else ()
        for p in orders:
            if tuple(shape[i] for i in p) == shape and self._same(self.r.transpose(p)):
                what = f"the candidate is fed the reference's axes in the order {p}"
                return [self._finding("layout", what, permutation=p)]
        return []

    def _flip(self) -> list[FeedFinding]:
        for axis, size in enumerate(self.r.shape):
            if size > MAX_CHANNELS and self._same(np.flip(self.r, axis)):
                return [self._finding("flip", f"axis {axis} of the reference's layout is reversed", axis=axis)]
        return []

    def _channels(self) -> list[FeedFinding]:
        for axis, order in _channel_orders(self.r.shape):
            if self._same(np.take(self.r, order, axis)):
                return [self._channel_finding(axis, order)]
        return []

    def _channel_finding(self, axis: int, order: Sequence[int]) -> FeedFinding:
        what = f"the candidate's channels (axis {axis} of the reference's layout) are the reference's {list(order)}"
        return self._finding("input_channel_order", what, axis=axis, permutation=tuple(order))

    def _scale(self) -> list[FeedFinding]:
        fit = _affine(self.r.reshape(1, -1), self.c.reshape(1, -1), self.tolerance)
        return [] if fit is None else [self._normalization(fit, None)]

    def _scaled_channels(self) -> list[FeedFinding]:
        """Another scale and offset in each channel, in the same or another channel order."""
        for axis, order in _channel_orders(self.r.shape, with_identity=True):
            moved = np.moveaxis(np.take(self.r, order, axis), axis, 0).reshape(len(order), -1)
            fit = _affine(moved, np.moveaxis(self.c, axis, 0).reshape(len(order), -1), self.tolerance)
            if fit is not None:
                same_order = list(order) == sorted(order)
                found = [] if same_order else [self._channel_finding(axis, order)]
                return [*found, self._normalization(fit, axis)]
        return []

    def _normalization(self, fit: tuple[Array, Array], axis: int | None) -> FeedFinding:
        scale, offset = ([float(f"{value:.6g}") for value in part] for part in fit)
        if axis is None or (np.ptp(scale) <= SAME_SCALE * max(map(abs, scale)) and np.ptp(offset) <= self.tolerance):
            what = f"candidate = reference * {scale[0]:g} + {offset[0]:g}"
        else:
            what = f"candidate = reference * {scale} + {offset}, by channel (axis {axis} of the reference's layout)"
        return self._finding("input_normalization", what, scale=scale, offset=offset, axis=axis)


def _channel_orders(shape: Sequence[int], with_identity: bool = False) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(axis, order) for each axis short enough to hold channels; three and four channels are the likely ones."""
    axes = [axis for axis, size in enumerate(shape) if 2 <= size <= MAX_CHANNELS]
    for axis in sorted(axes, key=lambda axis: (shape[axis] == 2, axis)):
        orders = itertools.permutations(range(shape[axis]))
        yield from ((axis, order) for order in itertools.islice(orders, 0 if with_identity else 1, None))


def _affine(x: Array, y: Array, tolerance: float) -> tuple[Array, Array] | None:
    """Per row, scale and offset with |y - (scale x + offset)| within rounding, or None (as for a constant x)."""
    if x.shape[1] < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    centred = x - x.mean(1, keepdims=True)
    spread = np.einsum("ij,ij->i", centred, centred)
    if not spread.all():
        return None
    scale = np.einsum("ij,ij->i", centred, y) / spread
    offset = y.mean(1) - scale * x.mean(1)
    left = np.abs(y - scale[:, None] * x - offset[:, None]).max()
    allowed = FIT_SLACK * tolerance * max(1.0, float(np.abs(scale).max())) + FIT_FLOOR * float(np.abs(y).max())
    visible = np.abs(scale) * np.ptp(x, axis=1) > allowed  # a constant y fits any x with a scale of nothing
    return (scale, offset) if visible.all() and left <= allowed else None


def _apart(a: Array, b: Array) -> float:
    """Largest difference; equal NaN and Inf do not differ, unlike ones are infinitely apart."""
    if not a.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        d = np.asarray(np.abs(a - b))  # of rank 0 numpy makes a number of it
    d[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    return math.inf if np.isnan(d).any() else float(d.max())


def _rounding(real: Array, stored: Array, quant: Quant | None) -> float:
    """How far a feed may be from what it stands for: half a step, or the dtype's rounding of its largest value."""
    finite = np.abs(real[np.isfinite(real)])
    largest = float(finite.max()) if finite.size else 0.0
    if quant is not None and not is_float_dtype(stored.dtype):
        return HALF_STEP * float(quant.scale.max()) + FLOAT32_ULP * largest
    if not is_float_dtype(stored.dtype):
        return 0.0
    return _epsilon(stored.dtype) * largest


def _epsilon(dtype: np.dtype[Any]) -> float:
    if dtype.kind == "f" and dtype.isbuiltin:
        return float(np.finfo(dtype).eps)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def _stored_range(stored: Array, quant: Quant | None) -> tuple[float, float] | None:
    """The real values that a per-tensor quantized dtype can hold."""
    if quant is None or is_float_dtype(stored.dtype) or quant.scale.size > 1:
        return None
    limits = np.iinfo(stored.dtype)
    low, high = quant.dequantize(np.array([limits.min, limits.max], stored.dtype))
    return float(low), float(high)
