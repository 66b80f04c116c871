"""What each reader of a tensor gets of it: a side may put it on a grid for some of its readers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aligndbg.core.qdq import put_on_grids
from aligndbg.core.regions import next_tensors, upward
from aligndbg.core.types import Graph, Node
from aligndbg.locate.experiments import Cut

__all__ = ["reads"]


def reads(leader: Graph, follower: Graph, cuts: Iterable[Cut]) -> dict[tuple[str, str], Cut]:
    """By (tensor, node) of the follower, the leader's tensor that the counterpart of that reader gets, where it is
    another one than the cut's: what is left of that by grids before this one reader."""
    known = [c for c in cuts if not c.edge and not c.watched and not c.border]
    partners, theirs = {c.follower: c.leader for c in known}, {c.leader for c in known}
    readers, ours = leader.consumers(), follower.consumers()
    found: dict[tuple[str, str], Cut] = {}
    for cut in known:
        grids = put_on_grids(readers, cut.leader)
        if not grids or len(readers.get(cut.leader, ())) < 2:
            continue
        for node in ours.get(cut.follower, ()):
            below = [partners[n] for n in next_tensors(ours, partners, node.outputs)]
            on_the_way = {n.name for name in below for n in _readers_above(leader, name, cut.leader, theirs)}
            if len(on_the_way) == 1 and (read := grids.get(on_the_way.pop())):
                found[cut.follower, node.name] = Cut(read, cut.follower, cut.layout, edge=node.name)
    return found


def _readers_above(graph: Graph, name: str, source: str, stop: set[str]) -> Sequence[Node]:
    """The readers of `source` through which `name` is computed from it, past no tensor of `stop`."""
    return [node for node, i in upward(graph, [name], lambda i: i not in stop) if i == source]
