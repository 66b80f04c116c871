"""What a reader gets of a float tensor that is quantized and dequantized between operators (ONNX Q/DQ)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aligndbg.core.types import Array, Node, Trace

__all__ = ["as_read", "read_through"]

Consumers = Mapping[str, Sequence[Node]]
# Ties are rounded away from zero here, and to even by runtimes; the rest is float32's own rounding.
ONE_STEP = 1.01


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
        apart = float(np.max(np.abs(np.where(seen == expected, 0.0, seen.astype(np.float64) - expected)), initial=0.0))
    return seen if apart <= ONE_STEP * float(quant.scale.max()) else value
