"""A graph for a recording that has none, good enough to propose by: what experiments then decide.

Tensors of the names that the other side's graph has are taken to be computed as there; where hardly a name is known,
each is taken to be computed from the one that was recorded before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import replace

from aligndbg.core.regions import upward
from aligndbg.core.types import Graph, Node, Trace

__all__ = ["borrowed"]


def borrowed(recording: Trace, other: Graph) -> Trace:
    """The recording with the graph that is supposed; itself where it has one."""
    if recording.graph.nodes:
        return recording
    fed = set(recording.feeds or ())
    names = [n for n in recording.order if n in recording.values and n not in fed]
    known = {n for n in other.tappable() if n in set(names)}
    by_name = 2 * len(known) >= len(names)
    nodes = _by_name(other, known) if by_name else _in_order(names)
    ends = [n for n in other.outputs if n in known] if by_name else names[-1:]
    graph = replace(recording.graph, nodes=tuple(nodes), outputs=tuple(ends))
    return replace(recording, graph=graph)


def _by_name(other: Graph, known: Set[str]) -> Iterable[Node]:
    """The other side's nodes that end in a recorded tensor, each reading the nearest recorded ones above it."""
    recorded = {*known, *other.inputs}
    for node in other.nodes:
        for name in known & set(node.outputs):
            met = upward(other, [name], lambda i: i not in recorded)
            read = dict.fromkeys(i for _, i in met if i in recorded)
            yield Node(node.op_type, f"recorded {name}", tuple(read), (name,), canonical=node.canonical)


def _in_order(names: list[str]) -> Iterable[Node]:
    for before, name in zip(["", *names], names, strict=False):
        yield Node("", f"recorded {name}", (before,) if before else (), (name,))
