"""What is kept of one pair: its metrics, its picture, its status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aligndbg.core.types import Array, Pair, Status
from aligndbg.measure.violations import JointErrors

__all__ = ["AxisProfile", "Detail", "Element", "ErrorMap", "Masked", "Measurement", "Metrics"]


@dataclass(frozen=True)
class Element:
    """One element; `index` is in the reference's shape."""

    index: tuple[int, ...]
    reference: float
    candidate: float


@dataclass(frozen=True)
class AxisProfile:
    """max|d| along one axis of the reference's shape, over all others; each cell covers `step` indices."""

    axis: int
    size: int
    step: int
    values: Array


@dataclass(frozen=True)
class ErrorMap:
    """max|d| over two axes, the maximum taken over all others: `values` float64 (rows, columns).

    Each cell covers `steps` indices of `axes`.
    """

    axes: tuple[int, int]
    steps: tuple[int, int]
    values: Array


@dataclass(frozen=True)
class Detail:
    """d = reference - candidate in the reference's shape, quantized sides dequantized.

    - `edges` float64 (BINS + 1,), and the `counts_*` int64 (BINS,) of each side's finite elements between them
    - `points` float64 (n, 2): reference and candidate at up to POINTS random positions (fixed seed), finite ones only
    - `profiles`, `maps`: where |d| is large, by axis and by pairs of axes; inf marks a NaN or Inf unlike the other side
    - `bad`: elements with |d| > atol + rtol |r|, or unlike in NaN and Inf; `first` are the first of them in C order,
      `worst` those with the largest |d|
    """

    edges: Array
    counts_reference: Array
    counts_candidate: Array
    points: Array
    profiles: tuple[AxisProfile, ...]
    maps: tuple[ErrorMap, ...]
    atol: float
    rtol: float
    bad: int
    first: tuple[Element, ...]
    worst: tuple[Element, ...]


@dataclass(frozen=True)
class Masked:
    """A mask's huge values, `count` of them, that both sides hold at the same places: the difference by themselves."""

    count: int
    mean_reference: float
    mean_candidate: float
    max_abs: float
    rel_l2: float
    cosine: float
    euclid: float
    sqnr_db: float


@dataclass(frozen=True)
class Metrics:
    """The difference d = reference - candidate (r, c) of two tensors. Undefined is nan, with its reason in `reasons`.

    - `max_rel`: max|d| over the reference's range max - min (over max|r| where that is 0)
    - `rel_l2`: |d| / |r|; `cosine`: r.c / (|r| |c|); `sqnr_db`: 10 log10(sum r^2 / sum d^2), inf for equal tensors
    - `euclid`: TPU-MLIR's Euclidean similarity, 1 - |d| / |(r + c) / 2|
    - `violations`: elements with |d| > atol + rtol |r|; None where the tolerance has neither
    - `lsb_max`, `lsb_mean`: |d| in quantization steps of the candidate (of the reference where only that is
      quantized); None where neither is. `saturated`: share of that side's stored values at its dtype's limits
    - `distinct_*`: distinct stored values among 2^18 evenly spread elements, counted up to DISTINCT_CAP
    - `nonfinite_mismatch`: positions with a NaN or Inf where the other side has not the same. One of them makes every
      value of the difference nan. Positions where both have the same are left out, and `reasons["nonfinite"]` says so
    - mean, std (population), min, max of a side are over its finite elements
    - `masked`: a mask's huge values (`measure.masks`) would hide the rest, so they are measured apart; None without.
      `rel_l2`, `cosine`, `euclid` and `sqnr_db` are then those of the rest or of the mask, whichever is worse; of the
      rest alone are max, mean and sum of d, rmse, `worst_index`, and mean, std, min, max of each side
    - `joint`: what violations of other limits can be counted from; None where it was not asked for, or the difference
      is undefined
    - `worst_index`: where |d| is largest, in the reference's shape; None where undefined
    """

    count: int
    max_abs: float
    mean_abs: float
    rmse: float
    sum_diff: float
    max_rel: float
    rel_l2: float
    cosine: float
    euclid: float
    sqnr_db: float
    mean_reference: float
    mean_candidate: float
    std_reference: float
    std_candidate: float
    min_reference: float
    min_candidate: float
    max_reference: float
    max_candidate: float
    distinct_reference: int
    distinct_candidate: int
    nan_reference: int
    nan_candidate: int
    inf_reference: int
    inf_candidate: int
    zeros_reference: int
    zeros_candidate: int
    nonfinite_mismatch: int
    violations: int | None
    lsb_max: float | None
    lsb_mean: float | None
    saturated: float | None
    worst_index: tuple[int, ...] | None
    masked: Masked | None = None
    joint: JointErrors | None = field(default=None, compare=False, repr=False)
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """One pair, measured. `metrics` compares accumulated values, `isolated` the layer's own (None: see `reason`)."""

    pair: Pair
    metrics: Metrics
    status: Status
    reason: str = ""
    isolated: Metrics | None = None
    reference_op: str = ""
    candidate_op: str = ""
    samples: Mapping[str, str | int | float] | None = None  # statistics over several inputs; this is then the worst one
    detail: Detail | None = None  # of the accumulated values, where it was asked for
