"""Judging a quantized candidate fairly: the reference computes from the candidate's own grid values and weights.

An int8 op is at fault only for what it does with the integers it was given. So its float counterpart is run on
dequantized inputs, with weights put on the grid that a converter would choose (per channel, max|w| / 127), and the
result is quantized as the candidate's output is: clean kernels then stay within one step. Knows no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aligndbg._types import FLOAT_DTYPES, Array, Graph, Layout, Node, Pair, Quant, Trace
from aligndbg.faults import MOVING
from aligndbg.match.layouts import layouts, sampled_error

__all__ = ["Rounding", "as_read", "grid_feeds", "grid_weights", "inner_roundings", "read_through"]

Read = Callable[[Sequence[str]], Mapping[str, Array]]
# A region that rounds inner tensors to int8 too has no strict bound in steps of its output: clean ones were measured
# at 3 with one inner tensor, 42 with many (a decomposed normalization).
STEP_LSB = 3.0
PASSING = MOVING | {"Relu", "Clip", "LeakyRelu", "Add", "Sub", "MaxPool", "AveragePool", "Concat", "Resize"}
LIKE = 0.5  # error (of the spread) under which two weights are the same one, quantization and a fault included


def grid_feeds(
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


def grid_weights(
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
                    stored = _on_grid(value, layout, quant, values_c[other].dtype)
                out[name] = np.asarray(layout.to_reference(stored).astype(value.dtype), order="C")
    return out


Consumers = Mapping[str, Sequence[Node]]


def read_through(consumers: Consumers, name: str) -> tuple[str, str] | None:
    """What is stored and what is read where a float tensor is only read put on a grid and back; else None."""
    readers = consumers.get(name, ())
    if len(readers) != 1 or readers[0].canonical != "QuantizeLinear":
        return None
    stored = readers[0].outputs[0]
    back = consumers.get(stored, ())
    if not back or any(node.canonical != "DequantizeLinear" for node in back):
        return None
    return stored, back[0].outputs[0]


def as_read(trace: Trace, consumers: Consumers, name: str, value: Array) -> Array:
    """A float tensor as what reads it gets it: of one that is put on a grid and back, what comes back.

    An explicitly quantized model (Q/DQ) rounds between its float operators; the next one is at fault only for what it
    does with the rounded values. `value` as it is where what comes back is not that, as with two unlike scales.
    """
    found = read_through(consumers, name)
    if found is None or any(n not in trace.values for n in found):
        return value
    stored, back = found
    quant, seen = trace.quant(stored), trace.values[back]
    if quant is None or seen.shape != value.shape:
        return value
    expected = quant.dequantize(quant.quantize(value, trace.values[stored].dtype))
    with np.errstate(invalid="ignore"):
        apart = float(np.max(np.abs(seen.astype(np.float64) - expected), initial=0.0))
    return seen if apart <= 1.01 * float(quant.scale.max()) else value


@dataclass(frozen=True)
class Rounding:
    """The unpaired tensors that a region computes and rounds: `count`, and what they may add to its error in LSB."""

    count: int
    lsb: float


def inner_roundings(reference: Graph, candidate: Graph, pairs: Iterable[Pair]) -> dict[str, Rounding]:
    """For each pair (by reference name) whose region rounds inner tensors, what that costs.

    That is on the quantized side; on the candidate's where both are.

    An inner tensor may be off by 1.5 of its own steps; where what reads it passes that on as it is, this is known in
    steps of the region's output, else it is taken for STEP_LSB of them.
    """
    theirs = any(info.quant is not None for info in candidate.tensors.values())
    graph = candidate if theirs else reference
    names = {p.reference: p.candidate if theirs else p.reference for p in pairs}
    producers, consumers = graph.producers(), graph.consumers()
    paired = set(names.values())
    paired |= {found[1] for n in paired if (found := read_through(consumers, n))}
    stop = paired | set(graph.inputs) | graph.constants
    explicit = any(_step(graph, o) for node in graph.nodes for o in node.outputs)
    out: dict[str, Rounding] = {}
    for key, name in names.items():
        stack, seen = [name], {name}
        while stack:
            node = producers.get(stack.pop())
            for i in node.inputs if node else ():
                if i and i not in seen and i not in stop:
                    seen.add(i)
                    stack.append(i)
        computed = [
            n
            for n in seen
            if n != name
            and n in producers
            and producers[n].canonical not in MOVING
            # Without any grid between operators (dynamic-range weights) each rounds what it is given.
            and (_step(graph, n) or not explicit)
        ]
        if computed:
            own = _step(graph, name)
            costs = [
                max(STEP_LSB, 1.5 * _step(graph, n) / own)
                if own and all(k.canonical in PASSING for k in consumers.get(n, ()))
                else STEP_LSB
                for n in computed
            ]
            out[key] = Rounding(len(computed), sum(costs))
    return out


def _step(graph: Graph, name: str) -> float:
    info = graph.tensors.get(name)
    return float(info.quant.scale[0]) if info is not None and info.quant is not None else 0.0


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
    return best[1] if best is not None and best[0] < LIKE else None


def _rounded_only(value: Array, stored: Array, quant: Quant) -> bool:
    """Whether a weight differs from its quantized form by no more than rounding to that one's own grid."""
    steps = quant.scale.astype(np.float64)
    if quant.axis is not None and steps.size > 1:
        steps = steps.reshape([-1 if k == quant.axis % value.ndim else 1 for k in range(value.ndim)])
    return bool(np.all(np.abs(value.astype(np.float64) - stored) <= 0.5001 * steps))


def _on_grid(value: Array, layout: Layout, quant: Quant, dtype: np.dtype) -> Array:
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
