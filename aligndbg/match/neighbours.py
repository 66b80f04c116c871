"""Where a graph leads down to its end past unpaired tensors only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from aligndbg.match.side import Side

__all__ = ["Ways"]


class Ways:
    """Kept while pairs are made, which only close ways: all of them together cost one walk over the graph."""

    def __init__(self, side: Side, paired: Container[str]) -> None:
        self._side = side
        self._ends = set(side.graph.outputs)
        self._passing: set[str] = set()  # unpaired, and open
        self._open: Counter[str] = Counter()  # by tensor, how many of those right below are passing
        for node in reversed(side.graph.nodes):
            for o in node.outputs:
                read = o in side.consumers or o in self._ends
                if o and read and o not in paired and self.open_from(o):
                    self._passing.add(o)
                    self._open.update(self._above(o))

    def open_from(self, name: str) -> bool:
        """Whether a way leads down from a tensor, paired itself or not."""
        return name in self._ends or name not in self._side.consumers or self._open[name] > 0

    def close(self, name: str) -> None:
        """Takes notice that a tensor has been paired."""
        closed = [name] if name in self._passing else []
        while closed:
            n = closed.pop()
            self._passing.discard(n)
            for i in self._above(n):
                self._open[i] -= 1
                if i in self._passing and not self.open_from(i):
                    closed.append(i)

    def _above(self, name: str) -> set[str]:
        return {i for i in self._side.producer[name].inputs if i}
