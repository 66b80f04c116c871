"""Walks on a graph: the region before a tensor, and the nearest paired tensors after it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from aligndbg.core.types import Graph, Node, Pair, Region

__all__ = ["next_pairs", "region"]


def next_pairs(consumers: Mapping[str, Sequence[Node]], by_name: Mapping[str, Pair], name: str) -> list[Pair]:
    """The nearest paired tensors computed from `name`, each once."""
    found: dict[str, Pair] = {}
    stack, seen = [name], {name}
    while stack:
        for node in consumers.get(stack.pop(), ()):
            for o in node.outputs:
                if not o or o in seen:
                    continue
                seen.add(o)
                if o in by_name:
                    found[o] = by_name[o]
                else:
                    stack.append(o)
    return list(found.values())


def region(graph: Graph, output: str, paired: Container[str]) -> Region:
    """The nodes between `output` and the nearest paired tensors (or inputs and constants) before it."""
    producers = graph.producers()
    nodes: dict[str, None] = {}
    inputs: dict[str, None] = {}
    stack, seen = [output], {output}
    while stack:
        node = producers.get(stack.pop())
        if node is None:
            continue
        nodes.setdefault(node.name)
        for i in node.inputs:
            if not i or i in seen or i in graph.constants:
                continue
            seen.add(i)
            if i in paired or i in graph.inputs:
                inputs.setdefault(i)
            else:
                stack.append(i)
    return Region(tuple(sorted(nodes, key=graph.places().__getitem__)), tuple(inputs), (output,))
