"""From statuses to one verdict (DESIGN 7)."""

from __future__ import annotations

from collections.abc import Iterable

from aligndbg.core.layouts import exchanges_axes
from aligndbg.core.types import Fault, Matching, Status, Trace, UnmatchedClass, Verdict
from aligndbg.measure.judge import Judge
from aligndbg.measure.results import Measurement
from aligndbg.measure.tolerance import degenerate, judge

__all__ = ["decide", "drift_notes"]


def decide(
    reference: Trace,
    candidate: Trace,
    matching: Matching,
    measurements: Iterable[Measurement],
    faults: Iterable[Fault],
    judge_: Judge,
    min_coverage: float,
    inputs_transposed: bool = False,
) -> tuple[Verdict, str]:
    """The verdict and the sentence that gives its reason.

    An output of one shape on both sides whose axes are in another order (H and W swapped) is not the same output,
    unless the inputs are fed so too (`inputs_transposed`).
    """
    found = list(faults)
    if found:
        return Verdict.DIVERGED, f"{len(found)} fault{'s' if len(found) > 1 else ''}"
    by_reference = {m.pair.reference: m for m in measurements}
    outputs = _output_pairs(reference, candidate, by_reference)
    over = [
        m
        for m in outputs
        if not judge(m.metrics, judge_.tolerance(m.pair))[0]
        and (m.metrics.nonfinite_mismatch or not degenerate(m.metrics))
    ]
    if over:
        why = judge(over[0].metrics, judge_.tolerance(over[0].pair))[1]
        return Verdict.DIVERGED, f"output {over[0].pair.reference}: {why}"
    moved = [m for m in outputs if exchanges_axes(m.pair.layout)]
    if moved and not inputs_transposed:
        order = moved[0].pair.layout.permutation
        return (
            Verdict.DIVERGED,
            f"output {moved[0].pair.reference}: equal shapes, but its axes are in another order {order}",
        )
    unpaired = _unpaired_outputs(reference, candidate, matching)
    if unpaired:
        return Verdict.INCONCLUSIVE, f"output {unpaired[0]} was not compared"
    if not outputs:
        # A trace may hold inner tensors only; without any output there is nothing to call aligned.
        return Verdict.INCONCLUSIVE, "no model output was compared"
    proves_nothing = [m for m in outputs if m.status is Status.UNKNOWN]
    if proves_nothing:
        first = proves_nothing[0]
        return Verdict.INCONCLUSIVE, f"output {first.pair.reference} proves nothing: {first.reason}"
    covered = matching.coverage_reference
    share = covered.compared / max(1, covered.compared + covered.unmatched)
    if share < min_coverage:
        return Verdict.INCONCLUSIVE, f"only {share:.0%} of the reference's tensors were compared (--min-coverage)"
    return Verdict.ALIGNED, f"every output is within tolerance, {covered.compared} tensors compared"


def drift_notes(verdict: Verdict, measurements: Iterable[Measurement]) -> list[str]:
    """What a verdict of aligned does not say of inner tensors."""
    drifting = sum(1 for m in measurements if m.status in (Status.DRIFT, Status.UNKNOWN))
    if verdict is not Verdict.ALIGNED or not drifting:
        return []
    return [f"{drifting} inner tensors are over tolerance or prove nothing; the outputs are fine"]


def _output_pairs(reference: Trace, candidate: Trace, by_reference: dict[str, Measurement]) -> list[Measurement]:
    """Pairs that hold a model output of either side; of a trace without a graph, every last tensor counts as inner."""
    ours, theirs = set(reference.graph.outputs), set(candidate.graph.outputs)
    return [m for m in by_reference.values() if m.pair.reference in ours or m.pair.candidate in theirs]


def _unpaired_outputs(reference: Trace, candidate: Trace, matching: Matching) -> list[str]:
    unmatched = {u.name for u in matching.unmatched_reference if u.kind is not UnmatchedClass.ONE_SIDED}
    skipped = {s.name: s.reason for s in matching.skipped_reference}
    out = [o for o in reference.graph.outputs if o in unmatched]
    out += [o for o in reference.graph.outputs if o in skipped and o in reference.missing]
    theirs = {u.name for u in matching.unmatched_candidate if u.kind is not UnmatchedClass.ONE_SIDED}
    return out + [o for o in candidate.graph.outputs if o in theirs]
