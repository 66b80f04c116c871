"""Fake quantization: the float side computes from the values and weights that the quantized side holds.

An int8 op is at fault only for what it does with the integers it was given. So its float counterpart is run on
dequantized inputs, with weights rounded as a converter would round them (per channel, max|w| / 127), and the result
is quantized as the int8 one is: clean kernels then stay within one step. Knows no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from aligndbg.core.layouts import layouts, sampled_error
from aligndbg.core.qdq import as_read, read_through
from aligndbg.core.regions import upward
from aligndbg.core.types import FLOAT_DTYPES, Array, Graph, Layout, Quant, Trace

__all__ = ["FakeQuantizer", "fake_quantized_feeds"]


Read = Callable[[Sequence[str]], Mapping[str, Array]]
HALF_STEP = 0.5001  # of a grid: what rounding to it may cost, and float32's own rounding of the scale


SAME_WEIGHT = 0.5  # error (of the spread) under which two weights are the same one, quantization and a fault included


def fake_quantized_feeds(
    feeds: Mapping[str, Array],
    candidate_feeds: Mapping[str, Array],
    links: Iterable[tuple[str, str, Layout]],
    reference: Graph,
    candidate: Trace,
) -> dict[str, Array]:
    """The reference's feeds as the candidate's inputs hold them on a grid, or as what reads those gets them."""
    out = dict(feeds)
    ours, theirs = reference.consumers(), candidate.graph.consumers()
    for r, c, layout in links:
        own, quant, value = reference.tensors.get(r), candidate.quant(c), candidate_feeds[c]
        if r not in out or (own is not None and own.quant is not None):
            continue  # both sides hold integers: they were fed alike already
        real = value
        if quant is not None:
            real = quant.dequantize(value)
        elif not read_through(ours, r):
            real = as_read(candidate, theirs, c, value)
        if real is not value:
            out[r] = np.asarray(layout.to_reference(real).astype(out[r].dtype), order="C")
    return out


class FakeQuantizer:
    """Float weights (by constant name, own layout and dtype) put on the grids of the quantized side's.

    Where the quantized weight is the float one rounded to its own grid, that is what is used, whatever its scale; else
    (clipped, scaled, another weight) the float one on the grid that a converter would choose. One that has no
    counterpart is left as it is. `read_*` give constants by name.
    """

    def __init__(self, float_side: Graph, quantized_side: Graph, read_float: Read, read_quantized: Read) -> None:
        self._graphs = float_side, quantized_side
        self._read = read_float, read_quantized
        self._values: tuple[dict[str, Array], dict[str, Array]] = {}, {}
        self._made: dict[tuple[str, str], Array | None] = {}

    def weights(self, counterparts: Mapping[str, str]) -> dict[str, Array]:
        """By the pairs of tensors (float side's name -> quantized side's), between which weights are paired by size and
        value."""
        ours, theirs = self._graphs
        quantized = set(counterparts.values())
        wanted: list[tuple[list[str], list[str]]] = []
        for r, c in counterparts.items():
            left = [n for n in _weights(ours, r, counterparts) if _is_float(ours, n)]
            right = [n for n in _weights(theirs, c, quantized) if _quant(theirs, n) is not None]
            if left and right:
                wanted.append((left, right))
        for k, names in enumerate(zip(*wanted, strict=True)):
            missing = sorted({n for group in names for n in group} - self._values[k].keys())
            if missing:
                self._values[k].update(self._read[k](missing))
        out: dict[str, Array] = {}
        for left, right in wanted:
            for name in left:
                for other in right:
                    found = self._on_grid_of(name, other)
                    if found is not None:
                        out[name] = found
        return out

    def _on_grid_of(self, name: str, other: str) -> Array | None:
        """The float weight `name` as the quantized side holds it in `other`; None where that is not its counterpart."""
        if (name, other) not in self._made:
            value, stored = self._values[0][name], self._values[1][other]
            quant = _quant(self._graphs[1], other)
            self._made[name, other] = None if quant is None else _fake_quantized(value, stored, quant)
        return self._made[name, other]


def _fake_quantized(value: Array, integers: Array, quant: Quant) -> Array | None:
    if integers.size != value.size:
        return None
    if value.ndim >= 2:
        for layout in layouts(value.shape, integers.shape):
            found = _unfolded(layout.to_candidate(value), integers, quant)
            if found is not None:
                return np.asarray(layout.to_reference(found).astype(value.dtype), order="C")
    stored = quant.dequantize(integers)
    if value.size and not np.ptp(value) and not np.ptp(stored):  # one number: no layout to be found, nor needed
        whole = np.broadcast_to(stored.reshape(-1)[0], value.shape)
        return whole.astype(value.dtype) if _rounded_only(value, whole, quant) else None
    alike = _layout(value, stored)
    if alike is None:
        return None
    if not _rounded_only(alike.to_candidate(value), stored, quant):
        if value.ndim < 2:
            return None  # of a normalization's vectors another one may look like it
        stored = _requantized(value, alike, quant, integers.dtype)
    return np.asarray(alike.to_reference(stored).astype(value.dtype), order="C")


def _unfolded(value: Array, integers: Array, quant: Quant) -> Array | None:
    """What a weight is on the other side's grid, where each channel is the rounded one times a number of its own: a
    normalization that the other side folded into it. None where most channels are not.

    A channel that is not (a fault is in it) gets the grid that a converter would choose.
    """
    axis = 0 if quant.axis is None else quant.axis
    weight = np.moveaxis(value.astype(np.float64), axis, 0)
    channels = weight.reshape(weight.shape[0], -1)
    zero, step = (
        np.broadcast_to(v.astype(np.float64).reshape(-1, 1), (len(channels), 1))
        for v in (quant.zero_point, quant.scale)
    )
    steps = np.moveaxis(integers.astype(np.float64), axis, 0).reshape(channels.shape) - zero
    factor = _factors(channels, steps, step, float(np.iinfo(integers.dtype).max))
    known = np.isfinite(factor)
    if 2 * np.count_nonzero(known) <= len(channels):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        rounded = np.where(known, steps * step / factor, _on_own_grid(channels, float(np.iinfo(integers.dtype).max)))
    found: Array = np.moveaxis(rounded.reshape(weight.shape), 0, axis)
    return found


def _factors(channels: Array, steps: Array, step: Array, most: float) -> Array:
    """(channels, 1): a number times which each channel rounds to these steps, nan where there is none.

    Of the numbers between the bounds that the elements set: what a converter would choose (the largest weight at the
    end of the grid, of either sign) or 1, whichever fits more channels first; else the middle. A factor that was folded
    in may be so near 1 that 1 fits that channel too.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(steps - HALF_STEP) * step / channels, (steps + HALF_STEP) * step / channels])
        zeros = channels == 0
        low = np.where(zeros, -np.inf, ends.min(axis=0)).max(axis=1, keepdims=True)
        high = np.where(zeros, np.inf, ends.max(axis=0)).min(axis=1, keepdims=True)
        usual = step * most / np.max(np.abs(channels), axis=1, keepdims=True)
    dead = (zeros & (np.abs(steps) > HALF_STEP)).any(axis=1, keepdims=True)
    empty = zeros.all(axis=1, keepdims=True)
    found = np.where(empty, 1.0, (low + high) / 2)
    choices = [(c, (low <= c) & (c <= high)) for c in (np.where(usual <= high, usual, -usual), np.ones_like(usual))]
    for choice, fits in sorted(choices, key=lambda pair: np.count_nonzero(pair[1])):  # the last one stays
        found = np.where(fits, choice, found)
    return np.where(dead | (low > high) | (found == 0), np.nan, found)


def _on_own_grid(channels: Array, most: float) -> Array:
    scale = _nonzero(np.max(np.abs(channels), axis=1, keepdims=True) / most)
    rounded: Array = np.round(channels / scale) * scale
    return rounded


def _weights(graph: Graph, output: str, paired: Iterable[str]) -> list[str]:
    """The constants read between `output` and the paired tensors before it."""
    stop, producers = set(paired), graph.producers()
    met = upward(graph, [output], lambda i: i not in stop and i not in graph.stored)
    found = dict.fromkeys(i for _, i in met if i in graph.stored and i not in stop)
    made = ((i, producers.get(i)) for i in found)
    return [i if node is None or node.canonical != "DequantizeLinear" else node.inputs[0] for i, node in made]


def _is_float(graph: Graph, name: str) -> bool:
    return name in graph.tensors and graph.tensors[name].dtype in FLOAT_DTYPES


def _quant(graph: Graph, name: str) -> Quant | None:
    info = graph.tensors.get(name)
    return info.quant if info is not None and info.dtype in ("int8", "uint8", "int4") else None


def _layout(reference: Array, candidate: Array) -> Layout | None:
    """How the candidate's weight is laid out: the best layout by value, if it is the same weight at all."""
    best: tuple[float, Layout] | None = None
    for layout in layouts(reference.shape, candidate.shape):
        error = sampled_error(reference.reshape(-1).astype(np.float64), layout.to_reference(candidate).reshape(-1))
        if best is None or error < best[0]:
            best = (error, layout)
    return best[1] if best is not None and best[0] < SAME_WEIGHT else None


def _rounded_only(value: Array, stored: Array, quant: Quant) -> bool:
    """Whether a weight differs from its quantized form by no more than rounding to that one's own grid."""
    steps = quant.scale.astype(np.float64)
    if quant.axis is not None and steps.size > 1:
        steps = steps.reshape([-1 if k == quant.axis % value.ndim else 1 for k in range(value.ndim)])
    return bool(np.all(np.abs(value.astype(np.float64) - stored) <= HALF_STEP * steps))


def _requantized(value: Array, layout: Layout, quant: Quant, dtype: np.dtype) -> Array:
    """In the candidate's layout: quantized with the scales that a converter would choose, and back."""
    moved = layout.to_candidate(value).astype(np.float64)
    per_tensor = quant.axis is None or quant.scale.size == 1
    axes = None if per_tensor else tuple(i for i in range(moved.ndim) if i != quant.axis)
    limits = np.iinfo(dtype)
    if np.any(quant.zero_point):  # an operand that is no weight: the whole range, zero included
        low = np.minimum(moved.min(axis=axes, keepdims=True), 0.0)
        high = np.maximum(moved.max(axis=axes, keepdims=True), 0.0)
        scale = _nonzero((high - low) / (limits.max - limits.min))
        zero = np.round(limits.min - low / scale)
    else:
        scale = _nonzero(np.max(np.abs(moved), axis=axes, keepdims=True) / limits.max)
        zero = np.zeros_like(scale)
    chosen = Quant(scale.reshape(-1), zero.reshape(-1).astype(np.int64), None if per_tensor else quant.axis)
    return chosen.dequantize(chosen.quantize(moved, dtype))


def _nonzero(scale: Array) -> Array:
    """Scales as files hold them (float32), 1 for a channel of zeros."""
    single: Array = np.where(scale > 0, scale, 1.0).astype(np.float32).astype(np.float64)
    return single
