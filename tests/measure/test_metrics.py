"""Metrics against naive float64 formulas, and the cases in which a number would lie."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aligndbg.core.errors import UsageError
from aligndbg.core.types import Layout, LayoutKind, Quant
from aligndbg.measure import blocks, metrics
from aligndbg.measure.blocks import DISTINCT_CAP
from aligndbg.measure.fingerprint import fingerprint
from aligndbg.measure.metrics import compare
from aligndbg.measure.tolerance import Tolerance

RNG = np.random.default_rng(7)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=6)
ELEMENTS = st.floats(-100, 100, width=32)
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=ELEMENTS)] * 2).filter(
        lambda pair: bool(pair[0].any() and pair[1].any())
    )
)
PERMUTED = ("max_abs", "mean_abs", "rmse", "sum_diff", "max_rel", "rel_l2", "cosine", "euclid", "mean_reference",
            "std_candidate", "min_reference", "max_candidate", "zeros_reference", "distinct_candidate")  # fmt: skip


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def naive(r: np.ndarray, c: np.ndarray) -> dict[str, float]:
    r, c = r.astype(np.float64).ravel(), c.astype(np.float64).ravel()
    d = r - c
    return {
        "max_abs": np.abs(d).max(),
        "mean_abs": np.abs(d).mean(),
        "rmse": np.sqrt(np.mean(d * d)),
        "sum_diff": d.sum(),
        "rel_l2": np.linalg.norm(d) / np.linalg.norm(r),
        "cosine": r @ c / np.linalg.norm(r) / np.linalg.norm(c),
        "mean_reference": r.mean(),
        "std_reference": r.std(),
        "std_candidate": c.std(),
        "min_candidate": c.min(),
        "max_reference": r.max(),
        "zeros_reference": np.count_nonzero(r == 0),
    }


@given(PAIRS)
@settings(max_examples=80, deadline=None)
def test_equals_the_naive_formulas(pair: tuple[np.ndarray, np.ndarray]) -> None:
    measured = compare(*pair)
    for name, value in naive(*pair).items():
        if name not in measured.reasons:
            assert getattr(measured, name) == pytest.approx(value, rel=1e-9, abs=1e-9), name
    apart = np.abs(pair[0].astype(np.float64) - pair[1])
    assert apart[measured.worst_index] == measured.max_abs


@given(PAIRS, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_is_the_same_for_any_common_permutation(pair: tuple[np.ndarray, np.ndarray], random: Any) -> None:
    r, c = pair
    axes = list(range(r.ndim))
    random.shuffle(axes)
    plain, moved = compare(r, c), compare(r.transpose(axes), c.transpose(axes))
    mixed = compare(r, np.ascontiguousarray(c.transpose(axes)).transpose(np.argsort(axes)))
    for name in PERMUTED:
        for other in (moved, mixed):
            expected = pytest.approx(getattr(plain, name), rel=1e-9, abs=1e-9, nan_ok=True)
            assert getattr(other, name) == expected, name


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_symmetric_metrics_are_symmetric(pair: tuple[np.ndarray, np.ndarray]) -> None:
    forward, backward = compare(*pair), compare(*reversed(pair))
    for name in ("max_abs", "mean_abs", "rmse", "cosine", "euclid"):
        assert getattr(forward, name) == pytest.approx(getattr(backward, name), rel=1e-12, abs=1e-12, nan_ok=True)
    assert forward.sum_diff == pytest.approx(-backward.sum_diff)
    assert forward.mean_reference == pytest.approx(backward.mean_candidate)


@pytest.mark.parametrize("block", [3, 64, 1000])
def test_block_boundaries_change_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    r = RNG.standard_normal((3, 5, 7, 11)).astype(np.float32)
    c = np.ascontiguousarray((r + 0.01 * RNG.standard_normal(r.shape)).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    r[1, 2, 3, 4] = c[1, 2, 3, 4] = np.inf
    whole = dataclasses.asdict(compare(r, c, tolerance=Tolerance(atol=0.01)))
    monkeypatch.setattr(blocks.Tiling.__init__, "__defaults__", (block,))
    parts = dataclasses.asdict(compare(r, c, tolerance=Tolerance(atol=0.01)))
    for found in (whole, parts):
        del found["joint"]  # arrays; test_violations.py
    for name in ("reasons", "worst_index", "lsb_max", "lsb_mean", "saturated", "masked"):
        assert parts.pop(name) == whole.pop(name)
    assert parts == pytest.approx(whole, rel=1e-12)


def test_large_tensors_span_many_blocks() -> None:
    r = RNG.standard_normal((2, 24, 61, 67)).astype(np.float32)
    c = (r + 1e-3 * RNG.standard_normal(r.shape)).astype(np.float32)
    view = np.ascontiguousarray(c.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert r.size > 4 * blocks.BLOCK
    for candidate in (c, view):
        measured = compare(r, candidate)
        for name, value in naive(r, c).items():
            assert getattr(measured, name) == pytest.approx(value, rel=1e-9, abs=1e-9), name
        assert np.unravel_index(np.abs(r.astype(float) - c).argmax(), r.shape) == measured.worst_index


def test_cosine_does_not_cancel() -> None:
    r = np.ones(1000)
    c = r.copy()
    c[0] += 1e-6
    assert 1 - compare(r, c).cosine == pytest.approx(0.5e-15, rel=0.2)


def test_std_far_from_zero() -> None:
    r = 1e6 + RNG.standard_normal(100_000)
    assert compare(r, r).std_reference == pytest.approx(r.std(), rel=1e-9)


def test_euclid_is_that_of_tpu_mlir() -> None:
    r, c = np.array([3.0, 4.0]), np.array([3.0, 3.0])
    assert compare(r, c).euclid == pytest.approx(1 - 1.0 / math.hypot(3.0, 3.5))


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8, np.uint8, np.int64, bool,
     ml_dtypes.int4],
)  # fmt: skip
def test_every_dtype_is_read(dtype: Any) -> None:
    r, c = (np.array(values).astype(dtype) for values in ([0, 1, 1, 1, 0], [1, 1, 0, 1, 0]))
    measured = compare(r, c)
    assert (measured.max_abs, measured.sum_diff, measured.distinct_reference) == (1.0, 0.0, 2)
    assert measured.cosine == pytest.approx(2 / 3)
    assert fingerprint(r).mean == pytest.approx(0.6)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([None])])
def test_what_is_no_real_number_is_refused(array: np.ndarray) -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        compare(array, array)


def test_unlike_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(2,\) with \(1, 2\)"):
        compare(np.zeros(2), np.zeros((1, 2)))


# --- undefined values ---------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("r", "c", "undefined", "reason"),
    [
        ([], [], "max_abs rel_l2 cosine euclid sqnr_db mean_reference std_candidate", "empty"),
        ([0, 0], [0, 0], "rel_l2 cosine euclid sqnr_db max_rel", "zero"),
        ([0, 0], [1, 2], "rel_l2 cosine sqnr_db max_rel", "the reference is all zero"),
        ([1, 2], [0, 0], "cosine", "the candidate is all zero"),
        ([1, -2], [-1, 2], "euclid", "reference + candidate is zero"),
        ([1, NAN], [1, 2], "max_abs cosine rel_l2 sqnr_db sum_diff", "at 1 of 2"),
        ([1, INF], [1, -INF], "max_abs cosine", "at 1 of 2"),
        ([NAN, INF], [NAN, INF], "max_abs cosine mean_reference", "no finite value"),
        ([1e300, 1], [1e300, 2], "rmse cosine rel_l2", "overflows float64"),
        ([1e-200, 1e-200], [2e-200, 1e-200], "cosine rel_l2 sqnr_db", "underflows float64"),
    ],
)
def test_undefined_is_nan_with_a_reason(r: list[float], c: list[float], undefined: str, reason: str) -> None:
    measured = compare(np.array(r, np.float64), np.array(c, np.float64))
    for name in undefined.split():
        assert math.isnan(getattr(measured, name)), name
        assert reason in measured.reasons[name], name


def test_no_value_is_nan_without_a_reason() -> None:
    for r, c in [
        ([], []),
        ([0.0], [0.0]),
        ([NAN], [1.0]),
        ([INF], [INF]),
        ([1e308] * 3, [-1e308] * 3),
        ([5e-324], [0]),
    ]:
        measured = compare(np.array(r, np.float64), np.array(c, np.float64))
        for item in dataclasses.fields(measured):
            value = getattr(measured, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                assert item.name in measured.reasons, (r, c, item.name)


def test_identical_tensors() -> None:
    r = RNG.standard_normal((4, 5))
    measured = compare(r, r)
    assert (measured.max_abs, measured.rel_l2, measured.cosine, measured.euclid) == (0, 0, 1, 1)
    assert measured.sqnr_db == math.inf


def test_nonfinite_on_both_sides_is_left_out() -> None:
    r, c = np.array([1, NAN, INF, 3, -INF]), np.array([1, NAN, INF, 3.5, -INF])
    measured = compare(r, c)
    assert measured.max_abs == 0.5
    assert measured.worst_index == (3,)
    assert (measured.nan_reference, measured.inf_candidate, measured.nonfinite_mismatch) == (1, 2, 0)
    assert measured.reasons["nonfinite"].startswith("3 positions")
    assert (measured.mean_reference, measured.max_candidate) == (2.0, 3.5)


def test_float32_extremes_do_not_overflow() -> None:
    r = np.array([3e38, -3e38, 1e-40], np.float32)
    measured = compare(r, r / 2)
    assert measured.rel_l2 == pytest.approx(0.5)
    assert measured.cosine == pytest.approx(1.0)


# --- quantization -------------------------------------------------------------------------------------------------


def test_per_tensor_quantization() -> None:
    quant = Quant(np.array([0.5], np.float32), np.array([-3]))
    r = np.array([0.0, 1.0, 2.3, 65.0], np.float32)
    q = np.array([-3, -1, 2, 127], np.int8)
    measured = compare(r, q, candidate_quant=quant)
    assert measured.max_rel == pytest.approx(0.2 / 65, rel=1e-5)
    assert measured.lsb_max == pytest.approx(0.4, rel=1e-5)
    assert measured.lsb_mean == pytest.approx(0.1, rel=1e-5)
    assert measured.saturated == 0.25
    assert compare(quant.dequantize(q), q, candidate_quant=quant).max_abs == 0.0
    assert compare(r, r).lsb_max is None
    r[0] = NAN
    assert "at 1 of 4" in compare(r, q, candidate_quant=quant).reasons["lsb_max"]


def test_per_channel_quantization_in_either_layout() -> None:
    scale = np.array([0.1, 1.0, 10.0], np.float32)
    quant = Quant(scale, np.array([0, 1, 2]), axis=3)
    q = RNG.integers(-128, 128, (2, 9, 8, 3), dtype=np.int8)
    r = quant.dequantize(q).transpose(0, 3, 1, 2).copy()
    r[1, 2, 3, 4] += 20.0
    layout = Layout(LayoutKind.PERMUTE, q.shape, (0, 3, 1, 2), r.shape, q.shape)
    measured = compare(r, q, candidate_quant=quant, to_reference=layout.to_reference)
    assert measured.lsb_max == pytest.approx(2.0, rel=1e-6)
    assert measured.worst_index == (1, 2, 3, 4)
    moved = compare(r, layout.to_reference(q), candidate_quant=dataclasses.replace(quant, axis=1))
    assert moved == measured


def test_scales_off_the_axis_are_refused() -> None:
    quant = Quant(np.ones(3, np.float32), np.zeros(3, np.int64), axis=1)
    with pytest.raises(UsageError, match="3 scales along axis 1"):
        compare(np.zeros((2, 4), np.int8), np.zeros((2, 4), np.int8), candidate_quant=quant)


def test_reference_only_quantized_gives_its_steps() -> None:
    quant = Quant(np.array([2.0], np.float32), np.array([0]))
    measured = compare(np.array([1, 2], np.int8), np.array([3.0, 4.0], np.float32), reference_quant=quant)
    assert measured.lsb_max == 0.5


def test_violations_and_distinct() -> None:
    r = np.arange(10_000, dtype=np.float32)
    c = r.copy()
    c[5:8] += 0.5
    assert compare(r, c, tolerance=Tolerance(atol=0.1)).violations == 3
    assert compare(r, c, tolerance=Tolerance(atol=0.1, rtol=1.0)).violations == 0
    assert compare(r, c).violations is None
    assert compare(r, np.floor(r / 100)).distinct_reference == DISTINCT_CAP
    assert compare(r, np.floor(r / 100)).distinct_candidate == 100


def test_public_names_exist() -> None:
    assert all(hasattr(metrics, name) for name in metrics.__all__)


def test_scalars_compare() -> None:
    """A loss, or a mean over everything, is a tensor without axes."""
    quant = Quant(np.array([0.5], np.float32), np.array([0]))
    assert compare(np.array(1.0), np.array(3.0)).max_abs == 2
    assert compare(np.array(1.0), np.array(4, np.int8), candidate_quant=quant).lsb_max == 2


# --- a mask's huge values -----------------------------------------------------------------------------------------

LOWEST = float(np.finfo(np.float32).min)
SCORES = np.random.default_rng(11).standard_normal((2, 4, 9, 9)).astype(np.float32)
MASK = np.broadcast_to(np.triu(np.ones((9, 9), bool), 1), SCORES.shape)
JUDGED = ("max_abs", "mean_abs", "rmse", "sum_diff", "max_rel", "rel_l2", "cosine", "euclid", "sqnr_db",
          "mean_reference", "std_reference", "min_candidate", "max_candidate")  # fmt: skip


def masked(values: np.ndarray, huge: float, where: np.ndarray = MASK) -> np.ndarray:
    return np.where(where, np.asarray(huge, values.dtype), values)


@pytest.mark.parametrize("huge", [LOWEST, -65504.0, -1e9, -1e4, 1e9])
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_a_mask_is_measured_apart(huge: float, last: bool) -> None:
    """The rest as if the mask were not there, in any order of the axes; and the mask by itself."""
    c = (SCORES + 0.3 * RNG.standard_normal(SCORES.shape)).astype(np.float32)
    held = masked(c, huge)
    if last:
        held = np.ascontiguousarray(held.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    measured, rest = compare(masked(SCORES, huge), held), compare(SCORES[~MASK], c[~MASK])
    for name in JUDGED:
        assert getattr(measured, name) == pytest.approx(getattr(rest, name), rel=1e-9), name
    assert measured.masked is not None
    assert (measured.masked.count, measured.masked.rel_l2) == (MASK.sum(), 0.0)
    assert measured.masked.mean_reference == pytest.approx(huge)
    assert (
        measured.reasons["masked"] == f"{MASK.sum()} of {MASK.size} elements are a mask's huge values, measured apart"
    )
    assert (measured.count, measured.nonfinite_mismatch) == (MASK.size, 0)
    assert not MASK[measured.worst_index]


def test_a_mask_of_other_values_is_a_difference_of_the_mask() -> None:
    measured = compare(masked(SCORES, -1e9), masked(SCORES, -65504))
    assert measured.rel_l2 == measured.masked.rel_l2 == pytest.approx(1.0, abs=1e-4)
    assert (measured.max_abs, measured.rmse) == (0.0, 0.0)  # of the rest
    assert measured.masked.max_abs == pytest.approx(1e9 - 65504)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_mask_at_another_place_is_a_difference(swapped: bool) -> None:
    more = MASK.copy()
    more[1, 2, 5, 3] = True
    pair = masked(SCORES, -1e9), masked(SCORES, -1e9, more)
    measured = compare(*(pair[::-1] if swapped else pair))
    assert measured.rel_l2 > 0.999
    assert measured.worst_index == (1, 2, 5, 3)
    assert measured.masked.count == MASK.sum()


def test_an_infinite_mask_against_a_finite_one_is_unlike() -> None:
    measured = compare(masked(SCORES, LOWEST), masked(SCORES, -math.inf))
    assert measured.nonfinite_mismatch == MASK.sum()
    assert math.isnan(measured.rel_l2)
    both = compare(masked(SCORES, -math.inf), masked(SCORES, -math.inf))
    assert (both.rel_l2, both.masked) == (0.0, None)


def test_what_is_no_mask_is_measured_whole() -> None:
    """The peaks of a sure classifier, or of a softmax, are no mask; nor is a mask alone."""
    sure = masked(np.abs(SCORES) * 1e-5, 1.0)
    measured = compare(sure, masked(np.abs(SCORES) * 2e-5, 1.0))
    assert measured.masked is None
    assert measured.rel_l2 < 1e-4
    alone = masked(np.zeros_like(SCORES), -1e9)
    assert compare(alone, alone).masked is None


def test_elements_are_counted_under_a_mask_too() -> None:
    c = masked(SCORES, -1e9)
    c[0, 0, 0, 1] -= 1e6
    measured = compare(masked(SCORES, -1e9), c, tolerance=Tolerance(atol=1.0), joint=True)
    assert measured.violations == 1
    assert measured.joint.violations(1.0, 0.0) == (1, 1)


def test_several_masks_span_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    r = masked(SCORES, -1e9) + np.where(np.arange(9) > 6, -1e9, 0).astype(np.float32)  # added where they meet
    c = r + np.where(r > -1e4, 0.01, 0).astype(np.float32)
    whole = compare(r, c)
    assert whole.masked.count == np.count_nonzero(r < -1e4)
    monkeypatch.setattr(blocks.Tiling.__init__, "__defaults__", (7,))
    assert compare(r, c).rel_l2 == pytest.approx(whole.rel_l2, rel=1e-12)
