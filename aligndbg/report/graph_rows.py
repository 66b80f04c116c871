"""Both graphs as two columns of rows: paired nodes on one row where the order allows it. Pure functions of indices."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

__all__ = ["rows"]

Sources = Sequence[Sequence[int]]


def rows(left: Sources, right: Sources, pairs: Mapping[int, int]) -> tuple[list[int], list[int]]:
    """The row of each node on each side.

    `left` and `right` give, for each node in execution order, the nodes it reads; `pairs` maps right nodes to left
    ones. The left side keeps its order. The right one's is another topological order of the same graph, as near to
    the left's as its edges allow: the two runtimes' own orders may differ a lot.
    """
    order = _near_order(right, pairs)
    anchors = _increasing([(k, pairs[n]) for k, n in enumerate(order) if n in pairs])
    row_left, row_right = [0] * len(left), [0] * len(right)
    row = seen_left = seen_right = 0
    for stop_right, stop_left in [*anchors, (len(order), len(left))]:
        gap_left, gap_right = range(seen_left, stop_left), range(seen_right, stop_right)
        for k, node in enumerate(gap_left):
            row_left[node] = row + k
        for k, place in enumerate(gap_right):
            row_right[order[place]] = row + k
        row += max(len(gap_left), len(gap_right))
        if stop_left < len(left):
            row_left[stop_left] = row_right[order[stop_right]] = row
        row += 1
        seen_left, seen_right = stop_left + 1, stop_right + 1
    return row_left, row_right


def _near_order(sources: Sources, pairs: Mapping[int, int]) -> list[int]:
    """A topological order by the paired node's place; an unpaired node comes just before the first that needs it."""
    readers: list[list[int]] = [[] for _ in sources]
    for node, read in enumerate(sources):
        for source in read:
            readers[source].append(node)
    key = [0.0] * len(sources)
    for node in reversed(range(len(sources))):
        below = min((key[r] for r in readers[node]), default=float("inf"))
        key[node] = pairs.get(node, below)
    waiting = [len(set(read)) for read in sources]
    ready = [(key[n], n) for n, count in enumerate(waiting) if not count]
    heapify(ready)
    order = []
    while ready:
        node = heappop(ready)[1]
        order.append(node)
        for reader in dict.fromkeys(readers[node]):
            waiting[reader] -= 1
            if not waiting[reader]:
                heappush(ready, (key[reader], reader))
    return order


def _increasing(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest run of `places` whose second number increases (the first one does)."""
    tails: list[int] = []
    held: list[int] = []
    before: list[int] = []
    for k, (_, value) in enumerate(places):
        at = bisect_left(tails, value)
        tails[at : at + 1] = [value]
        held[at : at + 1] = [k]
        before.append(held[at - 1] if at else -1)
    out = []
    k = held[-1] if held else -1
    while k >= 0:
        out.append(places[k])
        k = before[k]
    return out[::-1]
