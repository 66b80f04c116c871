"""Ways through one side's graph, seen from what is paired."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Iterable

from aligndbg.core.moves import PASSIVE_OPS
from aligndbg.core.types import Node
from aligndbg.match.side import Side

__all__ = ["above", "broken", "computed_from", "reach", "sinks"]


def sinks(side: Side) -> list[str]:
    """The comparable tensors that hold the model's outputs, or from which those are made: the nearest ones."""
    found: dict[str, None] = {}
    for output in side.graph.outputs:
        stack, seen = [output], {output}
        while stack:
            name = stack.pop()
            node = side.node(name)
            if name in side.comparable:
                found.setdefault(name)
            elif node is not None:
                fresh = [i for i in side.data_inputs(node) if i not in seen]
                seen.update(fresh)
                stack += fresh
    return list(found)


def broken(side: Side, paired: Container[str], ends: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """What lies unpaired on the way up from `ends`: in execution order with its depth in that part, from 1 on; and the
    paired tensors that it starts from."""
    bad: set[str] = set()
    border: set[str] = set()
    stack = [name for name in ends if name not in paired]
    while stack:
        name = stack.pop()
        if name in bad:
            continue
        bad.add(name)
        node = side.node(name)
        for i in side.data_inputs(node, made=True) if node is not None else ():
            if i in paired:
                border.add(i)
            elif i not in side.inputs:
                stack.append(i)
    depth: dict[str, int] = {}
    for node in side.graph.nodes:
        for o in node.outputs:
            if o in bad:
                depth[o] = 1 + max((depth.get(i, 0) for i in side.data_inputs(node, made=True)), default=0)
    return {n: depth.get(n, 1) for n in side.names if n in bad}, [n for n in side.names if n in border]


def reach(
    side: Side, start: Iterable[Node], paired: Container[str], most: int | None = None
) -> tuple[list[str], list[str]]:
    """What the nodes `start` compute, and what is computed from that through unpaired tensors, nearest first: the
    unpaired ones (`most` of them), and the paired ones right below."""
    inner: list[str] = []
    ends: list[str] = []
    queue, seen = deque(start), set[str]()
    while queue:
        for o in queue.popleft().outputs:
            if not o or o in seen:
                continue
            seen.add(o)
            if o in paired:
                ends.append(o)
                continue
            inner.append(o)
            if most is None or len(inner) < most:
                queue.extend(side.consumers.get(o, ()))
    return inner, ends


def above(side: Side, name: str, paired: Container[str]) -> tuple[list[str], list[str]]:
    """The unpaired tensors that `name` is computed from, nearest first, and the paired ones that those start from."""
    inner: list[str] = []
    ends: list[str] = []
    queue, seen = deque([name]), {name}
    while queue:
        node = side.node(queue.popleft())
        for i in side.data_inputs(node, made=True) if node is not None else ():
            if i not in seen:
                seen.add(i)
                (ends if i in paired else inner).append(i)
                if i not in paired:
                    queue.append(i)
    return inner, ends


def computed_from(side: Side, name: str) -> Collection[str]:
    """Every tensor computed from `name` by more than moves."""
    found: set[str] = set()
    moved = {name}
    stack = [(name, False)]
    while stack:
        at, computed = stack.pop()
        for node in side.consumers.get(at, ()):
            now = computed or node.canonical not in PASSIVE_OPS
            known = found if now else moved
            for o in node.outputs:
                if o and o not in known:
                    known.add(o)
                    stack.append((o, now))
    return found
