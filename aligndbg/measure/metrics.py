"""How far two arrays are apart: pure functions of both. Knows numpy only.

Everything is computed in float64, a block at a time (`measure.blocks`); no tensor is ever copied whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligndbg.core.errors import UsageError
from aligndbg.core.types import Array, Quant
from aligndbg.measure.blocks import BLOCK, Moments, Reader, Tiling, distinct_values, saturated_share
from aligndbg.measure.results import Metrics
from aligndbg.measure.tolerance import Tolerance
from aligndbg.measure.violations import JointBuilder

__all__ = ["compare"]


@dataclass
class _Difference:
    """Running sums of d = r - c, and of d.r and r.c, over the positions where both are finite."""

    count: int = 0
    mismatch: int = 0
    total: float = 0.0
    total_abs: float = 0.0
    squares: float = 0.0
    with_reference: float = 0.0
    product: float = 0.0
    max_abs: float = -1.0
    worst: tuple[tuple[slice, ...], int] | None = None
    lsb_max: float = 0.0
    lsb_total: float = 0.0
    violations: int = 0


class _Comparison:
    """The state of one `compare`: both readers, the running sums, the scratch buffers."""

    def __init__(self, left: Reader, right: Reader, tolerance: Tolerance | None, joint: bool) -> None:
        self.tiling = Tiling(left.arrays + right.arrays)
        self.left, self.right = left.sorted(self.tiling), right.sorted(self.tiling)
        self.stepper = self.right if self.right.scale is not None else self.left
        limits = (None, None) if tolerance is None else (tolerance.atol, tolerance.rtol)
        self.counts_violations = limits != (None, None)
        self.atol, self.rtol = limits[0] or 0.0, limits[1] or 0.0
        self.reference, self.candidate, self.difference = Moments(), Moments(), _Difference()
        self.joint = JointBuilder() if joint else None
        self._buffers = np.empty((5, BLOCK))

    def run(self) -> None:
        with np.errstate(all="ignore"):
            for block in self.tiling.blocks():
                self._add(block)

    def _add(self, block: tuple[slice, ...]) -> None:
        r = self.left.read(block, self._buffers[0])
        c = self.right.read(block, self._buffers[1])
        d = np.subtract(r, c, out=self._buffers[2][: r.size])
        squares = float(np.dot(d, d))
        if math.isfinite(squares):
            self.reference.add(r)
            self.candidate.add(c)
            self._add_difference(block, r, c, d, squares, None)
            return
        finite_r, finite_c = np.isfinite(r), np.isfinite(c)
        both = finite_r & finite_c
        same = (r == c) | (np.isnan(r) & np.isnan(c))
        self.difference.mismatch += int(np.count_nonzero(~both & ~same))
        self.reference.add(self.reference.without_nonfinite(r, finite_r))
        self.candidate.add(self.candidate.without_nonfinite(c, finite_c))
        kept = d[both]
        self._add_difference(block, r[both], c[both], kept, float(np.dot(kept, kept)), both)

    def _add_difference(
        self, block: tuple[slice, ...], r: Array, c: Array, d: Array, squares: float, kept: Array | None
    ) -> None:
        """Adds one block of the difference; `kept` marks the elements still held, None for all."""
        if not d.size:
            return
        sums = self.difference
        sums.count += d.size
        sums.squares += squares
        sums.total += float(d.sum())
        sums.with_reference += float(np.dot(d, r))
        sums.product += float(np.dot(r, c))
        absolute = np.abs(d, out=self._buffers[3][: d.size])
        sums.total_abs += float(absolute.sum())
        greatest = float(absolute.max())
        if greatest > sums.max_abs:
            offset = int(absolute.argmax())
            sums.max_abs = greatest
            sums.worst = (block, offset if kept is None else int(np.flatnonzero(kept)[offset]))
        if self.counts_violations and greatest > self.atol:
            sums.violations += int(np.count_nonzero(absolute > self.atol + self.rtol * np.abs(r)))
        if self.joint is not None and greatest > 0:
            self.joint.add(np.abs(r, out=self._buffers[4][: r.size]), absolute)
        if self.stepper.scale is not None:
            scale = self.stepper.read_scale(block)
            steps = absolute / (scale if kept is None or not scale.ndim else scale[kept])
            sums.lsb_max = max(sums.lsb_max, float(steps.max()))
            sums.lsb_total += float(steps.sum())


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
    comparison = _Comparison(left, right, tolerance, joint)
    comparison.run()
    return _summary(comparison)


def _summary(comparison: _Comparison) -> Metrics:
    r, c, d = comparison.reference, comparison.candidate, comparison.difference
    count = comparison.left.array.size
    why = _undefined_reason(count, d)
    reasons: dict[str, str] = {}
    values = _difference_values(r, c, d, why, reasons)
    if why != "empty" and not d.mismatch and d.count < count:
        reasons["nonfinite"] = f"{count - d.count} positions with the same NaN or Inf on both sides were left out"
    quantized = comparison.stepper.scale is not None
    if quantized and why:
        reasons.update(lsb_max=why, lsb_mean=why)
    return Metrics(
        count=count,
        **values,
        **_side_values(r, c, "empty" if not count else "no finite value", reasons),
        distinct_reference=distinct_values(comparison.left.array),
        distinct_candidate=distinct_values(comparison.right.array),
        nonfinite_mismatch=d.mismatch,
        violations=d.violations if comparison.counts_violations else None,
        lsb_max=(math.nan if why else d.lsb_max) if quantized else None,
        lsb_mean=(math.nan if why else d.lsb_total / d.count) if quantized else None,
        saturated=saturated_share(comparison.stepper.array, comparison.tiling) if quantized and count else None,
        joint=None if why or comparison.joint is None else comparison.joint.result(),
        worst_index=comparison.tiling.locate(*d.worst) if d.worst and not why else None,
        reasons=reasons,
    )


def _undefined_reason(count: int, d: _Difference) -> str:
    if not count:
        return "empty"
    if d.mismatch:
        return f"NaN or Inf on one side only, or unlike, at {d.mismatch} of {count} positions"
    return "" if d.count else "no finite value"


def _difference_values(r: Moments, c: Moments, d: _Difference, why: str, reasons: dict[str, str]) -> dict[str, Any]:
    """The metrics of the difference; each undefined one is nan and gets its reason in `reasons`."""
    names = ("max_abs", "mean_abs", "rmse", "sum_diff", "max_rel", "rel_l2", "cosine", "euclid", "sqnr_db")
    if why:
        reasons.update(dict.fromkeys(names, why))
        return dict.fromkeys(names, math.nan)
    norm_r, norm_c, norm_d = math.sqrt(r.squares), math.sqrt(c.squares), math.sqrt(d.squares)
    zero_r = _zero_reason(r, "reference")
    zero_either = zero_r or _zero_reason(c, "candidate")
    twice_mean = 2 * (r.squares + c.squares) - d.squares  # |r + c|^2
    extent = (r.greatest - r.least) or r.largest
    formulas: dict[str, tuple[str, Callable[[], float]]] = {
        "max_abs": ("", lambda: d.max_abs),
        "mean_abs": ("", lambda: d.total_abs / d.count),
        "rmse": ("", lambda: norm_d / math.sqrt(d.count)),
        "sum_diff": ("", lambda: d.total),
        "max_rel": ("" if extent else zero_r, lambda: d.max_abs / extent),
        "rel_l2": (zero_r, lambda: norm_d / norm_r),
        "cosine": (zero_either, lambda: _cosine(d, norm_r, norm_c)),
        "euclid": (
            "" if twice_mean > 0 else "reference + candidate is zero",
            lambda: 1 - 2 * norm_d / math.sqrt(twice_mean),
        ),
        "sqnr_db": (zero_r, lambda: 20 * math.log10(norm_r / norm_d) if norm_d else math.inf),
    }
    if d.max_abs and not norm_d:
        formulas |= {
            name: ("underflows float64", formulas[name][1])
            for name in ("rmse", "rel_l2", "cosine", "sqnr_db", "euclid")
        }
    overflow = not math.isfinite(r.squares + c.squares + d.squares)
    values: dict[str, Any] = {}
    for name, (reason, formula) in formulas.items():
        if not reason and overflow and name not in ("max_abs", "mean_abs", "sum_diff", "max_rel"):
            reason = "overflows float64"
        values[name] = math.nan if reason else formula()
        if not reason and not math.isfinite(values[name]) and name != "sqnr_db":
            values[name], reason = math.nan, "overflows float64"
        if reason:
            reasons[name] = reason
    return values


def _zero_reason(side: Moments, name: str) -> str:
    if side.largest == 0:
        return f"the {name} is all zero"
    return "" if side.squares > 0 else "underflows float64"


def _cosine(d: _Difference, norm_r: float, norm_c: float) -> float:
    """r.c / (|r| |c|); where the two are close, 1 - (1 - cos) with the latter from d alone, so that nothing cancels."""
    norms = norm_r * norm_c
    if d.squares > norms:
        return min(1.0, max(-1.0, d.product / norms))
    along = (2 * d.with_reference - d.squares) / (norm_r + norm_c)
    return 1.0 - max(0.0, d.squares - along * along) / (2 * norms)


def _side_values(r: Moments, c: Moments, why: str, reasons: dict[str, str]) -> dict[str, Any]:
    """Counts and moments of both sides by field name."""
    values: dict[str, Any] = {}
    for side, moments in (("reference", r), ("candidate", c)):
        numbers = {"mean": moments.mean, "std": moments.std, "min": moments.least, "max": moments.greatest}
        for name, number in numbers.items():
            reason = ("overflows float64" if not math.isfinite(number) else "") if moments.finite else why
            values[f"{name}_{side}"] = math.nan if reason else number
            if reason:
                reasons[f"{name}_{side}"] = reason
        values |= {f"nan_{side}": moments.nans, f"inf_{side}": moments.infs, f"zeros_{side}": moments.zeros}
    return values
