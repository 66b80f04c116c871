"""Judging a finished diff by other tolerances, from what was kept of it: no model is run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aligndbg.core.arrays import dtype_of
from aligndbg.core.errors import UsageError
from aligndbg.core.types import Fault, ModelInfo, Pair, RunAgain, Trace
from aligndbg.diff_result import Diff
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.proved import Proved, standing_faults
from aligndbg.measure.judge import Judge
from aligndbg.measure.limits import Conditions
from aligndbg.measure.results import Measurement, Metrics
from aligndbg.measure.rounding import inner_roundings
from aligndbg.measure.tolerance import Tolerance, ToleranceRules, check_limits
from aligndbg.verdict.basis import AS_OUTPUT, Basis, Isolated, isolated_of, pair_key
from aligndbg.verdict.decide import decide, drift_notes

__all__ = ["judge"]


AGAIN = "judged again by another tolerance, on the pairs that the run found; a new run may pair some layers differently"


def judge(
    saved: Diff | str | os.PathLike[str],
    *,
    atol: float | None = None,
    rtol: float | None = None,
    min_cosine: float | None = None,
    min_euclid: float | None = None,
    min_sqnr: float | None = None,
    max_lsb: float | None = None,
    tolerances: Sequence[str] = (),
    min_coverage: float | None = None,
) -> Diff:
    """The same diff judged by these tolerances, as `diff` with them would judge the same pairs; nothing is run.

    `saved` is a Diff or what `Diff.save` wrote. Any tolerance given replaces all those of the run; with none, the run's
    stay. The number of violations of another atol or rtol is known where its bounds meet, else `reasons["violations"]`
    gives them; whether there are any is exact.

    Raises UsageError where what was kept cannot tell, as for a result of several samples.
    """
    found = saved if isinstance(saved, Diff) else Diff.load(Path(saved))
    everywhere = Tolerance(atol, rtol, None, min_cosine, min_euclid, min_sqnr, max_lsb)
    limits = {"atol": atol, "rtol": rtol, "max_lsb": max_lsb}
    check_limits(limits | {"min_cosine": min_cosine, "min_euclid": min_euclid, "min_sqnr": min_sqnr}, min_coverage)
    given = everywhere.is_set or bool(tolerances)
    if not given and min_coverage is None:
        return found
    basis = found.basis
    if basis is None or any(m.samples is not None for m in found.pairs):
        what = "kept no details of its run" if basis is None else "holds the worst of several samples"
        raise UsageError(
            f"it cannot be judged again: this diff {what}", hint="run the diff again with these tolerances"
        )
    if given:
        rules = ToleranceRules(everywhere if everywhere.is_set else None, tolerances)
    else:
        rules = ToleranceRules(basis.everywhere, basis.rules)
    share = basis.min_coverage if min_coverage is None else min_coverage
    return _judged(found, basis, _SavedJudge(found, basis, rules), share)


def _judged(found: Diff, basis: Basis, now: _SavedJudge, min_coverage: float) -> Diff:
    now.refuse_unused()
    kept = basis.isolated
    isolation = _isolation(found, basis, kept) if kept else None
    now = now.under(isolation.conditions) if isolation else now
    faults, truncated = found.faults, found.truncated
    if isolation is not None:
        pairs, own = found.matching.pairs, isolation.own
        own = {p.reference: now.recounted(p, own[p.reference], isolated=True) for p in pairs if p.reference in own}
        made_now = standing_faults(now, isolation.proved, pairs, own, isolation.not_overridden)
        stored = [f for f in found.faults if f.cause is not None and f.cause.details.get("stored")]
        made_now += [f for f in stored if (f.reference, f.candidate) not in _places(made_now)]
        faults = tuple(_with_cause(f, found.faults) for f in made_now[: basis.max_faults])
        truncated = len(made_now) > basis.max_faults
        if any(cause.kind == "different_network" for cause in found.causes):
            faults = faults[:1]  # of another network every layer is one
    measured = [_measured(now, m, isolation, found) for m in found.pairs]
    verdict, why = decide(
        now,
        found.matching,
        measured,
        faults,
        min_coverage,
        inputs_transposed=basis.inputs_transposed,
        exact=found.exact,
        causes=found.causes,
    )
    doubtful = isolation.doubtful if isolation else {}
    stale = drift_notes(found.verdict, found.pairs)
    kept_warnings = [w for w in found.warnings if w not in stale and not w.startswith(AGAIN)]
    return replace(
        found,
        verdict=verdict,
        verdict_reason=why,
        pairs=tuple(measured),
        faults=faults,
        truncated=truncated,
        corrected=found.corrected if _places(faults) == _places(found.faults) else None,
        warnings=(*kept_warnings, AGAIN, *drift_notes(verdict, measured)),
        basis=replace(
            basis,
            pairs={
                (key := pair_key(m.pair)): replace(basis.pairs[key], doubt=doubtful.get(m.pair.reference, ""))
                for m in found.pairs
            },
            everywhere=now.rules.everywhere,
            rules=now.rules.specs,
            min_coverage=min_coverage,
            isolated=isolated_of(isolation) if isolation else None,
        ),
    )


def _isolation(found: Diff, basis: Basis, kept: Isolated) -> Isolation:
    borders = [m.pair for m in found.pairs if m.pair.reference not in kept.refused]
    doubtful = {p.reference: doubt for p in found.matching.pairs if (doubt := basis.pairs[pair_key(p)].doubt)}
    return Isolation(
        found.matching,
        Proved(kept.proved, kept.excused),
        {m.pair.reference: m.isolated for m in found.pairs if m.isolated is not None},
        doubtful,
        kept.over,
        kept.refused,
        kept.runs,
        Conditions(inner_roundings(*found.graphs, borders), basis.weights_unknown),
        run_again=RunAgain.CANDIDATE if kept.forward else RunAgain.REFERENCE,
    )


def _places(faults: Sequence[Fault]) -> set[tuple[str | None, str | None]]:
    return {(f.reference, f.candidate) for f in faults}


def _with_cause(fault: Fault, before: Sequence[Fault]) -> Fault:
    """The fault as it was explained, where it is one of those there were."""
    same = [f for f in before if (f.reference, f.candidate) == (fault.reference, fault.candidate)]
    return replace(fault, cause=same[0].cause, effect=same[0].effect) if same else fault


def _measured(judge_: _SavedJudge, m: Measurement, isolation: Isolation | None, found: Diff) -> Measurement:
    assert found.basis is not None
    name = m.pair.reference
    if m.pair in found.matching.again:
        new = judge_.measure(m.pair, why_not_isolated=AS_OUTPUT)
        return replace(m, metrics=new.metrics, status=new.status, reason=new.reason)
    own = isolation.own.get(name) if isolation else None
    doubt = isolation.doubtful.get(name, "") if isolation else ""
    own = judge_.recounted(m.pair, own, isolated=True) if own is not None else None
    excused = isolation.proved.excused.get(name, "") if isolation else ""
    hidden = isolation.proved.hidden(name) if isolation else ""
    new = judge_.measure(m.pair, own, doubt, found.basis.why_not, excused, hidden)
    return replace(m, metrics=new.metrics, isolated=new.isolated, status=new.status, reason=new.reason)


class _SavedJudge(Judge):
    """A Judge that looks up what was measured instead of comparing arrays."""

    def __init__(self, found: Diff, basis: Basis, rules: ToleranceRules) -> None:
        left = _without_values(found.reference, found, basis, 0)
        right = _without_values(found.candidate, found, basis, 1)
        super().__init__(left, right, rules)
        self._basis = basis.pairs
        self._kept: dict[tuple[str, tuple[int, ...]], Metrics] = {}
        for m in found.pairs:
            key = pair_key(m.pair)
            self._kept[key, m.pair.layout.permutation] = m.metrics
            for permutation, metrics in basis.pairs[key].layouts:
                self._kept[key, permutation] = metrics

    def default(self, pair: Pair, *, isolated: bool = False) -> Tolerance:
        kept = self._basis[pair_key(pair)]
        return kept.own_limits if isolated else kept.limits

    def metrics(self, pair: Pair) -> Metrics:
        return self.recounted(pair, self._kept[pair_key(pair), pair.layout.permutation])

    def recounted(self, pair: Pair, metrics: Metrics, *, isolated: bool = False) -> Metrics:
        """The metrics with the violations of this judge's tolerance. Raises UsageError where they cannot tell."""
        return self.counted(pair, metrics, self.tolerance(pair, isolated=isolated))

    def counted(self, pair: Pair, metrics: Metrics, tolerance: Tolerance) -> Metrics:
        reasons = {k: v for k, v in metrics.reasons.items() if k != "violations"}
        if (tolerance.atol is None and tolerance.rtol is None) or np.isnan(metrics.max_abs):
            return replace(metrics, violations=None, reasons=reasons)
        atol, rtol = tolerance.atol or 0.0, tolerance.rtol or 0.0
        assert metrics.joint is not None
        least, most = metrics.joint.violations(atol, rtol)
        if least == most:
            return replace(metrics, violations=least, reasons=reasons)
        if least == 0:
            raise UsageError(
                f"whether it violates {atol:g} + {rtol:g} * |reference| anywhere cannot be told from what was kept",
                context=pair.reference,
                hint="choose a limit that is not that close, or run the diff again with these tolerances",
            )
        text = f"{least} to {most} of {metrics.count} elements over {atol:g} + {rtol:g} * |reference|"
        return replace(metrics, violations=None, reasons=reasons | {"violations": text})


def _without_values(info: ModelInfo, found: Diff, basis: Basis, side: int) -> Trace:
    """The side's trace with empty arrays of the dtypes that there were."""
    values = {name: np.empty(0, dtype_of(dtype)) for name, dtype in basis.values[side].items()}
    return Trace(info, found.graphs[side], values, None, tuple(values), basis.missing[side])
