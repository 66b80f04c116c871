"""Telling weights apart without their layout, and without the per-channel scale that a folded normalization leaves."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aligndbg.core.types import FLOAT_DTYPES, Array, Backend
from aligndbg.match.thresholds import EXACT_WEIGHT, GRID_WEIGHT, UNLIKE_WEIGHT

__all__ = ["WeightIndex", "WeightPrint", "Weights", "weight_print", "weight_reader"]


@dataclass(frozen=True)
class WeightPrint:
    """Statistics of |w|, each channel divided by its root mean square, with channels along one axis.

    Which axis holds the output channels differs between formats, so both ends are kept: `first` and `last`, each the
    mean, the cubic mean and the largest. Signs are left out: a folded scale may be negative.
    """

    count: int
    first: tuple[float, float, float]
    last: tuple[float, float, float]
    quantized: bool = False

    def agreement(self, other: WeightPrint) -> float:
        """1 for the same weight up to layout and a scale per channel, -1 for another one, 0 where it cannot be told."""
        if self.count != other.count:
            return 0.0
        apart = min(_apart(a, b) for a in (self.first, self.last) for b in (other.first, other.last))
        if apart <= (GRID_WEIGHT if self.quantized or other.quantized else EXACT_WEIGHT):
            return 1.0
        return -1.0 if apart > UNLIKE_WEIGHT else 0.0


class WeightIndex:
    """Tells whether one of many weights is the same as a given one, without a look at each."""

    def __init__(self, prints: Iterable[WeightPrint]) -> None:
        self._by_count: dict[int, list[tuple[float, int, WeightPrint]]] = defaultdict(list)
        self._quantized = False
        for place, one in enumerate(prints):
            self._quantized |= one.quantized
            self._by_count[one.count] += (
                (end[0], place, one) for end in (one.first, one.last) if math.isfinite(end[0])
            )
        for found in self._by_count.values():
            found.sort()

    def has(self, weight: WeightPrint) -> bool:
        """Whether the `agreement` with one of them is 1."""
        found = self._by_count.get(weight.count, [])
        reach = 1 - (GRID_WEIGHT if weight.quantized or self._quantized else EXACT_WEIGHT) - 1e-9
        for mean, *_ in (weight.first, weight.last):
            if math.isfinite(mean):
                start, end = bisect_left(found, (mean * reach,)), bisect_right(found, (mean / reach, math.inf))
                if any(weight.agreement(one) == 1 for _, _, one in found[start:end]):
                    return True
        return False


def _apart(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    return max(abs(x - y) / max(abs(x), abs(y), 1e-30) for x, y in zip(a, b, strict=True))


def weight_print(weight: Array, quantized: bool = False) -> WeightPrint:
    """The print of a weight of any shape and float dtype (dequantized by the caller)."""
    with np.errstate(all="ignore"):  # float64 constants and masks of -3.4e38 end as inf, which agrees with nothing
        w = np.abs(weight.astype(np.float32))
        axes = [d for d in range(w.ndim) if w.shape[d] != 1] or [0]
        w = w.reshape([w.shape[d] for d in axes] if w.ndim else [1])
        return WeightPrint(int(w.size), _statistics(w, 0), _statistics(w, w.ndim - 1), quantized)


def _statistics(w: Array, axis: int) -> tuple[float, float, float]:
    others = tuple(d for d in range(w.ndim) if d != axis)
    rms = np.sqrt(np.mean(np.square(w), axis=others, keepdims=True)) if others else np.sqrt(np.mean(np.square(w)))
    scaled = w / np.where(rms > 0, rms, 1.0)
    cube = float(np.cbrt(np.mean(scaled * scaled * scaled, dtype=np.float64)))
    return float(scaled.mean(dtype=np.float64)), cube, float(scaled.max(initial=0.0))


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
