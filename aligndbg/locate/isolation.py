"""What the isolated runs found, with the values of the run that it was measured in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aligndbg.core.types import Graph, Matching
from aligndbg.locate.replay import Replay
from aligndbg.locate.trust import Standing, stand
from aligndbg.measure.limits import Conditions
from aligndbg.measure.results import Metrics

__all__ = ["Isolation"]


@dataclass(frozen=True)
class Isolation:
    """`own` holds each pair's isolated metrics by reference name; `over` names those over tolerance.

    `doubtful` says why a pair is not confirmed, or not isolated; `open` names the pairs that were not overridden, and
    so are no border of a region. `beyond` holds, of pairs over tolerance because of an activation that one side has
    more, the metrics that remain once its output is overridden too, where they are over tolerance.
    """

    matching: Matching
    own: Mapping[str, Metrics] = field(default_factory=dict)
    doubtful: Mapping[str, str] = field(default_factory=dict)
    over: frozenset[str] = frozenset()
    open: frozenset[str] = frozenset()
    beyond: Mapping[str, Metrics] = field(default_factory=dict)
    runs: int = 0
    standing: Standing | None = None
    conditions: Conditions = field(default_factory=Conditions)  # that own errors are judged under
    # The run that `own` was measured in; None of a saved result.
    replay: Replay | None = None
    # Pairs over tolerance (by reference name) with the tensors right after an activation that one side has more, and
    # the run in which `beyond` was measured, where those were overridden in place of those before it.
    activations: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    past: Replay | None = None

    def judged(self, graph: Graph, over: frozenset[str]) -> Isolation:
        """The same run where other pairs (`over`) are over tolerance on their own; `graph` is the side re-run."""
        if self.standing is None or over == self.standing.over:
            return self
        standing = replace(self.standing, over=over)
        shadowed, unconfirmed = stand(graph, self.matching.pairs, standing)
        own = {r: m for r, m in standing.own.items() if r not in shadowed}
        return replace(self, own=own, doubtful=shadowed | unconfirmed, over=over - shadowed.keys(), standing=standing)
