"""Arrays of any dtype and stride order read as float64, a block at a time. Knows numpy only.

`metrics` never holds a full float64 copy of a tensor: it reads blocks that fit a core's cache. Axes that are
contiguous in every array are merged first; where the arrays disagree on which axis is fastest (NCHW against a
transposed NHWC), the block is a tile long in both, so that neither is read with one cache line an element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np

from aligndbg.core.errors import UsageError
from aligndbg.core.types import Array, Quant

__all__ = [
    "BLOCK",
    "DISTINCT_CAP",
    "Moments",
    "Reader",
    "Tiling",
    "distinct_values",
    "saturated_share",
    "stored_limits",
]


BLOCK = 1 << 15
"""Elements a block: three float64 buffers of it fit a core's cache."""


DISTINCT_CAP = 4096
"""`distinct_values` stops counting here, so this value means "this many or more"."""
_DISTINCT_SAMPLE = 1 << 18  # elements looked at, evenly spread
_DISTINCT_CHUNK = 1 << 14


def stored_limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Least and greatest value an integer dtype stores, 4-bit ml_dtypes' included."""
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    import ml_dtypes

    limits: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return int(limits.min), int(limits.max)


class Tiling:
    """One order of blocks over several arrays of the same shape.

    `views(array)` gives the array with its axes sorted and merged as the first array's strides suggest; `blocks()`
    yields index tuples into such a view; `locate` maps a place in a block to an index of the original shape.
    """

    def __init__(self, arrays: Sequence[Array], block: int = BLOCK) -> None:
        first = arrays[0]
        self.shape = first.shape
        self.order = tuple(sorted(range(first.ndim), key=lambda axis: -abs(first.strides[axis])))
        moved = [array.transpose(self.order) for array in arrays]
        self._moved_shape = moved[0].shape
        self.merged = _merged_shape(moved)
        self.tile = _tile_shape([self.view(array) for array in arrays], block)

    def view(self, array: Array) -> Array:
        return array.transpose(self.order).reshape(self.merged)

    def blocks(self) -> Iterator[tuple[slice, ...]]:
        steps = (range(0, size, step) for size, step in zip(self.merged, self.tile, strict=True))
        for starts in product(*steps):
            yield tuple(slice(start, start + step) for start, step in zip(starts, self.tile, strict=True))

    def locate(self, block: tuple[slice, ...], offset: int) -> tuple[int, ...]:
        """The original index of the element at flat `offset` of `block`."""
        sizes = [min(part.stop, size) - part.start for part, size in zip(block, self.merged, strict=True)]
        inner = np.unravel_index(offset, sizes)
        place = tuple(int(i) + part.start for i, part in zip(inner, block, strict=True))
        moved = np.unravel_index(np.ravel_multi_index(place, self.merged), self._moved_shape)
        index = [0] * len(self.shape)
        for axis, value in zip(self.order, moved, strict=True):
            index[axis] = int(value)
        return tuple(index)


def _merged_shape(arrays: Sequence[Array]) -> tuple[int, ...]:
    """The shape after merging neighbouring axes that are contiguous to each other in every array."""
    axes = [axis for axis, size in enumerate(arrays[0].shape) if size != 1]
    merged: list[int] = [arrays[0].shape[axis] for axis in axes[:1]]
    for outer, inner in pairwise(axes):
        size = arrays[0].shape[inner]
        if all(array.strides[outer] == array.strides[inner] * size for array in arrays):
            merged[-1] *= size
        else:
            merged.append(size)
    return tuple(merged) or (1,)


def _tile_shape(arrays: Sequence[Array], block: int) -> tuple[int, ...]:
    """Sizes of one tile: long along each array's fastest axis, at most `block` elements in all."""
    shape = arrays[0].shape
    if 0 in shape:
        return (1,) * len(shape)
    fastest = {
        min(range(len(shape)), key=lambda axis: (abs(array.strides[axis]), -axis))
        for array in arrays
        if 0 not in array.strides  # broadcast parameters cost nothing to read
    }
    tile = [1] * len(shape)
    for axis in fastest:
        tile[axis] = min(shape[axis], max(1, int(block ** (1 / len(fastest)))))
    for axis in reversed(range(len(shape))):
        room = block // math.prod(tile)
        tile[axis] = min(shape[axis], tile[axis] * max(1, room))
    return tuple(tile)


class Reader:
    """One side: `array` in its storage dtype, with the scale and zero point to apply.

    Raises UsageError for a dtype that has no real value (complex, string, object).
    """

    def __init__(self, array: Array, quant: Quant | None) -> None:
        if array.dtype.kind in "cOSUMm":
            raise UsageError(f"a tensor of dtype {array.dtype} cannot be compared", hint="only real numbers can be")
        self.array = array
        self.scale, self.zero = _parameters(array, quant)

    @property
    def arrays(self) -> list[Array]:
        """The arrays that a Tiling must walk together; per-channel parameters are broadcast to the shape."""
        return [self.array, *(part for part in (self.scale, self.zero) if part is not None and part.ndim)]

    def reordered(self, move: Callable[[Array], Array]) -> Reader:
        """The same side after `move` (a layout): the parameters go along as broadcast views."""
        other = object.__new__(Reader)
        other.array = move(self.array)
        other.scale, other.zero = (
            part if part is None or not part.ndim else move(part) for part in (self.scale, self.zero)
        )
        return other

    def sorted(self, tiling: Tiling) -> Reader:
        return self.reordered(tiling.view)

    def read(self, block: tuple[slice, ...], buffer: Array) -> Array:
        """The block's real values, flat float64, in `buffer`."""
        part = self.array[block]
        out = buffer[: part.size]
        shaped = out.reshape(part.shape)
        np.copyto(shaped, part, casting="unsafe")
        if self.scale is not None and self.zero is not None:
            shaped -= self.zero[block] if self.zero.ndim else self.zero
            shaped *= self.scale[block] if self.scale.ndim else self.scale
            shaped[...] = shaped.astype(np.float32)  # as Quant.dequantize and the runtimes round
        return out

    def read_scale(self, block: tuple[slice, ...]) -> Array:
        """The block's quantization steps: flat, or one value."""
        assert self.scale is not None
        return self.scale[block].reshape(-1) if self.scale.ndim else self.scale


def _parameters(array: Array, quant: Quant | None) -> tuple[Array | None, Array | None]:
    if quant is None:
        return None, None
    scale = quant.scale.astype(np.float64)
    zero = quant.zero_point.astype(np.float64)
    if quant.axis is None or scale.size == 1:
        return scale.reshape(()), zero.reshape(())
    shape = [1] * array.ndim
    if not -array.ndim <= quant.axis < array.ndim or array.shape[quant.axis] != scale.size:
        raise UsageError(
            f"quantization has {scale.size} scales along axis {quant.axis}, the tensor's shape is {array.shape}",
            hint="the axis must be one of the array that is passed",
        )
    shape[quant.axis] = -1
    return (
        np.broadcast_to(scale.reshape(shape), array.shape),
        np.broadcast_to(zero.reshape(shape), array.shape),
    )


@dataclass
class Moments:
    """Running moments of one side's finite values; blocks are combined as Chan et al. do."""

    finite: int = 0
    total: float = 0.0
    total_abs: float = 0.0
    squares: float = 0.0
    signed_squares: float = 0.0
    centred: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf
    zeros: int = 0
    nans: int = 0
    infs: int = 0

    def add(self, x: Array) -> None:
        """Adds a flat float64 block without NaN or Inf."""
        if not x.size:
            return
        total, squares = float(x.sum()), float(np.dot(x, x))
        mean = total / x.size
        centred = squares - total * mean
        if centred < 1e-6 * squares:  # cancelled: nearly constant far from zero, so look again
            shifted = x - mean
            centred = float(np.dot(shifted, shifted))
        if self.finite:
            apart = mean - self.total / self.finite
            centred += apart * apart * (self.finite / (self.finite + x.size)) * x.size
        self.centred += centred
        self.total += total
        self.squares += squares
        self.finite += x.size
        least, greatest = float(x.min()), float(x.max())
        self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)
        if least <= 0.0 <= greatest:
            self.zeros += x.size - int(np.count_nonzero(x))

    def add_absolute(self, x: Array, scratch: Array) -> None:
        """Adds the block's absolute moments, which only fingerprints have."""
        absolute = np.abs(x, out=scratch[: x.size])
        self.total_abs += float(absolute.sum())
        self.signed_squares += float(np.dot(x, absolute))

    def without_nonfinite(self, x: Array, finite: Array) -> Array:
        """The block's finite values; the others are counted."""
        nans = int(np.count_nonzero(np.isnan(x)))
        self.nans += nans
        self.infs += x.size - int(np.count_nonzero(finite)) - nans
        return x[finite]

    @property
    def mean(self) -> float:
        if not self.finite:
            return math.nan
        return self.least if self.constant else self.total / self.finite

    @property
    def std(self) -> float:
        if not self.finite:
            return math.nan
        return 0.0 if self.constant else math.sqrt(max(0.0, self.centred) / self.finite)

    @property
    def constant(self) -> bool:
        return self.finite > 0 and self.least == self.greatest

    @property
    def largest(self) -> float:
        return max(abs(self.least), abs(self.greatest))


def distinct_values(array: Array) -> int:
    """Distinct stored values in an evenly spread sample, up to DISTINCT_CAP."""
    if not array.size:
        return 0
    step = max(1, array.size // _DISTINCT_SAMPLE)
    seen: Array | None = None
    for start in range(0, array.size, _DISTINCT_CHUNK * step):
        places = np.arange(start, min(array.size, start + _DISTINCT_CHUNK * step), step)
        chunk = array.reshape(-1)[places] if array.flags.c_contiguous else array[np.unravel_index(places, array.shape)]
        if chunk.dtype.kind == "V":  # ml_dtypes have no sort of their own
            chunk = chunk.astype(np.float64)
        seen = np.unique(chunk if seen is None else np.concatenate([seen, chunk]))
        if seen.size >= DISTINCT_CAP:
            return DISTINCT_CAP
    return 0 if seen is None else int(seen.size)


def saturated_share(stored: Array, tiling: Tiling) -> float:
    """Share of stored integers at either limit of their dtype. `stored` is a view in the tiling's order."""
    least, greatest = stored_limits(stored.dtype)
    parts = (stored[block] for block in tiling.blocks())
    hits = sum(int(np.count_nonzero(part == least)) + int(np.count_nonzero(part == greatest)) for part in parts)
    return hits / stored.size
