"""Limits: their defaults, the user's rules, what is within them, and tensors that prove nothing."""

from __future__ import annotations

from math import inf as INF
from math import nan as NAN

import ml_dtypes
import numpy as np
import pytest

from aligndbg.core.errors import UsageError
from aligndbg.measure.metrics import compare
from aligndbg.measure.tolerance import Tolerance, ToleranceRules, default_tolerance, degenerate, within

RNG = np.random.default_rng(7)
pytestmark = pytest.mark.filterwarnings("error")


def test_defaults_separate_noise_from_faults() -> None:
    r = RNG.standard_normal(4096).astype(np.float32)
    noise, fault = (r * (1 + size * RNG.standard_normal(4096)).astype(np.float32) for size in (3e-7, 2e-3))
    isolated = default_tolerance("float32", "float32", "Conv", isolated=True)
    assert within(compare(r, noise), isolated)[0]
    fine, why = within(compare(r, fault), isolated)
    assert not fine
    assert why.startswith("rel_l2 0.00")
    half = r.astype(np.float16)
    assert within(compare(r, half), default_tolerance("float32", "float16", isolated=True))[0]
    assert within(compare(r, r.astype(ml_dtypes.bfloat16)), default_tolerance("float32", "bfloat16", isolated=True))[0]


def test_tiny_values_of_a_bounded_op_are_judged_against_one() -> None:
    r = np.array([1e-7, 2e-7, 3e-7], np.float32)
    measured = compare(r, r * np.float32(1.01))
    assert within(measured, default_tolerance("float32", "float32", "Sigmoid", isolated=True))[0]
    assert not within(measured, default_tolerance("float32", "float32", "Conv", isolated=True))[0]


def test_half_a_subnormal_step_is_rounding() -> None:
    """Next to zero float16 cannot round better, however large that is beside the value."""
    values = np.random.default_rng(0).uniform(1e-7, 4e-6, 1000).astype(np.float32)
    rounded = values.astype(np.float16)
    limits = default_tolerance("float32", "float16", op="Mul", isolated=True)
    metrics = compare(values, rounded)
    assert metrics.rel_l2 > (limits.rel_l2 or 0)
    assert within(metrics, limits)[0]
    assert not within(compare(values, rounded + np.float16(1.3e-7)), limits)[0]


def test_default_of_quantized_and_exact_dtypes() -> None:
    assert default_tolerance("float32", "int8") == Tolerance(min_cosine=0.95)
    assert default_tolerance("float32", "int8", isolated=True) == Tolerance(max_lsb=1.5)
    exact = default_tolerance("int64", "int32")
    r = np.array([1, 2, 3])
    assert within(compare(r, r, tolerance=exact), exact)[0]
    assert not within(compare(r, r + 1, tolerance=exact), exact)[0]
    long_sum = default_tolerance("float32", "float32", "MatMul", 10_000_000, isolated=True)
    assert long_sum.rel_l2 is not None
    assert long_sum.rel_l2 > 1e-4


@pytest.mark.parametrize(
    ("r", "c", "tolerance", "why"),
    [
        ([1, NAN], [1, 2], Tolerance(min_cosine=0.1), "NaN or Inf on one side"),
        ([], [], Tolerance(min_cosine=0.1), "empty"),
        ([0, 0], [0, 0], Tolerance(min_cosine=0.1), "cosine is undefined (the reference is all zero)"),
        ([1, 2], [1, 2], Tolerance(max_lsb=1), "neither side is quantized"),
        ([1, 2], [1, 3], Tolerance(min_sqnr=20), "sqnr_db"),
        ([1, 2], [1, 3], Tolerance(min_euclid=0.9), "euclid"),
    ],
)
def test_judge_refuses(r: list[float], c: list[float], tolerance: Tolerance, why: str) -> None:
    fine, reason = within(compare(np.array(r, float), np.array(c, float)), tolerance)
    assert not fine
    assert why in reason


def test_judge_never_passes_uncounted_violations() -> None:
    fine, reason = within(compare(np.ones(2), np.ones(2) * 1.5), Tolerance(atol=1.0))
    assert not fine
    assert "not counted" in reason


def test_rules_later_wins_and_unused_is_told() -> None:
    rules = ToleranceRules(
        Tolerance(min_cosine=0.99), ["op=Conv:atol=1e-3,rtol=1e-2", "name=/head/*:min_cosine=0.9", "name=a:0:atol=1"]
    )
    default = Tolerance(rel_l2=1e-4)
    assert rules.resolve("Relu", ["/x"], default) == Tolerance(min_cosine=0.99)
    assert rules.resolve("Conv", ["/head/y"], default) == Tolerance(atol=1e-3, rtol=1e-2, min_cosine=0.9)
    assert rules.resolve("Relu", ["a:0"], default) == Tolerance(atol=1.0, min_cosine=0.99)
    assert ToleranceRules().resolve("Conv", ["x"], default) == default
    assert rules.unused(["Conv"], ["/head/y"]) == ("name=a:0:atol=1",)


@pytest.mark.parametrize(
    "spec", ["op=Conv", "op=Conv:", "op=:atol=1", "atol", "min_cosin=1", "name=x:atol=much", "atol=-1", "atol=nan"]
)
def test_malformed_rules_are_usage_errors(spec: str) -> None:
    with pytest.raises(UsageError):
        ToleranceRules(None, [spec])


@pytest.mark.parametrize(
    ("r", "c", "reason"),
    [
        ([], [], "empty"),
        ([0, 0], [0, 0], "all zero on both sides"),
        ([0], [0], "all zero on both sides"),
        ([2, 2], [2, 2], "constant on both sides"),
        ([NAN, NAN], [NAN, NAN], "non-finite everywhere"),
        ([1, NAN], [1, 1], "non-finite on one side only"),
        ([0, 0], [1, 2], ""),
        ([2, 2], [3, 3], ""),
        ([2], [2], ""),
        ([1, 2, INF], [1, 2, INF], ""),
    ],
)
def test_degenerate(r: list[float], c: list[float], reason: str) -> None:
    found = degenerate(compare(np.array(r, np.float64), np.array(c, np.float64)))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_a_masks_values_are_held_to_the_limits_by_themselves() -> None:
    scores = np.random.default_rng(1).standard_normal((6, 6))
    mask = np.triu(np.ones((6, 6), bool), 1)

    def judged(shift: float, one: float, other: float, limits: Tolerance) -> tuple[bool, str]:
        return within(compare(np.where(mask, one, scores), np.where(mask, other, scores + shift)), limits)

    limits = default_tolerance("float32", "float32")
    assert judged(0.0, -1e9, -1e9, limits)[0]
    assert judged(1e-8, -1e9, -1e9, limits)[0]
    wrong, why = judged(0.5, -1e9, -1e9, limits)  # not excused as tiny beside 1e9
    assert not wrong
    assert why.startswith("rel_l2 0.")
    wrong, why = judged(0.0, -1e9, -65504.0, limits)
    assert not wrong
    assert why == "rel_l2 0.999934 > 0.001 of a mask's 15 huge values, -1e+09 against -65504"
    assert not judged(2.0, -1e9, -1e9, Tolerance(min_cosine=0.95))[0]
    assert degenerate(compare(np.where(mask, -1e9, 1.0), np.where(mask, -1e9, 1.0))) == ""
