"""From a finished run to what is kept of it, to be judged again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aligndbg._basis import Basis, Isolated, PairBasis
from aligndbg._types import Measurement, Trace
from aligndbg.locate import Isolation
from aligndbg.verdict import Judge

__all__ = ["basis_of", "isolated_of"]


def basis_of(
    judge: Judge,
    measured: Sequence[Measurement],
    isolation: Isolation | None,
    why_not: str,
    min_coverage: float,
    max_faults: int,
    inputs_transposed: bool,
) -> Basis:
    """What `judge` judged `measured` by, while the values are still there."""
    doubtful = isolation.doubtful if isolation else {}
    return Basis(
        pairs={m.pair.reference: _of_pair(judge, m, doubtful.get(m.pair.reference, "")) for m in measured},
        everywhere=judge.rules.everywhere,
        rules=judge.rules.specs,
        min_coverage=min_coverage,
        max_faults=max_faults,
        values=(_dtypes(judge.reference), _dtypes(judge.candidate)),
        missing=(judge.reference.missing, judge.candidate.missing),
        isolated=isolated_of(isolation) if isolation else None,
        why_not=why_not,
        weights_unknown=judge.weights_unknown,
        inputs_transposed=inputs_transposed,
    )


def _of_pair(judge: Judge, m: Measurement, doubt: str) -> PairBasis:
    others = (
        (p, replace(m.pair, layout=replace(m.pair.layout, permutation=p, alternatives=())))
        for p in m.pair.layout.alternatives
    )
    return PairBasis(
        limits=judge.default(m.pair),
        own_limits=judge.default(m.pair, isolated=True),
        doubt=doubt,
        layouts=tuple((permutation, judge.metrics(pair)) for permutation, pair in others),
    )


def isolated_of(isolation: Isolation) -> Isolated:
    """What is kept of how pairs were isolated."""
    standing = isolation.standing
    assert standing is not None
    return Isolated(
        forward=standing.forward,
        over=standing.over,
        over_shown=isolation.over,
        shadowed={r: m for r, m in standing.own.items() if r not in isolation.own},
        refused=standing.refused,
        aside=standing.aside,
        nearer=standing.nearer,
        farther=standing.farther,
        runs=isolation.runs,
        beyond=isolation.beyond,
    )


def _dtypes(trace: Trace) -> dict[str, str]:
    return {name: str(trace.values[name].dtype) for name in trace.values}
