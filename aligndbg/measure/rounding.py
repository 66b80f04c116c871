"""The inner tensors that a region rounds, and what that may cost in quantization steps."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass

from aligndbg.core.moves import MOVING
from aligndbg.core.qdq import read_through
from aligndbg.core.regions import upward
from aligndbg.core.types import Graph, Pair
from aligndbg.measure.thresholds import INNER_LSB, OWN_LSB

__all__ = ["Rounding", "Roundings", "inner_roundings"]


PASSING = MOVING | {"Relu", "Clip", "LeakyRelu", "Add", "Sub", "MaxPool", "AveragePool", "Concat", "Resize"}


@dataclass(frozen=True)
class Rounding:
    """The unpaired tensors that a region computes and rounds: `count`, and what they may add to its error in LSB."""

    count: int
    lsb: float


class Roundings:
    """What regions round on the quantized side; on the candidate's where both are.

    `pairs` are their borders, and so are the tensors `fed`: what some reader of a paired one gets of it.
    """

    def __init__(self, reference: Graph, candidate: Graph, pairs: Iterable[Pair], fed: Iterable[str] = ()) -> None:
        self._theirs = any(info.quant is not None for info in candidate.tensors.values())
        self._graph = candidate if self._theirs else reference
        self._borders = _borders(self._graph, [self._name(p) for p in pairs]).union(fed)
        # Without any grid between operators (dynamic-range weights) each rounds what it is given.
        self._explicit = any(_step(self._graph, o) for node in self._graph.nodes for o in node.outputs)
        self._known: dict[str, Rounding | None] = {}

    def of(self, pair: Pair) -> Rounding | None:
        """That of the region that ends at `pair`; None where nothing inside is rounded."""
        name = self._name(pair)
        if name not in self._known:
            self._known[name] = self._of(name)
        return self._known[name]

    def _of(self, name: str) -> Rounding | None:
        graph, inside = self._graph, _computed_inside(self._graph, name, self._borders)
        rounded = [n for n in inside if _step(graph, n) or not self._explicit]
        return Rounding(len(rounded), sum(_cost(graph, n, name) for n in rounded)) if rounded else None

    def _name(self, pair: Pair) -> str:
        return pair.candidate if self._theirs else pair.reference


def inner_roundings(
    reference: Graph, candidate: Graph, pairs: Iterable[Pair], fed: Iterable[str] = ()
) -> dict[str, Rounding]:
    """For each pair (by reference name) whose region rounds inner tensors, what that costs."""
    known = list(pairs)
    roundings = Roundings(reference, candidate, known, fed)
    return {p.reference: found for p in known if (found := roundings.of(p))}


def _borders(graph: Graph, paired: Collection[str]) -> set[str]:
    """Where regions end: what is paired, as it is or put on a grid and back, and what is not computed."""
    read = (read_through(graph.consumers(), name) for name in paired)
    return {*graph.inputs, *graph.constants, *paired, *(found[1] for found in read if found)}


def _computed_inside(graph: Graph, name: str, borders: Container[str]) -> list[str]:
    """The tensors between `name` and the borders before it that an operator computes, not merely moves."""
    producers = graph.producers()
    inside = dict.fromkeys(i for _, i in upward(graph, [name], lambda i: i not in borders) if i not in borders)
    return [n for n in inside if n != name and n in producers and producers[n].canonical not in MOVING]


def _cost(graph: Graph, inner: str, output: str) -> float:
    """What rounding `inner` may add to the error of `output`, in steps of that.

    It may be off by OWN_LSB of its own steps; where what reads it passes that on as it is, this is known in steps of
    the output, else it is taken for INNER_LSB of them.
    """
    step = _step(graph, output)
    if step and all(reader.canonical in PASSING for reader in graph.consumers().get(inner, ())):
        return max(INNER_LSB, OWN_LSB * _step(graph, inner) / step)
    return INNER_LSB


def _step(graph: Graph, name: str) -> float:
    info = graph.tensors.get(name)
    return float(info.quant.scale[0]) if info is not None and info.quant is not None else 0.0
