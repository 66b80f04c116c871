"""In which layouts an array fits another model's input, the usual ones first. Knows numpy only."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from aligndbg.core.types import Layout, LayoutKind

__all__ = ["MAX_PERMUTED_RANK", "describe_layout", "fitting_layouts", "fitting_permutations", "is_usual", "layout_cost"]

MAX_PERMUTED_RANK = 6  # 720 orders of axes; beyond it only the one as it is
CHANNELS_MOVED = 1  # the cost of channels first for channels last, or back

Shape = tuple[int | str | None, ...]


def layout_cost(permutation: Sequence[int]) -> int:
    """How unusual a layout is: as it is, channels first to last or back, batch kept, anything else."""
    rank = len(permutation)
    axes = tuple(range(rank))
    if tuple(permutation) == axes:
        return 0
    if rank > 2 and tuple(permutation) in ((0, rank - 1, *axes[1:-1]), (0, *axes[2:], 1)):
        return CHANNELS_MOVED
    return 2 if permutation[0] == 0 else 3


def is_usual(layout: Layout) -> bool:
    """As it is, or channels moved first or last: what converters do."""
    return layout_cost(layout.permutation) <= CHANNELS_MOVED


def describe_layout(layout: Layout) -> str:
    if layout.kind is LayoutKind.IDENTITY:
        return "as it is"
    if layout.kind is LayoutKind.SQUEEZE:
        return f"reshaped from {layout.reference_shape} to {layout.candidate_shape}"
    return f"transposed from {layout.reference_shape} to {layout.candidate_shape} by {layout.permutation}"


def fitting_permutations(reference: Sequence[int], candidate: Shape) -> list[tuple[int, ...]]:
    """Every permutation p, the usual first, for which `candidate.transpose(p)` has the reference's shape.

    Of those that only move axes of length 1, and so give the same array, the first is kept. Ranks must be equal.
    """
    rank = len(reference)
    if rank != len(candidate):
        return []
    every = itertools.permutations(range(rank)) if rank <= MAX_PERMUTED_RANK else iter([tuple(range(rank))])
    fitting = [
        p
        for p in every
        if all(not isinstance(candidate[axis], int) or candidate[axis] == reference[i] for i, axis in enumerate(p))
    ]
    kept: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for p in sorted(fitting, key=lambda p: (layout_cost(p), p)):
        back = np.argsort(p).tolist()
        effect = (tuple(reference[i] for i in back), tuple(i for i in back if reference[i] != 1))
        kept.setdefault(effect, p)
    return list(kept.values())


def fitting_layouts(reference: tuple[int, ...], candidate: Shape | None) -> list[Layout]:
    """Every layout in which an array of the reference's shape fits the candidate's input, the usual first.

    An input of unknown shape (None) may want it as it is, or with the channels moved first or last.
    """
    if candidate is None:
        every = (_permuted(reference, p) for p in fitting_permutations(reference, (None,) * len(reference)))
        return [layout for layout in every if is_usual(layout)]
    if len(reference) == len(candidate):
        return [_permuted(reference, p) for p in fitting_permutations(reference, candidate)]
    inner = tuple(size for size in reference if size != 1)
    wanted = _without_ones(candidate, len(inner))
    if wanted is None:
        return []
    found = []
    for p in fitting_permutations(inner, tuple(size for size in wanted if size != 1)):
        moved = iter(inner[i] for i in np.argsort(p))
        whole = tuple(1 if size == 1 else next(moved) for size in wanted)
        from_shape = tuple(inner[i] for i in np.argsort(p))
        found.append(Layout(LayoutKind.SQUEEZE, from_shape, p, reference, whole))
    return found


def _without_ones(candidate: Shape, count: int) -> Shape | None:
    """The shape with its first dynamic dimensions taken as 1, until `count` others are left."""
    sizes = list(candidate)
    for axis, size in enumerate(sizes):
        if sum(size != 1 for size in sizes) > count and not isinstance(size, int):
            sizes[axis] = 1
    return tuple(sizes) if sum(size != 1 for size in sizes) == count else None


def _permuted(reference: tuple[int, ...], permutation: tuple[int, ...]) -> Layout:
    shape = tuple(reference[i] for i in np.argsort(permutation))
    identity = permutation == tuple(range(len(permutation)))
    return Layout(LayoutKind.IDENTITY if identity else LayoutKind.PERMUTE, shape, permutation, reference, shape)
