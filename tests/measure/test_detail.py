"""The picture of a pair: bounded, and what it says is what numpy says of the whole tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligndbg.core.types import Quant
from aligndbg.measure import detail as detail_module
from aligndbg.measure.detail import BINS, LISTED, MAP_CELLS, POINTS, PROFILE_CELLS, detail, element_limit
from aligndbg.measure.metrics import compare
from aligndbg.measure.results import Detail
from aligndbg.measure.tolerance import Tolerance

Array = np.ndarray[Any, np.dtype[Any]]


def made(r: Array, c: Array, atol: float = 0.0, rtol: float = 0.0, **quants: Quant | None) -> Detail:
    found = detail(r, c, compare(r, c, **quants), (atol, rtol), **quants)
    assert found is not None
    return found


def two(shape: tuple[int, ...], seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    r = rng.standard_normal(shape).astype(np.float32)
    return r, r + np.float32(0.1) * rng.standard_normal(shape).astype(np.float32) ** 3


SHAPES = [(), (1,), (7,), (1, 9), (3, 4, 5), (1, 3, 130, 70), (2, 3, 4, 5, 6), (200_000,), (2, 3, 200, 150)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_says_what_numpy_says_of_the_whole(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detail_module, "BLOCK", 1000)  # many blocks, also of tensors that are quick to test
    r, c = two(shape)
    d = np.abs(r.astype(np.float64) - c)
    found = made(r, c, atol=0.2)
    assert found.counts_reference.sum() == found.counts_candidate.sum() == r.size
    expected = np.histogram(r.astype(np.float64), found.edges)[0]
    assert np.abs(found.counts_reference - expected).sum() <= 2  # an element on an edge may go either way
    over = np.argwhere(d > 0.2)
    assert found.bad == len(over)
    assert [e.index for e in found.first] == [tuple(i) for i in over[:LISTED]]
    largest = np.sort(d[d > 0].reshape(-1))[::-1][:LISTED]
    assert [abs(e.reference - e.candidate) for e in found.worst] == pytest.approx(list(largest))
    assert all(r[e.index] == e.reference and c[e.index] == e.candidate for e in (*found.first, *found.worst))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_profiles_and_maps_hold_the_largest_difference_of_each_cell(shape: tuple[int, ...]) -> None:
    r, c = two(shape)
    d = np.abs(r.astype(np.float64) - c)
    found = made(r, c)
    for p in found.profiles:
        along = d.max(axis=tuple(a for a in range(d.ndim) if a != p.axis))
        assert p.size == shape[p.axis]
        assert list(p.values) == [along[k : k + p.step].max() for k in range(0, p.size, p.step)]
    for m in found.maps:
        plane = d.max(axis=tuple(a for a in range(d.ndim) if a not in m.axes))
        (rows, columns), (high, wide) = m.steps, m.values.shape
        cells = [
            [plane[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].max() for j in range(wide)]
            for i in range(high)
        ]
        assert np.array_equal(m.values, cells)
    axes = min(4, sum(size > 1 for size in shape))
    assert len(found.profiles) == axes
    assert len(found.maps) == (0, 0, 1, 3, 3)[axes]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6).filter(lambda s: math.prod(s) < 100_000))
def test_its_size_does_not_follow_the_tensors(shape: list[int]) -> None:
    found = made(*two(tuple(shape)))
    assert len(found.points) <= POINTS
    assert found.counts_reference.shape == (BINS,)
    assert all(p.values.size <= PROFILE_CELLS for p in found.profiles)
    assert all(max(m.values.shape) <= MAP_CELLS for m in found.maps)
    assert len(found.maps) <= 3


def test_a_transposed_view_is_read_in_the_references_order() -> None:
    r, c = two((1, 6, 20, 30))
    stored = np.ascontiguousarray(c.transpose(0, 2, 3, 1))
    one, other = made(r, c, atol=0.1), made(r, stored.transpose(0, 3, 1, 2), atol=0.1)
    assert (one.first, one.worst, one.bad) == (other.first, other.worst, other.bad)
    assert np.array_equal(one.points, other.points)


def test_equal_tensors_differ_nowhere() -> None:
    r, _ = two((4, 5))
    found = made(r, r.copy())
    assert (found.profiles, found.maps, found.first, found.worst, found.bad) == ((), (), (), (), 0)
    assert np.array_equal(found.points[:, 0], found.points[:, 1])


def test_empty_tensors_have_no_picture() -> None:
    empty = np.empty((0, 3), np.float32)
    assert detail(empty, empty, compare(empty, empty), (0.0, 0.0)) is None


def test_what_is_unlike_in_nan_and_inf_is_bad_and_what_is_alike_is_not() -> None:
    r = np.array([1, np.nan, np.inf, np.nan, 2, -np.inf], np.float32)
    c = np.array([1, np.nan, np.inf, 3, np.inf, np.inf], np.float32)
    found = made(r, c, atol=10)
    assert found.bad == 3
    assert [e.index for e in found.first] == [(3,), (4,), (5,)]
    assert list(np.isinf(found.profiles[0].values)) == [False, False, False, True, True, True]
    assert found.counts_reference.sum() == 2
    assert np.isfinite(found.points).all()


def test_quantized_sides_are_dequantized() -> None:
    quant = Quant(np.array([0.5], np.float32), np.array([-3]))
    r = np.array([[1.0, 2.0, 3.0]], np.float32)
    q = np.array([[-1, 1, 5]], np.int8)
    found = made(r, q, candidate_quant=quant)
    assert [(e.reference, e.candidate) for e in found.worst] == [(3.0, 4.0)]


@pytest.mark.parametrize("dtype", ["bool", "int32", "float16", "float64"])
def test_any_real_dtype(dtype: str) -> None:
    r, c = (x > 0 if dtype == "bool" else (10 * x).astype(dtype) for x in two((3, 50)))
    assert made(r, c).counts_reference.sum() == 150


def test_constants_and_enormous_ranges_have_a_histogram() -> None:
    constant = np.full((5,), 3.0, np.float32)
    assert made(constant, constant).counts_reference.sum() == 5
    wide = np.array([-1.7e308, 0.0, 1.7e308])
    assert made(wide, wide).counts_reference.sum() == 3


@pytest.mark.parametrize(
    ("tolerance", "limit"),
    [
        (Tolerance(atol=0.1, rtol=0.2, rel_l2=1e-9), (0.1, 0.2)),
        (Tolerance(rtol=0.2), (0.0, 0.2)),
        (Tolerance(rel_l2=0.01), (0.05, 0.0)),  # of a root mean square of 5
        (Tolerance(min_cosine=0.98), (1.0, 0.0)),
        (Tolerance(min_euclid=0.9), (0.5, 0.0)),
        (Tolerance(min_sqnr=40.0, rel_l2=0.5), (0.05, 0.0)),
        (Tolerance(), (0.0, 0.0)),
    ],
)
def test_the_limit_of_an_element(tolerance: Tolerance, limit: tuple[float, float]) -> None:
    r = np.array([1.0, 7.0, -1.0, -7.0])
    assert element_limit(tolerance, compare(r, r + 1)) == pytest.approx(limit)


def test_the_limit_in_steps_is_one_of_values() -> None:
    quant = Quant(np.array([0.25], np.float32), np.array([0]))
    metrics = compare(np.array([1.0, 2.0]), np.array([4, 10], np.int8), candidate_quant=quant)
    assert element_limit(Tolerance(max_lsb=2), metrics) == (0.5, 0.0)
