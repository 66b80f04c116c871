"""Fingerprints: the same for any order of the elements, and apart where values are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aligndbg.core.types import Quant
from aligndbg.measure.fingerprint import fingerprint

ELEMENTS = st.floats(-100, 100, width=32)
pytestmark = pytest.mark.filterwarnings("error")


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=6), elements=ELEMENTS), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_fingerprint_ignores_the_order(array: np.ndarray, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(array.reshape(-1))
    assert fingerprint(array).distance(fingerprint(shuffled)) < 1e-12
    assert fingerprint(array.T).distance(fingerprint(array)) < 1e-12


def test_fingerprint_values_and_distances() -> None:
    x = np.array([[1.0, -2.0], [0.0, 3.0]], np.float32)
    found = fingerprint(x)
    assert (found.count, found.finite, found.zeros, found.constant) == (4, 4, 1, False)
    assert (found.mean, found.mean_abs, found.min, found.max) == (0.5, 1.5, -2.0, 3.0)
    assert found.rms == pytest.approx(math.sqrt(14 / 4))
    assert found.third == pytest.approx((1 - 4 + 9) / 4 / found.rms)
    assert found.distance(found) == 0
    assert found.distance(fingerprint(-x)) > 0.1
    assert found.distance(fingerprint(x[0])) == math.inf
    zero = fingerprint(np.zeros(4))
    assert zero.distance(zero) == 0
    assert zero.constant
    nothing = fingerprint(np.array([math.nan, math.inf]))
    assert nothing.distance(nothing) == math.inf
    assert fingerprint(np.zeros(0)).distance(fingerprint(np.zeros(0))) == math.inf


def test_fingerprint_of_quantized_values() -> None:
    quant = Quant(np.array([0.5, 2.0], np.float32), np.array([1, 0]), axis=0)
    q = np.array([[1, 3], [1, 2]], np.int8)
    assert fingerprint(q, quant) == fingerprint(quant.dequantize(q))
