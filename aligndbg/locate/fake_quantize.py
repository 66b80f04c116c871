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
from aligndbg.core.types import FLOAT_DTYPES, Array, Graph, Layout, Node, Quant, Trace

__all__ = ["fake_quantized_feeds", "fake_quantized_weights"]


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


def fake_quantized_weights(
    counterparts: Mapping[str, str], reference: Graph, candidate: Graph, read_reference: Read, read_candidate: Read
) -> dict[str, Array]:
    """Float weights (by constant name, own layout and dtype) put on the grids of the quantized side's.

    Where the quantized weight is the float one rounded to its own grid, that is what is used, whatever its scale; else
    (clipped, scaled, another weight) the float one on the grid that a converter would choose.

    Here `reference` is the float side and `candidate` the quantized one, whichever they are in the diff, and
    `counterparts` are the pairs in that order. Weights are paired inside each pair's region by size and value. One that
    has no counterpart is left as it is.
    """
    ours = counterparts
    theirs = set(ours.values())
    producers_r, producers_c = reference.producers(), candidate.producers()
    wanted: list[tuple[list[str], list[str]]] = []
    for r, c in ours.items():
        left = [n for n in _weights(producers_r, r, ours, reference) if _is_float(reference, n)]
        right = [n for n in _weights(producers_c, c, theirs, candidate) if _quant(candidate, n) is not None]
        if left and right:
            wanted.append((left, right))
    values_r = read_reference(sorted({n for left, _ in wanted for n in left}))
    values_c = read_candidate(sorted({n for _, right in wanted for n in right}))
    out: dict[str, Array] = {}
    for left, right in wanted:
        for name in left:
            value = values_r[name]
            for other in right:
                quant = _quant(candidate, other)
                if quant is None or values_c[other].size != value.size:
                    continue
                stored = quant.dequantize(values_c[other])
                layout = _layout(value, stored)
                if layout is None:
                    continue
                if not _rounded_only(layout.to_candidate(value), stored, quant):
                    if value.ndim < 2:
                        continue  # of a normalization's vectors another one may look like it
                    stored = _requantized(value, layout, quant, values_c[other].dtype)
                out[name] = np.asarray(layout.to_reference(stored).astype(value.dtype), order="C")
    return out


def _weights(producers: Mapping[str, Node], output: str, paired: Iterable[str], graph: Graph) -> list[str]:
    """The constants read between `output` and the paired tensors before it."""
    stop, found, stack, seen = set(paired), [], [output], {output}
    while stack:
        node = producers.get(stack.pop())
        for i in node.inputs if node else ():
            if not i or i in seen:
                continue
            seen.add(i)
            if i in graph.constants:
                made = producers.get(i)
                found.append(made.inputs[0] if made is not None and made.canonical == "DequantizeLinear" else i)
            elif i not in stop:
                stack.append(i)
    return found


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
