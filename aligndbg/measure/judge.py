"""Compares the values of a pair under its limits, and gives its status (DESIGN 6). Knows numpy only."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Self, TypeVar

from aligndbg.core.errors import UsageError
from aligndbg.core.threads import in_threads
from aligndbg.core.types import Node, Pair, RunAgain, Trace
from aligndbg.measure.detail import detail, element_limit
from aligndbg.measure.limits import Conditions, Limits
from aligndbg.measure.metrics import compare
from aligndbg.measure.reading import Grids, Reading, as_readers_get_them, as_they_are, on_one_grid
from aligndbg.measure.results import Detail, Measurement, Metrics
from aligndbg.measure.status import Judged, Measured, own_within, status_of
from aligndbg.measure.tolerance import Tolerance, ToleranceRules

__all__ = ["Judge", "other_layouts", "read_bytes"]


READ_BYTES = 4  # of an element, in most tensors
Result = TypeVar("Result")


class Judge:
    """Compares pairs of two traces under the user's tolerances, or those of the noise floor.

    `joint` gathers what other tolerances can be judged by later. `memory_budget` is bytes of values that may be read
    at a time.
    Nothing changes in it but what it remembers, so threads may share it; `under` gives another for another run.
    """

    def __init__(
        self,
        reference: Trace,
        candidate: Trace,
        rules: ToleranceRules,
        joint: bool = False,
        memory_budget: int | None = None,
    ) -> None:
        self.reference, self.candidate, self.rules = reference, candidate, rules
        self.joint, self.memory_budget = joint, memory_budget
        self.conditions = Conditions()
        self._grids = Grids(reference), Grids(candidate)
        self._limits = Limits(reference, candidate, self._grids)

    def under(self, conditions: Conditions) -> Self:
        """The same judge of a run that was made so."""
        other = copy.copy(self)
        other.conditions = conditions
        return other

    def refuse_unused(self) -> None:
        """Raises UsageError for a rule that matches no operator and no tensor."""
        traces = (self.reference, self.candidate)
        unused = self.rules.unused(
            {n.op_type for t in traces for n in t.graph.nodes}, {n for t in traces for n in t.values}
        )
        if unused:
            fact = f"the tolerance {unused[0]!r} matches no operator and no tensor"
            raise UsageError(fact, hint="see `aligndbg layers`")

    def ops(self, pair: Pair) -> tuple[str, str]:
        rn, cn = self._nodes(pair)
        return (rn.op_type if rn else "", cn.op_type if cn else "")

    def _nodes(self, pair: Pair) -> tuple[Node | None, Node | None]:
        ours, theirs = self.reference.graph.producers(), self.candidate.graph.producers()
        return ours.get(pair.reference), theirs.get(pair.candidate)

    def tolerance(self, pair: Pair, *, isolated: bool = False) -> Tolerance:
        default = self.default(pair, isolated=isolated)
        return self.rules.resolve(self.ops(pair)[0], (pair.reference, pair.candidate), default)

    def default(self, pair: Pair, *, isolated: bool = False) -> Tolerance:
        """The limits of the noise floor, which hold where the user set none."""
        return self._limits.of(pair, self.conditions, isolated=isolated).tolerance

    @property
    def coarse(self) -> bool:
        """Whether a side rounds to grids, or was recorded of a run that did."""
        return self._limits.coarse

    def precision(self, pair: Pair) -> str:
        """The dtype with the fewest digits whose rounding the pair's values bear."""
        return self._limits.precision(pair)

    def each(self, work: Callable[[Pair], Result], pairs: Iterable[Pair]) -> Iterator[Result]:
        """`work` of each pair, in threads that together read no more than `memory_budget` bytes at a time."""
        return in_threads(work, pairs, read_bytes, self.memory_budget)

    def metrics(self, pair: Pair) -> Metrics:
        """The accumulated difference of one pair, in the reference's layout."""
        return self._compare(as_they_are(pair, self.reference, self.candidate), self.tolerance(pair))

    def isolated(self, pair: Pair, trace: Trace, run_again: RunAgain) -> Metrics:
        """The pair's own difference: `trace` is the side that was re-run on the other's values.

        Against a quantized candidate the reference's value is first put on the candidate's grid and clipped to its
        range (FACTS' rule for int8): what the grid cannot hold is no fault of the op, unless a mask stretches the grid
        until little else is left.
        """
        left, right = (self.reference, trace) if run_again is RunAgain.CANDIDATE else (trace, self.candidate)
        if self._limits.lost_to_a_mask(pair):
            read = as_readers_get_them(pair, left, right)
        else:
            read = on_one_grid(pair, left, right, self._grids)
        return self._compare(read, self.tolerance(pair, isolated=True))

    def needed(self, pair: Pair, run_again: RunAgain) -> set[str]:
        """The tensors of the side that is re-run that `isolated` reads."""
        name = pair.candidate if run_again is RunAgain.CANDIDATE else pair.reference
        return {name, self._grids[run_again is RunAgain.CANDIDATE].stored(name) or name}

    def own_within(self, pair: Pair, metrics: Metrics) -> bool:
        """False where the pair's own error is over tolerance; equal tensors that prove nothing are no fault."""
        return own_within(Judged(metrics, self.tolerance(pair, isolated=True)))

    def proved_within(self, pair: Pair, own: Metrics, limits: Tolerance) -> bool:
        """`own_within` where the limits that hold without the user's rules are known already."""
        tolerance = self.rules.resolve(self.ops(pair)[0], (pair.reference, pair.candidate), limits)
        return own_within(Judged(self.counted(pair, own, tolerance), tolerance))

    def limited_by_user(self, pair: Pair) -> bool:
        """Whether a rule of the user's holds for it."""
        return self.rules.resolve(self.ops(pair)[0], (pair.reference, pair.candidate), Tolerance()).is_set

    def counted(self, pair: Pair, metrics: Metrics, tolerance: Tolerance) -> Metrics:
        """The metrics with the violations of a tolerance, which were counted as they were made."""
        return metrics

    def detail(self, pair: Pair, metrics: Metrics) -> Detail | None:
        """The picture of the accumulated values whose `metrics` these are."""
        read = as_they_are(pair, self.reference, self.candidate)
        limit = element_limit(self.tolerance(pair), metrics)
        ours, theirs = read.reference, read.candidate
        return detail(ours.array, theirs.array, metrics, limit, ours.quant, theirs.quant)

    def measure(
        self,
        pair: Pair,
        own: Metrics | None = None,
        doubt: str = "",
        why_not_isolated: str = "",
        excused: str = "",
        hidden: str = "",
    ) -> Measurement:
        """The pair with its accumulated metrics, its own (`own`), and the status both give.

        `doubt` says why a pair is not confirmed; `why_not_isolated` why there is no `own`; `excused` why it
        is no fault where that is over the usual limit; `hidden` why it is one though that is within.
        """
        metrics = self.metrics(pair)
        status, reason = status_of(
            Measured(
                pair,
                Judged(metrics, self.tolerance(pair)),
                None if own is None else Judged(own, self.tolerance(pair, isolated=True)),
                (self.metrics(other) for other in other_layouts(pair)),
                doubt,
                why_not_isolated,
                self.conditions.weak(pair.reference),
                "" if self.limited_by_user(pair) else excused,
                hidden,
            )
        )
        return Measurement(pair, metrics, status, reason, own, *self.ops(pair))

    def _compare(self, read: Reading, limits: Tolerance) -> Metrics:
        ours, theirs = read.reference, read.candidate
        return compare(
            ours.array,
            theirs.array,
            tolerance=limits,
            reference_quant=ours.quant,
            candidate_quant=theirs.quant,
            joint=self.joint,
        )


def other_layouts(pair: Pair) -> Iterator[Pair]:
    """The pair under each of the other layouts that fit an ambiguous one."""
    for permutation in pair.layout.alternatives:
        yield replace(pair, layout=replace(pair.layout, permutation=permutation, alternatives=()))


def read_bytes(pair: Pair) -> int:
    """What is read of both tensors to compare them."""
    return 2 * READ_BYTES * math.prod(pair.layout.reference_shape)
