"""What the isolated runs found: each pair's own error, and with it the run in which it was measured.

Isolating is done in rounds: a side is run with every paired tensor overridden by the other side's value, the pairs that
this refutes are given up, and what is left is paired anew and run again. An `Isolation` is one such round; `isolate`
gives the best of them. What explains faults later experiments on the very values that they were measured on, so the
round holds its run (`Replay`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aligndbg.core.types import Graph, Matching, RunAgain
from aligndbg.locate.proved import Proved
from aligndbg.locate.replay import Replay
from aligndbg.locate.trust import Standing, stand
from aligndbg.measure.limits import Conditions
from aligndbg.measure.results import Metrics

__all__ = ["Isolation"]


@dataclass(frozen=True)
class Isolation:
    """One round: pairs are named by their reference's tensor.

    `own` holds each pair's isolated metrics. `doubtful` says why a pair is not confirmed, or not isolated;
    `not_overridden` names the pairs that are no border of a region. `standing` is what both were concluded from.

    Where one side has an activation that the other lacks, the pair after it is over tolerance whatever its own operator
    does. `activations` gives, for such a pair, the tensors right after that activation on both sides. In one more run
    these are overridden in place of those before it, and `own_past_activation` are the metrics that are over tolerance
    even so: there is a second fault.
    """

    matching: Matching
    own: Mapping[str, Metrics] = field(default_factory=dict)
    doubtful: Mapping[str, str] = field(default_factory=dict)
    over_tolerance: frozenset[str] = frozenset()
    not_overridden: frozenset[str] = frozenset()
    own_past_activation: Mapping[str, Metrics] = field(default_factory=dict)
    runs: int = 0
    standing: Standing | None = None
    conditions: Conditions = field(default_factory=Conditions)  # that own errors are judged under
    # The run that `own` was measured in; None of a saved result.
    replay: Replay | None = None
    activations: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    replay_past_activation: Replay | None = None  # the run that `own_past_activation` was measured in
    run_again: RunAgain = RunAgain.CANDIDATE
    proved: Proved | None = None  # by experiments; None where there were none

    def judged(self, graph: Graph, over_tolerance: frozenset[str]) -> Isolation:
        """The same run where other pairs are over tolerance on their own; `graph` is of the side that was run again."""
        if self.standing is None or over_tolerance == self.standing.over_tolerance:
            return self
        standing = replace(self.standing, over_tolerance=over_tolerance)
        shadowed, unconfirmed = stand(graph, self.matching.pairs, standing)
        own = {r: m for r, m in standing.own.items() if r not in shadowed}
        return replace(
            self,
            own=own,
            doubtful=shadowed | unconfirmed,
            over_tolerance=over_tolerance - shadowed.keys(),
            standing=standing,
        )
