"""Which pairs of a region are worth a closer look: for most, one look at each tensor tells that nothing speaks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from aligndbg.core.ops import KINDRED, ops_agree, written_with
from aligndbg.core.types import Node
from aligndbg.match.side import Side
from aligndbg.match.state import State

__all__ = ["possible"]


def possible(state: State, ours: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs, in order, that are not known to be far apart, or that share an input, or a weight, or of which one may be
    what the other's op ends in when it is written out. No other pair of nodes has any evidence but its place."""
    wide = set(theirs)
    evidence = _Evidence(state, theirs)
    for r in ours:
        found = wide - state.far[r]
        node = state.reference.node(r)
        if node is not None and len(found) < len(wide):
            evidence.add(node, found)
        if found:
            yield from ((r, c) for c in theirs if c in found)


class _Evidence:
    """The candidate's tensors of a region, by what could speak for them."""

    def __init__(self, state: State, theirs: Sequence[str]) -> None:
        self.state = state
        self.reading: dict[str, list[str]] = defaultdict(list)  # by the paired tensors that they are computed from
        self.reading_nothing: list[str] = []
        self.of_op: dict[str, list[str]] = defaultdict(list)
        self.weighted: list[tuple[str, Node, list[Node]]] = []
        for c in theirs:
            node = state.candidate.node(c)
            if node is None:
                continue
            for name in _held(state, state.candidate, node):
                self.reading[name].append(c)
            if not state.candidate.data_inputs(node):
                self.reading_nothing.append(c)
            for word in {node.tail, node.canonical}:
                self.of_op[word].append(c)
            if heads := _weighted(state, state.candidate, node):
                self.weighted.append((c, node, heads))

    def add(self, node: Node, found: set[str]) -> None:
        """Adds those for which something speaks as the counterpart of a reference's node."""
        state = self.state
        for name in _held(state, state.reference, node):
            found.update(self.reading.get(name, ()))
        if not state.reference.data_inputs(node):
            found.update(self.reading_nothing)
        for word in {w for own in (node.tail, node.canonical) for w in written_with(own)}:
            found.update(self.of_op.get(word, ()))
        heads = _weighted(state, state.reference, node)
        for c, other, more in self.weighted if heads else ():
            # Asked last: this has both models' weights read.
            if (
                c not in found
                and ops_agree(node, other) >= KINDRED
                and any(state.same_weight(one, two) for one in heads for two in more)
            ):
                found.add(c)


def _held(state: State, side: Side, node: Node) -> set[str]:
    """The candidate's names of the paired tensors that a node, or the op that it finishes, is computed from."""
    return {link.candidate for head in state.chain(side, node) for link in state.inputs_held(side, head)}


def _weighted(state: State, side: Side, node: Node) -> list[Node]:
    """Of a node and the op that it finishes, those that may hold a weight."""
    return [head for head in state.chain(side, node) if not side.graph.constants.isdisjoint(head.inputs)]
