"""Tensors and weights on grids, and what a reader gets of a float tensor that is quantized and dequantized between
operators (ONNX Q/DQ)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aligndbg.core.types import Array, Node, Trace

__all__ = ["as_read", "is_coarse", "is_quantized", "put_on_grids", "quantized_weights", "read_through"]

Consumers = Mapping[str, Sequence[Node]]
# Ties are rounded away from zero here, and to even by runtimes; the rest is float32's own rounding.
ONE_STEP = 1.01


def is_quantized(trace: Trace) -> bool:
    """Whether it has tensors on a grid."""
    return any(trace.quant(name) is not None for name in trace.values)


def quantized_weights(trace: Trace) -> bool:
    """Weights on a grid that an operator reads as they are, as in dynamic-range models whose activations stay float."""
    graph = trace.graph
    grids = {n for n in graph.constants if n in graph.tensors and graph.tensors[n].quant is not None}
    return any(n in grids for node in graph.nodes if node.canonical != "DequantizeLinear" for n in node.inputs)


def is_coarse(trace: Trace) -> bool:
    """Whether it rounds to grids: tensors in steps, or weights that operators read in steps."""
    return is_quantized(trace) or quantized_weights(trace)


def read_through(consumers: Consumers, name: str) -> tuple[str, str] | None:
    """What is stored and what is read where a float tensor is only read once it is put on a grid; else None.

    What is read is dequantized again (ONNX), or it is what is stored (TFLite).
    """
    readers = consumers.get(name, ())
    if len(readers) != 1 or readers[0].canonical != "QuantizeLinear":
        return None
    stored = readers[0].outputs[0]
    read = _read_of(consumers, stored)
    return (stored, read) if read else None


def put_on_grids(consumers: Consumers, name: str) -> dict[str, str]:
    """By the name of each QuantizeLinear that reads a tensor, what is read in the end: on the last grid of a chain of
    them, dequantized again where all that read it do so."""
    found = {}
    for node in consumers.get(name, ()):
        if node.canonical != "QuantizeLinear":
            continue
        stored = node.outputs[0]
        while len(back := consumers.get(stored, ())) == 1 and back[0].canonical == "QuantizeLinear":
            stored = back[0].outputs[0]
        if read := _read_of(consumers, stored):
            found[node.name] = read
    return found


def _read_of(consumers: Consumers, stored: str) -> str:
    """What is read of a tensor on a grid: itself, or what it is dequantized to; "" where nothing or both is."""
    back = consumers.get(stored, ())
    again = {node.canonical == "DequantizeLinear" for node in back}
    if len(again) != 1:
        return ""
    return back[0].outputs[0] if again == {True} else stored


def as_read(trace: Trace, consumers: Consumers, name: str, value: Array) -> Array:
    """A float tensor as what reads it gets it: of one that is put on a grid, what that leaves.

    A quantized model rounds between its operators; the next one is at fault only for what it does with the rounded
    values. `value` as it is where what is read is not that, as with two unlike scales.
    """
    found = read_through(consumers, name)
    if found is None or any(n not in trace.values for n in found):
        return value
    stored, back = found
    quant, seen = trace.quant(stored), trace.values[back]
    if quant is None or seen.shape != value.shape:
        return value
    expected = quant.dequantize(quant.quantize(value, trace.values[stored].dtype))
    if back == stored:
        seen = quant.dequantize(seen)
    with np.errstate(invalid="ignore"):
        apart = float(np.max(np.abs(np.where(seen == expected, 0.0, seen.astype(np.float64) - expected)), initial=0.0))
    return seen if apart <= ONE_STEP * float(quant.scale.max()) else value
