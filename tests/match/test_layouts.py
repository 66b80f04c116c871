"""Layouts: both directions undo each other, the true one is proposed and wins by value, and a tie is called one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aligndbg.core.layouts import MAX_LAYOUTS, layouts, sampled_error
from aligndbg.core.types import Graph, Layout, LayoutKind, ModelInfo, Node, TensorInfo, Trace
from aligndbg.match.layouts import best_layouts, with_alternatives
from aligndbg.match.side import Side
from aligndbg.measure.fingerprint import fingerprint

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]

shapes = st.lists(st.integers(1, 7), min_size=1, max_size=5).map(tuple)


@st.composite
def permuted(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """A reference shape and a permutation p: the candidate holds the reference's axes in the order p."""
    shape = draw(shapes)
    return shape, tuple(draw(st.permutations(range(len(shape)))))


def values(shape: Shape, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def side(value: Array, label: str) -> Side:
    """A trace of one node output called "t"."""
    return traced([value], label)


def traced(arrays: list[Array], label: str) -> Side:
    """A trace of node outputs called "t", "tt", ..."""
    held = {"t" * (k + 1): value for k, value in enumerate(arrays)}
    nodes = tuple(Node("Op", f"op {n}", ("x",), (n,)) for n in held)
    graph = Graph(nodes, {n: TensorInfo(n, v.shape, str(v.dtype)) for n, v in held.items()}, ("x",), tuple(held))
    trace = Trace(ModelInfo(label, "memory"), graph, held, None, tuple(held))
    return Side(trace, {n: fingerprint(v) for n, v in held.items()}, label)


def solve(reference: Array, candidate: Array, hints: tuple[Shape, ...] = ()) -> list[tuple[Layout, float]]:
    fits = best_layouts(side(reference, "reference"), "t", side(candidate, "candidate"), "t", hints)
    return [(fit.layout, fit.error) for fit in fits]


@given(permuted())
def test_the_true_layout_is_proposed_and_wins(case: tuple[Shape, Shape]) -> None:
    shape, order = case
    assume(math.prod(shape) > 2)
    reference = values(shape)
    candidate = np.ascontiguousarray(reference.transpose(order))
    best, error = solve(reference, candidate)[0]
    assert error == 0
    assert np.array_equal(best.to_reference(candidate), reference)
    assert np.array_equal(best.to_candidate(reference), candidate)


@given(permuted())
def test_every_layout_is_a_bijection_and_its_own_inverse(case: tuple[Shape, Shape]) -> None:
    shape, order = case
    candidate_shape = tuple(shape[i] for i in order)
    found = layouts(shape, candidate_shape)
    assert 1 <= len(found) <= MAX_LAYOUTS
    candidate = np.arange(math.prod(shape)).reshape(candidate_shape)
    for layout in found:
        moved = layout.to_reference(candidate)
        assert moved.shape == shape
        assert sorted(moved.ravel()) == list(range(candidate.size))
        assert np.array_equal(layout.to_candidate(moved), candidate)


@given(permuted())
def test_no_two_layouts_do_the_same(case: tuple[Shape, Shape]) -> None:
    """Else every tensor with two axes of 1 would be ambiguous."""
    shape, order = case
    candidate = np.arange(math.prod(shape)).reshape([shape[i] for i in order])
    results = [layout.to_reference(candidate).tobytes() for layout in layouts(shape, candidate.shape)]
    assert len(set(results)) == len(results)


@given(shapes, shapes)
def test_shapes_of_other_sizes_have_no_layout(a: Shape, b: Shape) -> None:
    assert (math.prod(a) == math.prod(b)) or layouts(a, b) == ()


@given(shapes, st.data())
def test_axes_of_one_may_be_anywhere(shape: Shape, data: st.DataObject) -> None:
    """(1, 6, 1, 5) against (6, 5), against (5, 1, 6), ..."""
    assume(math.prod(shape) > 2)
    inner = [d for d in shape if d != 1]
    order = data.draw(st.permutations(range(len(inner))))
    candidate_shape = [inner[i] for i in order]
    for place in data.draw(st.lists(st.integers(0, len(inner)), max_size=2)):
        candidate_shape.insert(place, 1)
    reference = values(shape)
    candidate = reference.reshape(inner).transpose(order).reshape(candidate_shape)
    best, error = solve(reference, candidate)[0]
    assert error == 0
    assert np.array_equal(best.to_reference(candidate), reference)
    if len(candidate_shape) != len(shape):
        assert best.kind is LayoutKind.SQUEEZE


@pytest.mark.parametrize(
    ("reference", "candidate", "kind"),
    [
        ((1, 3, 4, 5), (1, 3, 4, 5), LayoutKind.IDENTITY),
        ((1, 3, 4, 5), (1, 4, 5, 3), LayoutKind.PERMUTE),
        ((1, 3, 4, 5), (3, 4, 5), LayoutKind.SQUEEZE),
        ((1, 60), (1, 3, 20), LayoutKind.RESHAPE),
    ],
)
def test_the_kind_says_what_is_done(reference: Shape, candidate: Shape, kind: LayoutKind) -> None:
    x = values(reference)
    order = (0, 2, 3, 1) if kind is LayoutKind.PERMUTE else tuple(range(len(reference)))
    best, error = solve(x, np.ascontiguousarray(x.transpose(order)).reshape(candidate))[0]
    assert (best.kind, error) == (kind, 0)


@pytest.mark.parametrize(
    ("channels", "height", "width"),
    [(4, 3, 5), (8, 8, 3), (5, 4, 4), (4, 4, 4)],
    ids=["4x3x5", "8x8x3", "5x4x4", "4x4x4"],
)
def test_a_flattened_tensor_is_solved_by_the_other_sides_shape(channels: int, height: int, width: int) -> None:
    """(1, C*H*W) against (1, H, W, C): the one that is not flattened shows the factors of the other."""
    image = values((1, channels, height, width))
    reference, candidate = image.reshape(1, -1), np.ascontiguousarray(image.transpose(0, 2, 3, 1))
    for one, two in ((reference, candidate), (candidate, reference)):
        best, error = solve(one, two)[0]
        assert (best.kind, error) == (LayoutKind.RESHAPE, 0)
        assert np.array_equal(best.to_reference(two), one)
        assert np.array_equal(best.to_candidate(one), two)


def test_a_shape_of_the_neighbours_shows_factors_that_neither_side_has() -> None:
    """(1, C, H*W) against (1, W, H*C): only what was computed before says how they were folded."""
    image = values((1, 4, 3, 5))
    reference = image.reshape(1, 4, 15)
    candidate = image.transpose(0, 3, 2, 1).reshape(1, 5, 12)
    assert solve(reference, candidate)[0][1] > 0.5
    best, error = solve(reference, candidate, ((1, 4, 3, 5),))[0]
    assert error == 0
    assert np.array_equal(best.to_reference(candidate), reference)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_equal_axes_are_told_apart_by_value(size: int) -> None:
    """C == H == W: the shapes say nothing."""
    reference = values((1, size, size, size))
    for order in ((0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1), (0, 1, 3, 2)):
        candidate = np.ascontiguousarray(reference.transpose(order))
        fits = solve(reference, candidate)
        assert len(fits) == 6
        assert fits[0][1] == 0
        assert fits[1][1] > 0.1
        assert np.array_equal(fits[0][0].to_reference(candidate), reference)


def test_a_symmetric_array_is_ambiguous_and_says_between_which() -> None:
    a = values((6, 6))
    symmetric = (a + a.T).reshape(1, 6, 6)
    fits = best_layouts(side(symmetric, "reference"), "t", side(symmetric, "candidate"), "t")
    chosen = with_alternatives([fit for fit in fits if fit.error <= 1e-6]).layout
    assert chosen.kind is LayoutKind.AMBIGUOUS
    assert chosen.permutation == (0, 1, 2)  # the conventional one first
    assert chosen.alternatives == ((0, 2, 1),)


@given(shapes)
def test_a_constant_array_fits_nothing(shape: Shape) -> None:
    """Any layout would do, so none is proved."""
    constant = np.full(shape, 0.25, np.float32)
    assert all(error == math.inf for _, error in solve(constant, constant))


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_an_empty_array_fits_nothing(shape: Shape) -> None:
    empty = np.zeros(shape, np.float32)
    assert all(error == math.inf for _, error in solve(empty, empty))


@given(permuted(), st.floats(1e-6, 1e-2))
def test_a_little_noise_does_not_change_the_choice(case: tuple[Shape, Shape], noise: float) -> None:
    shape, order = case
    assume(math.prod(shape) > 20)
    reference = values(shape)
    candidate = np.ascontiguousarray(reference.transpose(order)) + noise * values(tuple(shape[i] for i in order), 1)
    best, error = solve(reference, candidate)[0]
    assert error == pytest.approx(noise, rel=0.9)
    assert sampled_error(reference.ravel(), best.to_reference(candidate).ravel()) <= 3 * noise


def test_large_tensors_are_sampled_and_still_solved() -> None:
    reference = values((1, 64, 64, 64))
    candidate = np.ascontiguousarray(reference.transpose(0, 3, 2, 1))
    best, error = solve(reference, candidate)[0]
    assert error == 0
    assert np.array_equal(best.to_reference(candidate), reference)


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.0),
        ([1.0, 2.0, np.nan], [1.0, 2.0, np.nan], 0.0),
        ([1.0, 2.0, np.nan], [1.0, 2.0, 3.0], math.inf),
        ([1.0, 2.0, 3.0], [1.0, 2.0, np.inf], math.inf),
        ([np.nan, np.nan], [np.nan, np.nan], math.inf),
        ([5.0, 5.0], [5.0, 5.0], math.inf),
        ([], [], math.inf),
        ([1000.0, 1001.0], [1001.0, 1000.0], 2.0),  # by the spread, not by the size
    ],
)
def test_sampled_error(reference: list[float], candidate: list[float], expected: float) -> None:
    assert sampled_error(np.array(reference), np.array(candidate)) == pytest.approx(expected)


def test_a_mask_hides_neither_another_value_nor_the_layout() -> None:
    """By the spread of -3.4e38 all that share a mask would be equal, in any order of the axes."""
    mask = np.broadcast_to(np.triu(np.ones((6, 6), bool), 1), (6, 6, 6))
    huge = np.finfo(np.float32).min

    def masked(seed: int) -> Array:
        return np.where(mask, huge, values((6, 6, 6), seed))

    assert solve(masked(0), masked(0))[0][1] == 0.0
    assert solve(masked(0), masked(1))[0][1] > 0.5
    turned = np.ascontiguousarray(masked(0).transpose(1, 2, 0))
    (best, error), (_, next_best), *_ = solve(masked(0), turned)
    assert np.array_equal(best.to_reference(turned), masked(0))
    assert (error, next_best > 0.5) == (0.0, True)
    assert solve(masked(0), np.where(mask, -1e9, values((6, 6, 6), 0)).astype(np.float32))[0][1] == pytest.approx(1.0)
