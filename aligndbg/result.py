"""Everything one run found: what every report reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aligndbg.core.types import Cause, Coverage, Fault, Graph, Matching, ModelInfo, Status, Verdict
from aligndbg.measure.exact import Exact
from aligndbg.measure.results import Measurement
from aligndbg.verdict.basis import Basis
from aligndbg.verdict.checks import Checks

__all__ = ["Result"]


@dataclass(frozen=True, repr=False)
class Result:
    """Everything one run found. There is no truth value: ask `.verdict`.

    `pairs` are in the reference's execution order. `outputs` names the reference tensors that are model outputs.
    `samples` has a row for each of several inputs; the rest is then of the worst one, each pair of its own worst.
    `causes` are of the pair as a whole (fed apart, another network, ...); each fault has its own.
    `corrected` is each output's error, relative L2 by reference name, with all of `faults` corrected: what they do not
    explain. None without faults, or where no run told it.
    `exact` are integers, booleans and strings: every one at the outputs, and inside those that differ.
    `graphs` are the reference's and the candidate's, without nodes where a trace knows none.
    `basis` is what the pairs were judged on, to judge them again (`aligndbg.judge`); None of a run without details.
    """

    reference: ModelInfo
    candidate: ModelInfo
    verdict: Verdict
    verdict_reason: str
    pairs: tuple[Measurement, ...]
    matching: Matching
    faults: tuple[Fault, ...] = ()
    causes: tuple[Cause, ...] = ()
    outputs: frozenset[str] = frozenset()
    corrected: Mapping[str, float] | None = None
    inputs: tuple[str, ...] = ()
    truncated: bool = False
    checks: Checks = field(default_factory=Checks)
    timing: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    exact: tuple[Exact, ...] = ()
    graphs: tuple[Graph, Graph] = (Graph(), Graph())
    basis: Basis | None = None
    samples: tuple[Mapping[str, str | int | float | None], ...] = ()

    def __bool__(self) -> bool:
        raise TypeError("a Diff has no truth value: compare its .verdict, or call .raise_if_diverged()")

    @property
    def coverage(self) -> dict[str, Coverage]:
        """Counts of each side: compared, unobservable, one_sided, unmatched."""
        return {"reference": self.matching.coverage_reference, "candidate": self.matching.coverage_candidate}

    @property
    def first_divergence(self) -> Measurement | None:
        """The first pair, in the reference's order, that is neither pass nor degenerate."""
        return next((m for m in self.pairs if m.status in (Status.FAULT, Status.DRIFT) or _over(m)), None)

    def worst(self, count: int = 5) -> list[Measurement]:
        """The pairs with the largest accumulated relative L2 error, worst first; undefined errors first of all.

        Of several, the last is the pair with the largest own error, where that is not among them.
        """
        found = sorted(self.pairs, key=lambda m: _badness(m.metrics.rel_l2), reverse=True)[:count]
        erring = [m for m in self.pairs if m.isolated is not None and m.isolated.rel_l2 > 0]
        most = max(erring, key=lambda m: m.isolated.rel_l2 if m.isolated else 0.0, default=None)
        shown = most is None or any(m is most for m in found)
        return found if shown or most is None or count < 2 else [*found[:-1], most]


def _over(m: Measurement) -> bool:
    return m.status is Status.UNKNOWN and "own error unknown" in m.reason


def _badness(value: float) -> float:
    return float("inf") if value != value else value
