"""Which values are a mask's, and which tensors have none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from aligndbg.core.types import Array
from aligndbg.measure.masks import beyond, mask_limit

LOWEST = float(np.finfo(np.float32).min)
RNG = np.random.default_rng(3)
SCORES = 2 * RNG.standard_normal(4000)
PLACES = RNG.random(4000) < 0.4
OTHERS = RNG.random(4000) < 0.4


def limit_of(values: Array) -> float:
    return mask_limit(lambda: [values], values.size, float(values.min()), float(values.max()))


def found(values: Array) -> Array:
    limit = limit_of(values)
    return beyond(values, limit) if limit else np.zeros(values.shape, bool)


@pytest.mark.parametrize("huge", [LOWEST, -1e9, -65504.0, -1e4, 1e9])
@pytest.mark.parametrize("added", [True, False])
def test_a_masks_values_are_told_from_the_rest(huge: float, added: bool) -> None:
    values = SCORES + np.where(PLACES, huge, 0) if added else np.where(PLACES, huge, SCORES)
    assert np.array_equal(found(values), PLACES)


def test_masks_that_are_added_or_of_several_sizes_are_found_whole() -> None:
    twice = SCORES + np.where(PLACES, -1e9, 0) + np.where(OTHERS, -1e9, 0)
    both = SCORES + np.where(PLACES, -1e9, 0) + np.where(OTHERS, LOWEST, 0)
    for values in (twice, both):
        assert np.array_equal(found(values), PLACES | OTHERS)


def test_a_mask_of_zeros_elsewhere_is_one() -> None:
    assert np.array_equal(found(np.where(PLACES, -1e4, 0.0)), PLACES)


@pytest.mark.parametrize(
    "values",
    [
        SCORES,
        1e6 * SCORES,
        np.maximum(1e5 * SCORES, 0),
        np.where(PLACES, 1.0, 1e-5 * SCORES),  # a sure softmax, a heat map: the peaks are what is meant
        np.where(PLACES, -1.0, 1e-5 * SCORES),
        np.where(PLACES, -1e4, 100 * SCORES),  # not that huge
        np.append(SCORES, -1e6),  # one outlier
        np.where(PLACES, -1e6 * RNG.random(4000), SCORES),  # unlike ones
        np.full(100, LOWEST),
        -np.exp(6 * SCORES),
    ],
    ids=["normal", "large", "relu", "peaks", "negative", "near", "outlier", "unlike", "constant", "steep"],
)
def test_other_tensors_have_none(values: Array) -> None:
    assert limit_of(values) == 0.0


def test_an_ordinary_tensor_is_told_by_its_first_block() -> None:
    read = []

    def blocks() -> Iterator[Array]:
        for k in range(100):
            read.append(k)
            yield 1e5 * SCORES

    assert mask_limit(blocks, 100 * SCORES.size, 1e5 * SCORES.min(), 1e5 * SCORES.max()) == 0.0
    assert read == [0]
