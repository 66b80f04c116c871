"""Telling weights apart without their layout, and without the per-channel scale that a folded normalization leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from aligndbg.core.types import FLOAT_DTYPES, Array, Backend
from aligndbg.match.thresholds import EXACT_WEIGHT, FEWEST_CHANNELS, GRID_WEIGHT, UNLIKE_WEIGHT

__all__ = ["WeightPrint", "Weights", "weight_print", "weight_reader"]


@dataclass(frozen=True)
class WeightPrint:
    """Statistics of |w|, each channel divided by its root mean square, with channels along one axis.

    Which axis holds the output channels differs between formats, so both ends are kept: `first` and `last`, each the
    mean, the cubic mean and the largest. Signs are left out: a folded scale may be negative. `channels` has the same of
    each channel, float32 (channels, 3), by either end, with the elements that a channel has.
    """

    count: int
    first: tuple[float, float, float]
    last: tuple[float, float, float]
    quantized: bool = False
    channels: tuple[tuple[int, Array], ...] = field(default=(), compare=False, repr=False)

    def agreement(self, other: WeightPrint) -> float:
        """1 for the same weight up to layout and a scale per channel, -1 for another one, 0 where it cannot be told."""
        if self.count != other.count:
            return 0.0
        apart = min(_apart(a, b) for a in (self.first, self.last) for b in (other.first, other.last))
        if apart <= (GRID_WEIGHT if self.quantized or other.quantized else EXACT_WEIGHT):
            return 1.0
        return -1.0 if apart > UNLIKE_WEIGHT else 0.0


def _apart(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    return max(abs(x - y) / max(abs(x), abs(y), 1e-30) for x, y in zip(a, b, strict=True))


def weight_print(weight: Array, quantized: bool = False) -> WeightPrint:
    """The print of a weight of any shape and float dtype (dequantized by the caller)."""
    with np.errstate(all="ignore"):  # float64 constants and masks of -3.4e38 end as inf, which agrees with nothing
        w = np.abs(weight.astype(np.float32))
        axes = [d for d in range(w.ndim) if w.shape[d] != 1] or [0]
        w = w.reshape([w.shape[d] for d in axes] if w.ndim else [1])
        ends = [_by_channel(w, axis) for axis in dict.fromkeys((0, w.ndim - 1))]
        first, last = _summary(ends[0][1]), _summary(ends[-1][1])
        if w.ndim == 1:
            ends = [(1, (w / np.sqrt(np.mean(np.square(w))))[:, None])]
        if w.ndim == 3 and len(w) < FEWEST_CHANNELS:  # both directions of a recurrent layer, its gates' rows in each
            ends.append(_by_channel(w.reshape(-1, w.shape[2]), 0))
        channels = tuple((size, rows.astype(np.float32)) for size, rows in ends)
        return WeightPrint(int(w.size), first, last, quantized, channels)


def _by_channel(w: Array, axis: int) -> tuple[int, Array]:
    """The elements of a channel, and of each its mean, cubic mean and largest by its root mean square; w >= 0."""
    others = tuple(d for d in range(w.ndim) if d != axis) if w.ndim > 1 else (0,)
    rms = np.sqrt(np.mean(np.square(w), axis=others, keepdims=True))
    scaled = w / np.where(rms > 0, rms, 1.0)
    cubes = np.mean(scaled * scaled * scaled, axis=others, dtype=np.float64)
    rows = np.mean(scaled, axis=others, dtype=np.float64), np.cbrt(cubes), scaled.max(axis=others, initial=0.0)
    table = np.stack([np.atleast_1d(column) for column in rows], axis=1)
    return int(w.size // max(1, len(table))), table


def _summary(rows: Array) -> tuple[float, float, float]:
    """Of all channels together."""
    mean, cube, largest = rows.T
    return float(mean.mean()), float(np.cbrt(np.mean(cube**3))), float(largest.max(initial=0.0))


# The prints of both sides' weights by constant name, read when they are first asked for.
Weights = Callable[[], tuple[Mapping[str, WeightPrint], Mapping[str, WeightPrint]]]


SMALLEST_WEIGHT = 16  # elements; fewer have no fingerprint worth the name


def weight_reader(reference: Backend, candidate: Backend) -> Weights:
    """Prints of both sides' weights, read only where they are asked for."""

    @lru_cache(maxsize=1)
    def read() -> tuple[dict[str, WeightPrint], dict[str, WeightPrint]]:
        return _weight_prints(reference), _weight_prints(candidate)

    return read


def _weight_prints(backend: Backend) -> dict[str, WeightPrint]:
    if "run" not in backend.capabilities:
        return {}  # a trace keeps no weights
    tensors = backend.graph().tensors
    wanted = []
    for name in sorted({i for node in backend.graph().nodes for i in node.inputs} & backend.graph().constants):
        info = tensors.get(name)
        shape = info.static_shape if info else None
        if info is None or shape is None or len(shape) < 2 or math.prod(shape) < SMALLEST_WEIGHT:
            continue
        if info.dtype in FLOAT_DTYPES or info.quant is not None:
            wanted.append(name)
    out = {}
    for name, value in backend.run({}, wanted) if wanted else ():
        quant = tensors[name].quant
        out[name] = weight_print(quant.dequantize(value) if quant else value, quant is not None)
    return out
