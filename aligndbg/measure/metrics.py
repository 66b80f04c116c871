"""How far two arrays are apart: pure functions of both. Knows numpy only.

Everything is computed in float64, a block at a time (`measure.blocks`); no tensor is ever copied whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from aligndbg.core.errors import UsageError
from aligndbg.core.types import Array, Quant
from aligndbg.measure.blocks import Moments, Reader, distinct_values, saturated_share
from aligndbg.measure.results import Masked, Metrics
from aligndbg.measure.sums import PairSums, Sums
from aligndbg.measure.tolerance import Tolerance

__all__ = ["compare"]


_OF_DIFFERENCE = ("max_abs", "mean_abs", "rmse", "sum_diff", "max_rel", "rel_l2", "cosine", "euclid", "sqnr_db")
# What is computed from sums of squares, which may leave float64's range where the values do not.
_OF_SQUARES = frozenset({"rmse", "rel_l2", "cosine", "euclid", "sqnr_db"})
Formula = Callable[[], float]


def compare(
    reference: Array,
    candidate: Array,
    *,
    tolerance: Tolerance | None = None,
    reference_quant: Quant | None = None,
    candidate_quant: Quant | None = None,
    to_reference: Callable[[Array], Array] | None = None,
    joint: bool = False,
) -> Metrics:
    """Every metric of two tensors of the same shape, in any real dtype (bool, ints, fp8 to float64).

    `to_reference` brings the candidate into the reference's shape (`Layout.to_reference`); `candidate_quant.axis` is
    an axis of the candidate as it is passed. Without it the candidate may itself be a transposed view, and the axis
    is then one of the view. 64-bit integers beyond 2^53 are rounded to float64. `joint` gathers `Metrics.joint` too.

    Raises UsageError for shapes that differ, dtypes that are not real numbers, or scales that do not fit the axis.
    """
    left, right = Reader(reference, reference_quant), Reader(candidate, candidate_quant)
    if to_reference is not None:
        right = right.reordered(to_reference)
    if left.array.shape != right.array.shape:
        raise UsageError(
            f"cannot compare shape {left.array.shape} with {right.array.shape}", hint="apply the pair's layout first"
        )
    return _summary(PairSums(left, right, tolerance, joint))


def _summary(sums: PairSums) -> Metrics:
    whole, rest = sums.whole, sums.rest
    r, c, count = whole.reference, whole.candidate, sums.left.array.size
    why = _undefined_reason(count, whole)
    reasons: dict[str, str] = {}
    values = _difference_values(rest, why, reasons)
    masked = None if sums.masked is None else _masked(sums.masked, count, values, reasons)
    if why != "empty" and not whole.mismatch and whole.count < count:
        reasons["nonfinite"] = f"{count - whole.count} positions with the same NaN or Inf on both sides were left out"
    quantized = sums.stepper.scale is not None
    if quantized and why:
        reasons.update(lsb_max=why, lsb_mean=why)
    return Metrics(
        count=count,
        **values,
        **_side_values(rest, "empty" if not count else "no finite value", reasons),
        distinct_reference=distinct_values(sums.left.array),
        distinct_candidate=distinct_values(sums.right.array),
        nan_reference=r.nans,
        nan_candidate=c.nans,
        inf_reference=r.infs,
        inf_candidate=c.infs,
        zeros_reference=r.zeros,
        zeros_candidate=c.zeros,
        nonfinite_mismatch=whole.mismatch,
        violations=whole.violations if sums.counts_violations else None,
        lsb_max=(math.nan if why else whole.lsb_max) if quantized else None,
        lsb_mean=(math.nan if why else whole.lsb_total / whole.count) if quantized else None,
        saturated=saturated_share(sums.stepper.array, sums.tiling) if quantized and count else None,
        masked=masked,
        joint=None if why or whole.joint is None else whole.joint.result(),
        worst_index=sums.tiling.locate(*rest.worst) if rest.worst and not why else None,
        reasons=reasons,
    )


def _masked(sums: Sums, count: int, rest: dict[str, float], reasons: dict[str, str]) -> Masked:
    """A mask's huge values by themselves; what is worse there takes the place of what is in `rest`."""
    apart: dict[str, str] = {}
    values = _difference_values(sums, "", apart)
    for name, worse in (("rel_l2", max), ("cosine", min), ("euclid", min), ("sqnr_db", min)):
        if name in apart and name not in reasons:
            reasons[name] = f"a mask's huge values: {apart[name]}"
        rest[name] = math.nan if name in reasons else worse(rest[name], values[name])
    reasons["masked"] = f"{sums.count} of {count} elements are a mask's huge values, measured apart"
    return Masked(
        sums.count,
        sums.reference.mean,
        sums.candidate.mean,
        **{name: values[name] for name in ("max_abs", "rel_l2", "cosine", "euclid", "sqnr_db")},
    )


def _undefined_reason(count: int, d: Sums) -> str:
    if not count:
        return "empty"
    if d.mismatch:
        return f"NaN or Inf on one side only, or unlike, at {d.mismatch} of {count} positions"
    return "" if d.count else "no finite value"


def _difference_values(d: Sums, why: str, reasons: dict[str, str]) -> dict[str, float]:
    """The metrics of the difference; each undefined one is nan and gets its reason in `reasons`."""
    if why:
        reasons.update(dict.fromkeys(_OF_DIFFERENCE, why))
        return dict.fromkeys(_OF_DIFFERENCE, math.nan)
    underflow = d.max_abs > 0 and d.squares == 0
    overflow = not math.isfinite(d.reference.squares + d.candidate.squares + d.squares)
    values: dict[str, float] = {}
    for name, (reason, formula) in _formulas(d).items():
        if name in _OF_SQUARES:
            reason = "underflows float64" if underflow else reason or ("overflows float64" if overflow else "")
        values[name], reason = (math.nan, reason) if reason else _value(name, formula)
        if reason:
            reasons[name] = reason
    return values


def _value(name: str, formula: Formula) -> tuple[float, str]:
    """The value and "", or nan and the reason; equal tensors have an infinite SQNR."""
    value = formula()
    return (value, "") if math.isfinite(value) or name == "sqnr_db" else (math.nan, "overflows float64")


def _formulas(d: Sums) -> dict[str, tuple[str, Formula]]:
    """By name: why the metric is undefined, or "", and how it is computed where it is not."""
    r, c = d.reference, d.candidate
    norm_r, norm_c, norm_d = math.sqrt(r.squares), math.sqrt(c.squares), math.sqrt(d.squares)
    zero_r = _zero_reason(r, "reference")
    zero_either = zero_r or _zero_reason(c, "candidate")
    twice_mean = 2 * (r.squares + c.squares) - d.squares  # |r + c|^2
    opposite = "" if twice_mean > 0 else "reference + candidate is zero"
    extent = (r.greatest - r.least) or r.largest
    return {
        "max_abs": ("", lambda: d.max_abs),
        "mean_abs": ("", lambda: d.total_abs / d.count),
        "rmse": ("", lambda: norm_d / math.sqrt(d.count)),
        "sum_diff": ("", lambda: d.total),
        "max_rel": ("" if extent else zero_r, lambda: d.max_abs / extent),
        "rel_l2": (zero_r, lambda: norm_d / norm_r),
        "cosine": (zero_either, lambda: _cosine(d, norm_r, norm_c)),
        "euclid": (opposite, lambda: 1 - 2 * norm_d / math.sqrt(twice_mean)),
        "sqnr_db": (zero_r, lambda: 20 * math.log10(norm_r / norm_d) if norm_d else math.inf),
    }


def _zero_reason(side: Moments, name: str) -> str:
    if side.largest == 0:
        return f"the {name} is all zero"
    return "" if side.squares > 0 else "underflows float64"


def _cosine(d: Sums, norm_r: float, norm_c: float) -> float:
    """r.c / (|r| |c|); where the two are close, 1 - (1 - cos) with the latter from d alone, so that nothing cancels."""
    norms = norm_r * norm_c
    if d.squares > norms:
        return min(1.0, max(-1.0, d.product / norms))
    along = (2 * d.with_reference - d.squares) / (norm_r + norm_c)
    return 1.0 - max(0.0, d.squares - along * along) / (2 * norms)


def _side_values(d: Sums, why: str, reasons: dict[str, str]) -> dict[str, float]:
    """The moments of both sides by field name; each undefined one is nan and gets its reason in `reasons`."""
    values: dict[str, float] = {}
    for side, moments in (("reference", d.reference), ("candidate", d.candidate)):
        numbers = {"mean": moments.mean, "std": moments.std, "min": moments.least, "max": moments.greatest}
        for name, number in numbers.items():
            reason = ("overflows float64" if not math.isfinite(number) else "") if moments.finite else why
            values[f"{name}_{side}"] = math.nan if reason else number
            if reason:
                reasons[f"{name}_{side}"] = reason
    return values
