"""Several inputs, one result: the worst of each layer, and how the samples spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from aligndbg._diff import Diff
from aligndbg._types import Fault, Measurement, Status, Verdict

__all__ = ["merge_samples"]

_STATUS = (Status.PASS, Status.DRIFT, Status.UNKNOWN, Status.FAULT)
_VERDICT = (Verdict.ALIGNED, Verdict.INCONCLUSIVE, Verdict.DIVERGED)


def merge_samples(diffs: Sequence[Diff]) -> Diff:
    """The worst sample's result, each pair replaced by its own worst measurement, with `samples` statistics.

    Faults are those of any sample, each with its largest own error.
    """
    worst = max(diffs, key=lambda d: (_VERDICT.index(d.verdict), len(d.faults)))
    seen: dict[tuple[str, str], list[tuple[int, Measurement]]] = {}
    for k, diff in enumerate(diffs):
        for m in diff.pairs:
            seen.setdefault((m.pair.reference, m.pair.candidate), []).append((k, m))
    pairs = tuple(_worst(seen[(m.pair.reference, m.pair.candidate)], len(diffs)) for m in worst.pairs)
    faults: dict[tuple[str | None, str | None], Fault] = {}
    for diff in diffs:
        for fault in diff.faults:
            key = (fault.reference, fault.candidate)
            if key not in faults or fault.isolated_error > faults[key].isolated_error:
                faults[key] = fault
    order = {m.pair.reference: i for i, m in enumerate(worst.pairs)}
    ordered = sorted(faults.values(), key=lambda f: order.get(f.reference or "", len(order)))
    counted = ", ".join(f"{sum(d.verdict is v for d in diffs)} {v}" for v in reversed(_VERDICT))
    return replace(
        worst,
        pairs=pairs,
        faults=tuple(ordered),
        verdict_reason=f"{worst.verdict_reason} (worst of {len(diffs)} samples: {counted})",
        checks={**diffs[0].checks, **{k: v for k, v in worst.checks.items() if k not in diffs[0].checks}},
        truncated=any(d.truncated for d in diffs),
        warnings=tuple(dict.fromkeys(w for d in diffs for w in d.warnings)),
        timing=diffs[-1].timing,
    )


def _worst(found: Sequence[tuple[int, Measurement]], total: int) -> Measurement:
    """The measurement with the gravest status, then the largest error; nan counts as the largest."""

    def gravity(item: tuple[int, Measurement]) -> tuple[int, float]:
        error = item[1].metrics.rel_l2
        return _STATUS.index(item[1].status), error if error == error else float("inf")

    sample, chosen = max(found, key=gravity)
    statistics: dict[str, Any] = {"count": len(found), "of": total, "worst_sample": sample}
    for name, values in (
        ("rel_l2", [m.metrics.rel_l2 for _, m in found]),
        ("isolated_rel_l2", [m.isolated.rel_l2 for _, m in found if m.isolated is not None]),
    ):
        if values:
            statistics |= {f"{name}_worst": max(values), f"{name}_median": median(values)}
    return replace(chosen, samples=statistics)
