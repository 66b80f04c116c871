"""Which axes of the candidate are which axes of the reference: proposed from shapes, proved on sampled values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, islice, permutations

import numpy as np

from aligndbg._types import Array, Layout, LayoutKind
from aligndbg.match._side import Side, sample_positions, squeezed

__all__ = [
    "Fit",
    "best_layouts",
    "clearly_apart",
    "exchanged_orders",
    "layouts",
    "order_of",
    "sampled_error",
    "source_positions",
    "spread_of",
]

MAX_LAYOUTS = 128  # five equal axes have 120 orders
KEPT_SAMPLES = 4096  # of up to 8 KB each
ROUNDING = 1e-12  # of the squares of two samples: more than the matrix of their products is off
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """A layout and the sampled error under it: rms of the difference over the reference's spread."""

    layout: Layout
    error: float
    rank: int = 0  # place among the layouts that fit the shapes; 0 is the most conventional


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


def _source_positions(layout: Layout, flat: Array) -> Array:
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
    return _source_positions(layout, sample_positions(count))


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


def spread_of(reference: Array) -> float:
    """The standard deviation of float64 samples; 0 where there is none: no values, not finite, or all but equal."""
    if reference.size == 0:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        centred = reference - reference.mean()
        spread = float(np.sqrt(np.dot(centred, centred) / reference.size))
    varies = math.isfinite(spread) and spread > 1e-7 * float(np.max(np.abs(reference)))
    return spread if varies else 0.0


def best_layouts(reference: Side, r: str, candidate: Side, c: str, hints: Iterable[Shape] = ()) -> list[Fit]:
    """Every layout of `c` on `r` with its sampled error, best first (ties keep the conventional order)."""
    options = layouts(reference.shape(r), candidate.shape(c), tuple(hints))
    if not options:
        return []
    wanted, spread = reference.sample(r), _kept_spread(reference, r)
    fits = []
    for rank, layout in enumerate(options):
        fits.append(Fit(layout, sampled_error(wanted, _moved_sample(candidate, c, layout), spread), rank))
    fits.sort(key=lambda f: f.error)
    return fits


def clearly_apart(
    reference: Side, rs: Sequence[str], candidate: Side, cs: Sequence[str], options: Iterable[Layout], limit: float
) -> Array:
    """(rs, cs) bool: True where the sampled error is above `limit` in each of `options`, the layouts of `cs` on `rs`.

    Computed for all at once, which rounds more than `sampled_error` does: what that could change is left False, and so
    are pairs of which some values are finite on both sides and others are not.
    """
    wanted = np.stack([reference.sample(r) for r in rs])
    spreads = np.array([_kept_spread(reference, r) for r in rs])
    finite = np.isfinite(wanted)
    whole = finite.all(axis=1)
    never_near = ~finite.any(axis=1) | (whole & (spreads == 0))  # as `sampled_error` has it
    apart = np.ones((len(rs), len(cs)), bool)
    with np.errstate(over="ignore", invalid="ignore"):
        bound = np.square(limit * spreads) * wanted.shape[1]
        for layout in options:
            held = np.stack([_moved_sample(candidate, c, layout) for c in cs])
            norms = np.square(wanted).sum(axis=1)[:, None] + np.square(held).sum(axis=1)
            products = np.einsum("rk,ck->rc", wanted, held)  # `@` may start threads, which only spin here
            beyond = norms - 2 * products - ROUNDING * norms > bound[:, None]
            apart &= beyond | (whole[:, None] != np.isfinite(held).all(axis=1))
    found: Array = apart | never_near[:, None]
    return found


def _kept_spread(reference: Side, r: str) -> float:
    if r not in reference.spreads:
        reference.spreads[r] = spread_of(reference.sample(r))
    return reference.spreads[r]


def _moved_sample(candidate: Side, c: str, layout: Layout) -> Array:
    """What the candidate holds at the reference's sample positions. The last few are kept: many ask for the same."""
    key = (c, layout.from_shape, layout.permutation)
    found = candidate.moved_samples.get(key)
    if found is None:
        if len(candidate.moved_samples) >= KEPT_SAMPLES:
            candidate.moved_samples.clear()
        found = candidate.moved_samples[key] = candidate.read(c, source_positions(layout))
    return found


def with_alternatives(rivals: list[Fit]) -> Fit:
    """The most conventional of layouts that fit alike, marked ambiguous with the others where there are any."""
    first, *others = sorted(rivals, key=lambda f: f.rank)
    if not others:
        return first
    alternatives = tuple(f.layout.permutation for f in others)
    return replace(first, layout=replace(first.layout, kind=LayoutKind.AMBIGUOUS, alternatives=alternatives))
