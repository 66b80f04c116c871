"""Walks on a graph: the region before a tensor, and the nearest paired tensors after it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

from aligndbg.core.types import Graph, Key, Node, Pair, Region

__all__ = ["needed", "next_pairs", "next_tensors", "region", "upward"]


def upward(graph: Graph, start: Iterable[str], through: Callable[[str], bool]) -> Iterator[tuple[Node, str]]:
    """Each node that computes `start`, with each of its inputs; and on up `through` those that say yes, each once."""
    producers, stack = graph.producers(), list(start)
    seen = set(stack)
    while stack:
        node = producers.get(stack.pop())
        if node is None:
            continue
        for i in filter(None, dict.fromkeys(node.inputs)):
            yield node, i
            if i not in seen and through(i):
                seen.add(i)
                stack.append(i)


def next_pairs(consumers: Mapping[str, Sequence[Node]], by_name: Mapping[str, Pair], name: str) -> list[Pair]:
    """The nearest paired tensors computed from `name`, each once."""
    start = [o for node in consumers.get(name, ()) for o in node.outputs]
    return [by_name[n] for n in next_tensors(consumers, by_name, start) if n != name]


def next_tensors(consumers: Mapping[str, Sequence[Node]], wanted: Container[str], start: Iterable[str]) -> list[str]:
    """The nearest `wanted` tensors among `start` and what is computed from it, each once."""
    found: dict[str, None] = {}
    stack, seen = [o for o in start if o], set[str]()
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in wanted:
            found[name] = None
        else:
            stack += [o for node in consumers.get(name, ()) for o in node.outputs if o]
    return list(found)


def needed(graph: Graph, fetch: Iterable[str], overrides: Container[Key]) -> tuple[list[int], set[str]]:
    """The places of the nodes that `fetch` is computed by, given the overrides; and the graph inputs that are read."""
    producers, places, inputs = graph.producers(), graph.places(), set(graph.inputs)
    found: set[int] = set()
    fed: set[str] = set()
    stack, seen = list(fetch), set[str]()
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        node = producers.get(name)
        if node is None:
            fed.update({name} & inputs)
        elif places[node.name] not in found:
            found.add(places[node.name])
            stack += [i for i in node.inputs if i and i not in overrides and (i, node.name) not in overrides]
    return sorted(found), fed


def region(graph: Graph, output: str, paired: Container[str]) -> Region:
    """The nodes between `output` and the nearest paired tensors (or inputs and constants) before it."""

    producers = graph.producers()

    def border(name: str) -> bool:
        return name in paired or name in graph.inputs

    def inner(name: str) -> bool:
        return not border(name) and name not in graph.stored

    met = dict.fromkeys(i for _, i in upward(graph, [output], inner))
    nodes = {producers[i].name for i in (output, *filter(inner, met)) if i in producers}
    inputs = [i for i in met if border(i) and i != output]
    return Region(tuple(sorted(nodes, key=graph.places().__getitem__)), tuple(inputs), (output,))
