"""What locating found: each pair's own error, the proved faults, and with them the run in which they were measured.

What explains faults later experiments on the very values that they were measured on, so an `Isolation` holds that run
(`Replay`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aligndbg.core.types import Matching, Pair, RunAgain
from aligndbg.locate.proved import Proved
from aligndbg.locate.replay import Replay
from aligndbg.measure.limits import Conditions
from aligndbg.measure.results import Metrics

__all__ = ["Isolation"]


@dataclass(frozen=True)
class Isolation:
    """Pairs are named by their reference's tensor.

    `own` holds each pair's isolated metrics, judged under `conditions`. `doubtful` says why a pair is not confirmed, or
    not isolated; `over_tolerance` names the faulty ones, `not_overridden` those that are no border of a region. `exact`
    are the faulty ones among integers, booleans and strings, which are no pairs of the matching.
    """

    matching: Matching
    proved: Proved
    own: Mapping[str, Metrics] = field(default_factory=dict)
    doubtful: Mapping[str, str] = field(default_factory=dict)
    over_tolerance: frozenset[str] = frozenset()
    not_overridden: frozenset[str] = frozenset()
    runs: int = 0
    conditions: Conditions = field(default_factory=Conditions)
    replay: Replay | None = None  # the run that `own` was measured in; None of a saved result
    run_again: RunAgain = RunAgain.CANDIDATE
    exact: tuple[Pair, ...] = ()
