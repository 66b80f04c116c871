"""Which axis orders fit two shapes, and the error of sampled values under one. Knows numpy only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, islice, permutations

import numpy as np

from aligndbg.core.types import Array, Layout, LayoutKind

__all__ = [
    "Shape",
    "exchanged_orders",
    "exchanges_axes",
    "layouts",
    "order_of",
    "sample_positions",
    "sampled_error",
    "source_positions",
    "spread_of",
    "squeezed",
]

SAMPLES = 1024
MAX_LAYOUTS = 128  # five equal axes have 120 orders

Shape = tuple[int, ...]


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d in shape if d != 1)


@lru_cache(maxsize=4096)
def sample_positions(count: int) -> Array:
    """The flat positions at which tensors of `count` elements are compared: all, or a seeded sample with both ends."""
    if count <= SAMPLES:
        return np.arange(count)
    drawn = np.random.default_rng(count).choice(count, SAMPLES - 2, replace=False)
    return np.unique(np.concatenate([[0, count - 1], drawn]))


@lru_cache(maxsize=65536)
def layouts(reference: Shape, candidate: Shape, hints: tuple[Shape, ...] = ()) -> tuple[Layout, ...]:
    """Every layout by which `candidate` could hold `reference`, the conventional ones first.

    `hints` are shapes of neighbouring tensors with the same element count: a flattened tensor does not
    show its factors, its neighbours do.
    """
    if np.prod(reference, dtype=np.int64) != np.prod(candidate, dtype=np.int64):
        return ()
    if sorted(squeezed(reference)) == sorted(squeezed(candidate)):
        found = _permuted(reference, candidate)
    else:
        found = _reshaped(reference, candidate, hints)
    unique: dict[tuple[Shape, Shape], Layout] = {}
    for layout in islice(found, 4 * MAX_LAYOUTS):
        unique.setdefault(_essence(layout.from_shape, layout.permutation), layout)
    return tuple(islice(unique.values(), MAX_LAYOUTS))


@lru_cache(maxsize=65536)
def _essence(from_shape: Shape, permutation: Shape) -> tuple[Shape, Shape]:
    """Equal for layouts that move every element alike: axes of 1 dropped, axes that stay together merged."""
    kept = [i for i, d in enumerate(from_shape) if d != 1]
    rank = {axis: k for k, axis in enumerate(kept)}
    perm = [rank[a] for a in permutation if a in rank]
    dims = [from_shape[i] for i in kept]
    groups: list[list[int]] = []
    for axis in perm:
        if groups and axis == groups[-1][-1] + 1:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    ordered = sorted(groups)
    shape = tuple(int(np.prod([dims[a] for a in g])) for g in ordered)
    return shape, tuple(ordered.index(g) for g in groups)


def order_of(layout: Layout) -> Shape:
    """How a layout orders what it moves, whatever the sizes: (0,) as it is, (1, 0) NHWC to NCHW and back, ..."""
    return _essence(layout.from_shape, layout.permutation)[1]


def exchanged_orders(layout: Layout) -> tuple[Shape, ...]:
    """`order_of` the layouts that differ by an exchange of two axes of one size, so that shapes do not tell."""
    return _exchanged_orders(layout.from_shape, layout.permutation)


@lru_cache(maxsize=65536)
def _exchanged_orders(from_shape: Shape, permutation: Shape) -> tuple[Shape, ...]:
    found = []
    for i, j in combinations(range(len(permutation)), 2):
        if from_shape[permutation[i]] == from_shape[permutation[j]] != 1:
            other = list(permutation)
            other[i], other[j] = permutation[j], permutation[i]
            found.append(_essence(from_shape, tuple(other))[1])
    return tuple(found)


def _permuted(reference: Shape, candidate: Shape) -> Iterator[Layout]:
    same_rank = len(reference) == len(candidate)
    target, source = (reference, candidate) if same_rank else (squeezed(reference), squeezed(candidate))
    for perm in _assignments(target, source):
        if not same_rank:
            kind = LayoutKind.SQUEEZE
        elif perm == tuple(range(len(perm))):
            kind = LayoutKind.IDENTITY
        else:
            kind = LayoutKind.PERMUTE
        yield Layout(kind, source, perm, reference, candidate)


def _assignments(target: Shape, source: Shape) -> Iterator[Shape]:
    """Permutations p with source[p[i]] == target[i]; axes of 1 keep their order; order-preserving ones first."""
    rank = len(target)
    ones = [i for i, d in enumerate(source) if d == 1]
    free = [i for i, d in enumerate(source) if d != 1]
    conventional = []
    if source == target:
        conventional.append(tuple(range(rank)))
    if rank >= 3:
        conventional.append((0, rank - 1, *range(1, rank - 1)))  # channels last -> channels first
        conventional.append((0, *range(2, rank), 1))  # channels first -> channels last
    seen = set()
    for perm in conventional:
        if perm not in seen and tuple(source[p] for p in perm) == target:
            seen.add(perm)
            yield perm
    for order in permutations(free):
        if tuple(source[i] for i in order) != squeezed(target):
            continue
        it_free, it_one = iter(order), iter(ones)
        perm = tuple(next(it_one) if d == 1 else next(it_free) for d in target)
        if perm not in seen:
            seen.add(perm)
            yield perm


def _reshaped(reference: Shape, candidate: Shape, hints: tuple[Shape, ...]) -> Iterator[Layout]:
    yield Layout(LayoutKind.RESHAPE, candidate, tuple(range(len(candidate))), reference, candidate)
    for hint in dict.fromkeys((squeezed(candidate), squeezed(reference), *map(squeezed, hints))):
        if not 2 <= len(hint) <= 5:
            continue
        identity = tuple(range(len(hint)))
        for perm in permutations(identity):
            if perm == identity:
                continue
            # The candidate holds the hint's axes in another order, or in this one and the reference in another.
            source = tuple(hint[p] for p in perm)
            back = tuple(int(i) for i in np.argsort(perm))
            yield Layout(LayoutKind.RESHAPE, source, back, reference, candidate)
            yield Layout(LayoutKind.RESHAPE, hint, perm, reference, candidate)


def flat_positions(layout: Layout, flat: Array) -> Array:
    """Flat positions in the reference -> flat positions in the candidate."""
    moved = tuple(layout.from_shape[p] for p in layout.permutation)
    index = np.unravel_index(flat, moved) if moved else ()
    strides = np.ones(len(layout.from_shape), dtype=np.int64)
    for i in range(len(layout.from_shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * layout.from_shape[i + 1]
    out = np.zeros(flat.shape, dtype=np.int64)
    for axis, coordinate in zip(layout.permutation, index, strict=True):
        out += coordinate * strides[axis]
    return out


@lru_cache(maxsize=16384)
def _positions_for(from_shape: Shape, permutation: Shape, count: int) -> Array:
    layout = Layout(LayoutKind.PERMUTE, from_shape, permutation, (count,), (count,))
    return flat_positions(layout, sample_positions(count))


def source_positions(layout: Layout) -> Array:
    """Flat positions in the candidate of what the reference has at its sample positions."""
    return _positions_for(layout.from_shape, layout.permutation, math.prod(layout.reference_shape))


def sampled_error(reference: Array, candidate: Array, spread: float | None = None) -> float:
    """rms(candidate - reference) over the reference's standard deviation (float64 samples, same order).

    The spread, not the norm, is the scale: tensors with a large common mean would otherwise all look alike. `spread` is
    `spread_of(reference)` where it is known. inf where a value is not finite on one side only, or where the reference
    does not vary.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        apart = candidate - reference
        squares = float(np.dot(apart, apart))
        if not math.isfinite(squares):
            finite = np.isfinite(reference)
            if not finite.any() or not np.array_equal(finite, np.isfinite(candidate)):
                return float("inf")
            reference, apart = reference[finite], apart[finite]
            squares, spread = float(np.dot(apart, apart)), None
    spread = spread_of(reference) if spread is None else spread
    return math.sqrt(squares / reference.size) / spread if spread else float("inf")


def exchanges_axes(layout: Layout) -> bool:
    """Equal shapes, axes moved: no channels-first against channels-last, which would show in the shapes."""
    kept = [a for a in layout.permutation if layout.from_shape[a] != 1]
    return (
        layout.kind is LayoutKind.PERMUTE and layout.reference_shape == layout.candidate_shape and kept != sorted(kept)
    )


def spread_of(reference: Array) -> float:
    """The standard deviation of float64 samples; 0 where there is none: no values, not finite, or all but equal."""
    if reference.size == 0:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        centred = reference - reference.mean()
        spread = float(np.sqrt(np.dot(centred, centred) / reference.size))
    varies = math.isfinite(spread) and spread > 1e-7 * float(np.max(np.abs(reference)))
    return spread if varies else 0.0
