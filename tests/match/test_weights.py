"""Prints of weights."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from aligndbg.match.weights import weight_print

RNG = np.random.default_rng(2)
WEIGHT = RNG.standard_normal((12, 5, 3, 3)).astype(np.float32)


def test_a_print_holds_whatever_the_layout_and_a_scale_of_each_channel() -> None:
    scaled = WEIGHT * RNG.uniform(-2, 2, (12, 1, 1, 1)).astype(np.float32)
    assert weight_print(WEIGHT).agreement(weight_print(scaled.transpose(1, 2, 3, 0))) == 1
    assert weight_print(WEIGHT).agreement(weight_print(WEIGHT[:, :4])) == 0
    other = RNG.uniform(-1, 1, WEIGHT.shape).astype(np.float32)
    assert weight_print(WEIGHT).agreement(weight_print(other)) < 1


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan, 3.4e38, 0.0])
def test_rows_that_are_not_finite_make_no_warning(odd: float) -> None:
    """Padding rows of embedding tables, and masks."""
    table = RNG.standard_normal((13, 16)).astype(np.float32)
    table[0] = odd
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = weight_print(table)
    assert made.count == 13 * 16
    assert [rows.shape for _, rows in made.channels] == [(13, 3), (16, 3)]
