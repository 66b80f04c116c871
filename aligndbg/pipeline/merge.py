"""Several inputs, one result: the worst of each layer, and how the samples spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from aligndbg.core.types import Fault, Status, Verdict
from aligndbg.diff_result import Diff
from aligndbg.measure.results import Measurement

__all__ = ["Partial", "merge", "result_of", "worst_sample"]


_STATUS = (Status.PASS, Status.DRIFT, Status.UNKNOWN, Status.FAULT)
_VERDICT = (Verdict.ALIGNED, Verdict.INCONCLUSIVE, Verdict.DIVERGED)
QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}

PairKey = tuple[str, str]
FaultKey = tuple[str | None, str | None]
# (how grave, minus the sample's number, what): the largest is kept, and of equals the earliest sample's
Worst = tuple[tuple[float, ...], int, Any]


@dataclass(frozen=True)
class Partial:
    """What is kept of some samples. Merging is exact: neither order nor grouping changes the result.

    Of every pair each sample's errors are kept (a few numbers), and the worst sample's whole measurement.
    """

    summaries: Mapping[int, Mapping[str, str | int | float | None]]  # sample -> its row of the table
    warnings: Mapping[int, tuple[str, ...]]
    timing: Mapping[str, float]
    memory: Mapping[str, int]
    first: Worst  # the earliest sample's checks
    worst: Worst  # the worst sample's Diff
    errors: Mapping[PairKey, Mapping[int, Mapping[str, float]]]
    measured: Mapping[PairKey, Worst]
    faults: Mapping[FaultKey, Worst]
    truncated: bool

    @classmethod
    def of(cls, sample: int, name: str, diff: Diff) -> Partial:
        pairs = {(m.pair.reference, m.pair.candidate): m for m in diff.pairs}
        return cls(
            summaries={sample: _summary(name, diff)},
            warnings={sample: diff.warnings},
            timing=diff.timing,
            memory=diff.memory,
            first=((), -sample, diff.checks),
            worst=(_rank(diff), -sample, diff),
            errors={key: {sample: _errors(m)} for key, m in pairs.items()},
            measured={key: (_gravity(m), -sample, m) for key, m in pairs.items()},
            faults={(f.reference, f.candidate): ((_large(f.isolated_error),), -sample, f) for f in diff.faults},
            truncated=diff.truncated,
        )


def merge(one: Partial, other: Partial) -> Partial:
    """Both together; no sample may be in both."""
    stages = dict.fromkeys((*one.timing, *other.timing))
    return Partial(
        summaries={**one.summaries, **other.summaries},
        warnings={**one.warnings, **other.warnings},
        timing={name: one.timing.get(name, 0.0) + other.timing.get(name, 0.0) for name in stages},
        memory={
            name: max(one.memory.get(name, 0), other.memory.get(name, 0))
            for name in dict.fromkeys((*one.memory, *other.memory))
        },
        first=_worse(one.first, other.first),
        worst=_worse(one.worst, other.worst),
        errors={
            key: {**one.errors.get(key, {}), **other.errors.get(key, {})}
            for key in dict.fromkeys((*one.errors, *other.errors))
        },
        measured=_merged(one.measured, other.measured),
        faults=_merged(one.faults, other.faults),
        truncated=one.truncated or other.truncated,
    )


def _worse(one: Worst, other: Worst) -> Worst:
    return max(one, other, key=lambda item: item[:2])


def _merged(one: Mapping[Any, Worst], other: Mapping[Any, Worst]) -> dict[Any, Worst]:
    return {
        key: _worse(one[key], other[key]) if key in one and key in other else one.get(key) or other[key]
        for key in dict.fromkeys((*one, *other))
    }


def _rank(diff: Diff) -> tuple[float, ...]:
    """How bad a sample is: its verdict, its faults, then its largest error at an output."""
    outputs = [_large(m.metrics.rel_l2) for m in diff.pairs if m.pair.reference in diff.outputs]
    return float(_VERDICT.index(diff.verdict)), float(len(diff.faults)), max(outputs, default=0.0)


def _large(error: float) -> float:
    """nan counts as the largest error."""
    return error if error == error else float("inf")


def _gravity(m: Measurement) -> tuple[float, ...]:
    return float(_STATUS.index(m.status)), _large(m.metrics.rel_l2)


def _errors(m: Measurement) -> dict[str, float]:
    found = {"rel_l2": m.metrics.rel_l2, "lsb_max": m.metrics.lsb_max}
    if m.isolated is not None:
        found |= {"isolated_rel_l2": m.isolated.rel_l2, "isolated_lsb_max": m.isolated.lsb_max}
    return {name: float(value) for name, value in found.items() if value is not None}


def _summary(name: str, diff: Diff) -> dict[str, str | int | float | None]:
    outputs = [m.metrics.rel_l2 for m in diff.pairs if m.pair.reference in diff.outputs]
    return {
        "name": name,
        "verdict": diff.verdict,
        "faults": len(diff.faults),
        "worst_rel_l2": max((m.metrics.rel_l2 for m in diff.pairs), key=_large, default=None),
        "output_rel_l2": max(outputs, key=_large, default=None),
    }


def worst_sample(partials: list[Partial]) -> int:
    """The number of the sample whose result `result_of` gives."""
    return -reduce(merge, partials).worst[1]


def result_of(partials: list[Partial]) -> Diff:
    """The worst sample's result, each pair replaced by its own worst measurement, with `samples` statistics.

    Faults are those of any sample, each with its largest own error.
    """
    all_of = reduce(merge, partials)
    numbers = sorted(all_of.summaries)
    worst: Diff = all_of.worst[2]
    keys = [(m.pair.reference, m.pair.candidate) for m in worst.pairs]
    order = {key[0]: i for i, key in enumerate(keys)}
    faults: list[Fault] = [all_of.faults[key][2] for key in sorted(all_of.faults, key=str)]
    verdicts = [all_of.summaries[k]["verdict"] for k in numbers]
    counted = ", ".join(f"{verdicts.count(v)} {v}" for v in reversed(_VERDICT))
    warnings = [warning for k in numbers for warning in all_of.warnings[k]]
    elsewhere = len(all_of.errors) - len(keys)
    if elsewhere:
        warnings.append(f"{elsewhere} pairs were found on other samples only, and are not among those of the worst")
    name = all_of.summaries[-all_of.worst[1]]["name"]
    return replace(
        worst,
        pairs=tuple(_pair(all_of, key, len(numbers)) for key in keys),
        faults=tuple(sorted(faults, key=lambda f: order.get(f.reference or "", len(order)))),
        verdict_reason=f"{worst.verdict_reason} (worst of {len(numbers)} samples, {name}: {counted})",
        checks={**worst.checks, **all_of.first[2]},
        truncated=all_of.truncated,
        warnings=tuple(dict.fromkeys(warnings)),
        timing=all_of.timing,
        memory=all_of.memory,
        samples=tuple({"sample": k, **all_of.summaries[k]} for k in numbers),
    )


def _pair(all_of: Partial, key: PairKey, total: int) -> Measurement:
    _, sample, measurement = all_of.measured[key]
    rows = all_of.errors[key]
    name = all_of.summaries[-sample]["name"]
    statistics: dict[str, str | int | float] = {
        "count": len(rows),
        "of": total,
        "worst_sample": -sample,
        "worst_name": str(name),
    }
    for metric in ("rel_l2", "isolated_rel_l2", "lsb_max", "isolated_lsb_max"):
        values = np.array([rows[k][metric] for k in sorted(rows) if metric in rows[k]])
        defined = values[~np.isnan(values)]
        if values.size > defined.size:
            statistics[f"{metric}_undefined"] = values.size - defined.size
        if defined.size:
            statistics[f"{metric}_worst"] = float(defined.max())
            at = np.quantile(defined, list(QUANTILES.values()))
            statistics |= {f"{metric}_{word}": float(value) for word, value in zip(QUANTILES, at, strict=True)}
    found: Measurement = replace(measurement, samples=statistics)
    return found
