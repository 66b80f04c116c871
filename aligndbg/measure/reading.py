"""How the two values of a pair are read: their real values, in the reference's layout, on one grid where asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aligndbg.core.qdq import read_through
from aligndbg.core.types import Array, Pair, Quant, Trace
from aligndbg.measure.masks import LEAST, huge_values
from aligndbg.measure.metrics import compare
from aligndbg.measure.thresholds import MIN_COSINE

__all__ = ["Grids", "Reading", "Value", "as_readers_get_them", "as_they_are", "lost_to_a_mask", "on_one_grid"]

INTEGERS = frozenset({"int8", "uint8", "int16", "uint16"})  # that numpy knows


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor as it is stored, and the quantization that gives its real values."""

    array: Array
    quant: Quant | None = None

    @property
    def real(self) -> Array:
        return self.array if self.quant is None else self.quant.dequantize(self.array)

    def on_grid_of(self, other: Value) -> Value:
        """What the other's grid and its range leave of these real values."""
        assert self.quant is None
        assert other.quant is not None
        return Value(other.quant.dequantize(other.quant.quantize(self.array, other.array.dtype)))

    def without_axis(self) -> Value:
        """Dequantized where quantized per channel: its axis means nothing in the reference's layout."""
        if self.quant is not None and self.quant.axis is not None and self.quant.scale.size > 1:
            return Value(self.quant.dequantize(self.array))
        return self


@dataclass(frozen=True, eq=False)
class Reading:
    """Both values of a pair, in the reference's layout."""

    reference: Value
    candidate: Value


class Grids:
    """Of one side: the tensors on a grid that float tensors are dequantized from."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._stored: dict[str, str] = {}

    @property
    def between_operators(self) -> bool:
        """Whether float tensors are put on a grid and back between operators (Q/DQ)."""
        return any(self._source(name) for name in self._trace.graph.producers())

    def stored(self, name: str) -> str:
        """The tensor on a grid whose values a float tensor holds, "" where there is none: a DequantizeLinear may have
        another scale than what it reads was made with."""
        if name not in self._stored:
            source = self._source(name)
            quant = self._trace.quant(source) if source else None
            values = self._trace.values
            same = quant is not None and np.allclose(quant.dequantize(values[source]), values[name])
            self._stored[name] = source if same else ""
        return self._stored[name]

    def passed(self, name: str) -> list[tuple[Quant, str]]:
        """The grids, each with its dtype, that a value was put on one after the other before it came to `name`."""
        found: list[tuple[Quant, str]] = []
        node = self._trace.graph.producers().get(name)
        while node is not None and node.canonical in ("QuantizeLinear", "DequantizeLinear"):
            above = node.inputs[0]
            quant, info = self._trace.quant(above), self._trace.graph.tensors.get(above)
            if quant is not None and info is not None and info.dtype in INTEGERS and quant.scale.size == 1:
                found.append((quant, info.dtype))
            node = self._trace.graph.producers().get(above)
        return found[::-1]

    def _source(self, name: str) -> str:
        """The tensor on one grid that a DequantizeLinear makes `name` of, "" where there is none."""
        node = self._trace.graph.producers().get(name)
        if node is None or node.canonical != "DequantizeLinear" or node.inputs[0] not in self._trace.values:
            return ""
        quant = self._trace.quant(node.inputs[0])
        return node.inputs[0] if quant is not None and quant.scale.size == 1 else ""


def as_they_are(pair: Pair, left: Trace, right: Trace) -> Reading:
    """What both sides computed."""
    theirs = _value(right, pair.candidate).without_axis()
    return Reading(_value(left, pair.reference), _moved(pair, theirs))


def on_one_grid(pair: Pair, left: Trace, right: Trace, grids: tuple[Grids, Grids]) -> Reading:
    """Both on the grid of one of them, the candidate's before the reference's; as they are where neither has one.

    Of a float tensor that is dequantized from a grid, what is stored is read.
    """
    ours, theirs = _stored(pair, left, right, grids)
    if theirs.quant is not None and ours.quant is None:
        for quant, dtype in grids[1].passed(pair.candidate):  # what one of those cut off is lost
            ours = Value(quant.dequantize(quant.quantize(ours.array, dtype)))
        ours = ours.on_grid_of(theirs)
    theirs = _moved(pair, theirs)
    if theirs.quant is None and ours.quant is not None and ours.quant.axis is None:
        theirs = theirs.on_grid_of(ours)
    return Reading(ours, theirs)


def as_readers_get_them(pair: Pair, left: Trace, right: Trace) -> Reading:
    """The real values that what reads the two gets of them, each rounded by its own grid alone."""
    ours, theirs = (_rounded(trace, name) for trace, name in ((left, pair.reference), (right, pair.candidate)))
    return Reading(Value(ours), _moved(pair, Value(theirs)))


def lost_to_a_mask(pair: Pair, left: Trace, right: Trace, grids: tuple[Grids, Grids]) -> bool:
    """Whether a mask stretches the grid of one of the two so far that not even the direction of all else is left."""
    for trace, name in ((left, pair.reference), (right, pair.candidate)):
        if _hidden(trace.values[name], _rounded(trace, name)):
            return True
    ours, theirs = _stored(pair, left, right, grids)
    theirs = _moved(pair, theirs)
    for one, other in ((ours, theirs), (theirs, ours)):
        if one.quant is None and other.quant is not None and other.quant.scale.size == 1:
            return _hidden(one.array, one.on_grid_of(other).array)
    return False


def _rounded(trace: Trace, name: str) -> Array:
    """The real values that what reads a tensor gets, as far as its own grid goes: what is stored of it need not be
    there yet, in a run."""
    value = _value(trace, name)
    through = read_through(trace.graph.consumers(), name)
    quant = trace.quant(through[0]) if through and value.quant is None else None
    dtype = trace.graph.tensors[through[0]].dtype if quant is not None and through else ""
    if quant is None or dtype not in INTEGERS:
        return value.real
    return quant.dequantize(quant.quantize(value.array, dtype))


def _hidden(value: Array, read: Array) -> bool:
    """Whether a mask's huge values, or infinite ones, are all that is left of a float tensor."""
    if read is value or value.dtype.kind != "f" or not np.max(np.abs(value), initial=0.0) >= LEAST:
        return False
    rest = np.isfinite(value) & ~huge_values(value)
    return not rest.all() and bool(value[rest].any()) and not compare(value[rest], read[rest]).cosine >= MIN_COSINE


def _stored(pair: Pair, left: Trace, right: Trace, grids: tuple[Grids, Grids]) -> tuple[Value, Value]:
    """Both as they are stored, on a grid where there is one; the candidate's in its own layout."""
    ours, theirs = _value(left, pair.reference), _value(right, pair.candidate).without_axis()
    if theirs.quant is None and (stored := grids[1].stored(pair.candidate)):
        theirs = _value(right, stored)
    if ours.quant is None and (stored := grids[0].stored(pair.reference)):
        ours = _value(left, stored)
    return ours, theirs


def _value(trace: Trace, name: str) -> Value:
    return Value(trace.values[name], trace.quant(name))


def _moved(pair: Pair, theirs: Value) -> Value:
    return Value(pair.layout.to_reference(theirs.array), theirs.quant)
