"""The one number by which experiments tell right from wrong: as the judged metrics have it, with a mask or without."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aligndbg.core.types import Array
from aligndbg.measure.distance import distance
from aligndbg.measure.metrics import compare

LOWEST = float(np.finfo(np.float32).min)
RNG = np.random.default_rng(5)
SCORES = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
NEAR = (SCORES * np.float32(1.01)).astype(np.float32)
MASK = np.broadcast_to(np.triu(np.ones((8, 8), bool), 1), SCORES.shape)
MORE = MASK.copy()
MORE[0, 0, 0, 0] = True


def masked(values: Array, huge: float, where: Array = MASK) -> Array:
    return np.where(where, np.asarray(huge, values.dtype), values)


@pytest.mark.parametrize(
    ("reference", "candidate", "apart"),
    [
        (SCORES, NEAR, 0.01),
        (1e200 * SCORES.astype(np.float64), 1e200 * NEAR.astype(np.float64), 0.01),
        (masked(SCORES, LOWEST), masked(NEAR, LOWEST), 0.01),
        (masked(SCORES, -math.inf), masked(NEAR, -math.inf), 0.01),
        (masked(SCORES.astype(np.float16), -65504), masked(NEAR.astype(np.float16), -65504), 0.01),
        (masked(SCORES, LOWEST), masked(-SCORES, LOWEST), 2.0),
        (masked(SCORES, -65504), masked(SCORES, -1e9), 15265),  # a difference in the mask alone is one
        (masked(SCORES, LOWEST), masked(SCORES, -math.inf), math.inf),
        (masked(SCORES, -1e9, MORE), masked(SCORES, -1e9), 1.0),  # at one place
        (masked(SCORES, -1e9), SCORES, 1.0),
        (masked(np.zeros_like(SCORES), -1e9), masked(np.zeros_like(SCORES), -1e9), 0.0),
        (masked(np.zeros_like(SCORES), -1e9), masked(SCORES, -1e9), math.inf),  # of zeros there is no share
        (np.zeros(3), np.zeros(3), 0.0),
        (np.zeros(3), np.ones(3), math.inf),
        (np.array([1.0, math.nan]), np.array([1.0, math.nan]), 0.0),
        (np.array([1.0, math.nan]), np.array([1.0, 2.0]), math.inf),
        (np.array(2.0), np.array(3.0), 0.5),
    ],
)
def test_distance(reference: Array, candidate: Array, apart: float) -> None:
    assert distance(reference, candidate) == pytest.approx(apart, rel=0.05)
    found = compare(reference, candidate).rel_l2
    assert math.isnan(found) or found == pytest.approx(distance(reference, candidate), rel=1e-12)


def test_one_place_more_is_seen_from_both_sides() -> None:
    assert distance(masked(SCORES, -1e9), masked(SCORES, -1e9, MORE)) > 1e6


def test_numbers_past_float64s_squares_beside_infinite_ones() -> None:
    large = np.array([1e300, -1e300, math.inf])
    assert distance(large, large / 2) == pytest.approx(0.5)
    assert distance(np.full(3, math.inf), large) == math.inf
