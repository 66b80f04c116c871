"""What a result keeps so that it can be judged again by other tolerances: made here of a run, read by `rejudge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aligndbg.core.types import Pair, RunAgain, Trace
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.proved import ProvedFault
from aligndbg.measure.judge import Judge, other_layouts
from aligndbg.measure.results import Measurement, Metrics
from aligndbg.measure.tolerance import Tolerance

__all__ = ["AS_OUTPUT", "Basis", "Isolated", "PairBasis", "basis_of", "isolated_of", "pair_key"]


AS_OUTPUT = "it is compared as an output, beside the pairs of the network"


@dataclass(frozen=True)
class PairBasis:
    """Of one pair: the limits of the noise floor, accumulated and own, and the metrics under other layouts that fit.

    `doubt` is why it is not confirmed; `layouts` holds (permutation, metrics) of an ambiguous layout's alternatives.
    """

    limits: Tolerance
    own_limits: Tolerance
    doubt: str = ""
    layouts: tuple[tuple[tuple[int, ...], Metrics], ...] = ()


@dataclass(frozen=True)
class Isolated:
    """How pairs were isolated, by reference names; see `locate.isolation.Isolation`. `forward`: the candidate was run
    again."""

    forward: bool
    over: frozenset[str]
    refused: frozenset[str]
    runs: int
    proved: tuple[ProvedFault, ...]
    excused: Mapping[str, str]


@dataclass(frozen=True)
class Basis:
    """Of a run: its pairs by `pair_key`, the user's rules, and what the verdict depends on besides the pairs.

    `values` gives the dtype of each captured value, `missing` why one is not there; reference first. `isolated` is None
    where there are no isolated errors, for the reason `why_not`.
    """

    pairs: Mapping[str, PairBasis]
    everywhere: Tolerance | None
    rules: tuple[str, ...]
    min_coverage: float
    max_faults: int
    values: tuple[Mapping[str, str], Mapping[str, str]]
    missing: tuple[Mapping[str, str], Mapping[str, str]]
    isolated: Isolated | None
    why_not: str
    weights_unknown: bool
    inputs_transposed: bool


def pair_key(pair: Pair) -> str:
    """Both names: an output may be held against a tensor that is paired with another one."""
    return f"{pair.reference}\n{pair.candidate}"


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
        pairs={pair_key(m.pair): _of_pair(judge, m, doubtful.get(m.pair.reference, "")) for m in measured},
        everywhere=judge.rules.everywhere,
        rules=judge.rules.specs,
        min_coverage=min_coverage,
        max_faults=max_faults,
        values=(_dtypes(judge.reference), _dtypes(judge.candidate)),
        missing=(judge.reference.missing, judge.candidate.missing),
        isolated=isolated_of(isolation) if isolation else None,
        why_not=why_not,
        weights_unknown=judge.conditions.weights_unknown,
        inputs_transposed=inputs_transposed,
    )


def _of_pair(judge: Judge, m: Measurement, doubt: str) -> PairBasis:
    return PairBasis(
        limits=judge.default(m.pair),
        own_limits=judge.default(m.pair, isolated=True),
        doubt=doubt,
        layouts=tuple((pair.layout.permutation, judge.metrics(pair)) for pair in other_layouts(m.pair)),
    )


def isolated_of(isolation: Isolation) -> Isolated:
    """What is kept of how pairs were isolated."""
    return Isolated(
        forward=isolation.run_again is RunAgain.CANDIDATE,
        over=isolation.over_tolerance,
        refused=isolation.not_overridden,
        runs=isolation.runs,
        proved=isolation.proved.faults,
        excused=isolation.proved.excused,
    )


def _dtypes(trace: Trace) -> dict[str, str]:
    return {name: str(trace.values[name].dtype) for name in trace.values}
