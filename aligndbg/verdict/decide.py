"""From statuses to one verdict (DESIGN 7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aligndbg.core.layouts import exchanges_axes
from aligndbg.core.types import Cause, Fault, Matching, Status, Trace, UnmatchedClass, Verdict
from aligndbg.measure.exact import Exact
from aligndbg.measure.judge import Judge
from aligndbg.measure.results import Measurement
from aligndbg.measure.thresholds import OWN_LSB
from aligndbg.measure.tolerance import degenerate, within

__all__ = ["MIN_COVERAGE", "decide", "drift_notes"]


MIN_COVERAGE = 0.5  # of the reference's tensors: agreement of fewer says too little of the whole


def decide(
    judge: Judge,
    matching: Matching,
    measurements: Iterable[Measurement],
    faults: Sequence[Fault],
    min_coverage: float,
    inputs_transposed: bool = False,
    exact: Sequence[Exact] = (),
    causes: Sequence[Cause] = (),
) -> tuple[Verdict, str]:
    """The verdict and the sentence that gives its reason.

    An output of one shape on both sides whose axes are in another order (H and W swapped) is not the same output,
    unless the inputs are fed so too (`inputs_transposed`). `exact` are integers, booleans and strings, which must be
    equal unless what they are computed from is within tolerance, and they follow from that. `causes` are those of the
    pair as a whole: some say what agreeing outputs are worth.
    """
    reference, candidate = judge.reference, judge.candidate
    outputs = _output_pairs(reference, candidate, measurements)
    wrong = (
        _faulty(faults)
        or _over_tolerance(judge, outputs)
        or ("" if inputs_transposed else _transposed(outputs))
        or _unequal(exact)
        or _one_valued(judge, outputs, steps_apart=True)
        or _caused(causes, Verdict.DIVERGED)
    )
    if wrong:
        return Verdict.DIVERGED, wrong
    open_ = (
        _unpaired(reference, candidate, matching)
        or _unpaired_exact(exact)
        or _proves_nothing(outputs, exact)
        or _too_few(matching, min_coverage, exact)
        or _one_valued(judge, outputs, steps_apart=False)
        or _caused(causes, Verdict.INCONCLUSIVE)
    )
    if open_:
        return Verdict.INCONCLUSIVE, open_
    compared = matching.coverage_reference.compared
    equal = sum(e.output and not e.share for e in exact)
    also = f", and {equal} of whole numbers, booleans or words equal" if equal else ""
    return Verdict.ALIGNED, f"every output is within tolerance, {compared} tensors compared{also}"


def _faulty(faults: Sequence[Fault]) -> str:
    return f"{len(faults)} fault{'s' if len(faults) > 1 else ''}" if faults else ""


def _over_tolerance(judge: Judge, outputs: Iterable[Measurement]) -> str:
    for m in outputs:
        fine, why = within(m.metrics, judge.tolerance(m.pair))
        if not fine and (m.metrics.nonfinite_mismatch or not degenerate(m.metrics)):
            return f"output {m.pair.reference}: {why}"
    return ""


def _one_valued(judge: Judge, outputs: Iterable[Measurement], steps_apart: bool) -> str:
    """A direction, all that grids are held to, says nothing of a side that is one value throughout. Some steps apart
    it is wrong; else its grid has no step between the other's values."""
    for m in outputs:
        found, limits = m.metrics, judge.tolerance(m.pair)
        if limits.min_cosine is None or (found.lsb_max is not None and found.lsb_max > OWN_LSB) is not steps_apart:
            continue
        for side, own, other in (
            ("candidate", found.distinct_candidate, found.distinct_reference),
            ("reference", found.distinct_reference, found.distinct_candidate),
        ):
            if own == 1 < other and found.count > 1:
                return f"output {m.pair.reference}: one value throughout in the {side}, which the other's are not"
    return ""


def _caused(causes: Iterable[Cause], verdict: Verdict) -> str:
    return next((c.summary for c in causes if c.details.get("verdict") == verdict), "")


def _transposed(outputs: Iterable[Measurement]) -> str:
    for m in outputs:
        if exchanges_axes(m.pair.layout):
            order = m.pair.layout.permutation
            return f"output {m.pair.reference}: equal shapes, but its axes are in another order {order}"
    return ""


def _unpaired(reference: Trace, candidate: Trace, matching: Matching) -> str:
    lost = _unpaired_outputs(reference, candidate, matching)
    return f"output {lost[0]} was not compared" if lost else ""


def _unequal(exact: Iterable[Exact]) -> str:
    wrong = [e for e in exact if e.output and e.share and not e.explained and e.reference and e.candidate]
    return f"output {wrong[0].note}" if wrong else ""


def _unpaired_exact(exact: Iterable[Exact]) -> str:
    lost = [e for e in exact if e.output and not (e.reference and e.candidate)]
    return f"output {lost[0].note}" if lost else ""


def _proves_nothing(outputs: Sequence[Measurement], exact: Sequence[Exact]) -> str:
    equal = [e for e in exact if e.output]
    if not outputs and not equal:
        # A trace may hold inner tensors only; without any output there is nothing to call aligned.
        return "no model output was compared"
    unknown = [m for m in outputs if m.status is Status.UNKNOWN]
    if unknown:
        return f"output {unknown[0].pair.reference} proves nothing: {unknown[0].reason}"
    dull = [e for e in equal if e.constant and e.count > 1 and not e.explained]
    return f"output {dull[0].reference} proves nothing: one value throughout" if dull and not outputs else ""


def _too_few(matching: Matching, min_coverage: float, exact: Sequence[Exact]) -> str:
    covered = matching.coverage_reference
    if exact and not covered.compared + covered.unmatched:
        return ""  # no float in it
    share = covered.compared / max(1, covered.compared + covered.unmatched)
    return f"only {share:.0%} of the reference's tensors were compared (--min-coverage)" if share < min_coverage else ""


def drift_notes(verdict: Verdict, measurements: Iterable[Measurement]) -> list[str]:
    """What a verdict of aligned does not say of inner tensors."""
    drifting = sum(1 for m in measurements if m.status in (Status.DRIFT, Status.UNKNOWN))
    if verdict is not Verdict.ALIGNED or not drifting:
        return []
    return [f"{drifting} inner tensors are over tolerance or prove nothing; the outputs are fine"]


def _output_pairs(reference: Trace, candidate: Trace, measurements: Iterable[Measurement]) -> list[Measurement]:
    """Pairs that hold a model output of either side; of a trace without a graph, every last tensor counts as inner."""
    ours, theirs = set(reference.graph.outputs), set(candidate.graph.outputs)
    return [m for m in measurements if m.pair.reference in ours or m.pair.candidate in theirs]


def _unpaired_outputs(reference: Trace, candidate: Trace, matching: Matching) -> list[str]:
    unmatched = {u.name for u in matching.unmatched_reference if u.kind is not UnmatchedClass.ONE_SIDED}
    skipped = {s.name: s.reason for s in matching.skipped_reference}
    out = [o for o in reference.graph.outputs if o in unmatched]
    out += [o for o in reference.graph.outputs if o in skipped and o in reference.missing]
    theirs = {u.name for u in matching.unmatched_candidate if u.kind is not UnmatchedClass.ONE_SIDED}
    return out + [o for o in candidate.graph.outputs if o in theirs]
