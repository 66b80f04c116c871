"""The inner tensors that a region rounds, and what that may cost in quantization steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aligndbg.core.ops import MOVING
from aligndbg.core.qdq import read_through
from aligndbg.core.types import Graph, Pair

__all__ = ["Rounding", "inner_roundings"]


# A region that rounds inner tensors to int8 too has no strict bound in steps of its output: clean ones were measured
# at 3 with one inner tensor, 42 with many (a decomposed normalization).
STEP_LSB = 3.0
PASSING = MOVING | {"Relu", "Clip", "LeakyRelu", "Add", "Sub", "MaxPool", "AveragePool", "Concat", "Resize"}


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
