"""How the two values of a pair are read: their real values, in the reference's layout, on one grid where asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aligndbg.core.types import Array, Pair, Quant, Trace
from aligndbg.measure.tolerance import QUANTIZED

__all__ = ["Grids", "Reading", "Value", "as_they_are", "on_one_grid"]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor as it is stored, and the quantization that gives its real values."""

    array: Array
    quant: Quant | None = None

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
            if quant is not None and info is not None and info.dtype in QUANTIZED and quant.scale.size == 1:
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
    theirs, ours = _value(right, pair.candidate).without_axis(), _value(left, pair.reference)
    if theirs.quant is None and (stored := grids[1].stored(pair.candidate)):
        theirs = _value(right, stored)
    if ours.quant is None and (stored := grids[0].stored(pair.reference)):
        ours = _value(left, stored)
    if theirs.quant is not None and ours.quant is None:
        for quant, dtype in grids[1].passed(pair.candidate):  # what one of those cut off is lost
            ours = Value(quant.dequantize(quant.quantize(ours.array, dtype)))
        ours = ours.on_grid_of(theirs)
    theirs = _moved(pair, theirs)
    if theirs.quant is None and ours.quant is not None and ours.quant.axis is None:
        theirs = theirs.on_grid_of(ours)
    return Reading(ours, theirs)


def _value(trace: Trace, name: str) -> Value:
    return Value(trace.values[name], trace.quant(name))


def _moved(pair: Pair, theirs: Value) -> Value:
    return Value(pair.layout.to_reference(theirs.array), theirs.quant)
