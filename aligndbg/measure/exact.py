"""Integers, booleans and strings: equal or not, element by element, and what choices between scores were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligndbg.core.types import Array, Layout

__all__ = ["CHOICES", "Exact", "Place", "as_numbers", "best_layout", "first_places", "margin_of"]

FIRST = 3  # places that are shown
CHOICES = ("ArgMax", "ArgMin", "TopK")


@dataclass(frozen=True)
class Place:
    """One element that differs; `index` is in the reference's shape."""

    index: tuple[int, ...]
    reference: str
    candidate: str


@dataclass(frozen=True)
class Exact:
    """Two tensors that must be equal. `share` of their `count` elements differ; 1 where the shapes do.

    `own`: whether they differ when computed from the same values, None where that is not known. `explained`: all that
    the candidate's operator reads is within tolerance, so what differs follows from differences that are. `margin` is
    of a choice among scores the largest difference of the two scores chosen, where the choices differ, `apart` how far
    the scores themselves are apart there; None for other operators. `note` is the whole in one sentence.
    """

    reference: str
    candidate: str
    operator: str
    count: int
    share: float
    output: bool
    first: tuple[Place, ...] = ()
    own: bool | None = None
    explained: bool = False
    margin: float | None = None
    apart: float | None = None
    constant: bool = False
    note: str = ""


def as_numbers(reference: Array, candidate: Array) -> tuple[Array, Array]:
    """Both as integers that are equal where the values are: strings are numbered."""
    if reference.dtype.kind not in "OUS" and candidate.dtype.kind not in "OUS":
        return reference, candidate
    texts = [np.asarray(v.reshape(-1), dtype=str) for v in (reference, candidate)]
    _, numbers = np.unique(np.concatenate(texts), return_inverse=True)
    ours, theirs = np.split(numbers.reshape(-1), [texts[0].size])
    return ours.reshape(reference.shape), theirs.reshape(candidate.shape)


def best_layout(reference: Array, candidate: Array, fitting: Sequence[Layout]) -> tuple[Layout, Array] | None:
    """The layout under which the fewest elements differ, the first of equals, and where they do; None where none
    fits."""
    found = [(layout, np.asarray(reference != layout.to_reference(candidate))) for layout in fitting]
    return min(found, key=lambda one: int(np.count_nonzero(one[1])), default=None)


def first_places(reference: Array, candidate: Array, unlike: Array) -> tuple[Place, ...]:
    """The first elements that differ, of two arrays of one shape."""
    places = np.argwhere(unlike)[:FIRST]
    return tuple(Place(at, str(reference[at]), str(candidate[at])) for at in (tuple(map(int, p)) for p in places))


def margin_of(
    op: str, attributes: Mapping[str, Any], scores: tuple[Array, Array], chosen: tuple[Array, Array], unlike: Array
) -> tuple[float, float] | None:
    """Where two choices differ: how far apart, at most, the reference's scores of both are, and the two sides' scores.

    None where these are not choices along an axis of these scores. All in the reference's layout.
    """
    ours, theirs = (np.asarray(s, np.float64) for s in scores)
    if op not in CHOICES or not ours.ndim or ours.shape != theirs.shape:
        return None
    axis = _axis(op, attributes, ours.shape, chosen[0].shape)
    if axis is None:
        return None
    index = [c if c.ndim == ours.ndim else np.expand_dims(c, axis) for c in (*chosen, unlike)]
    wanted = tuple(s for k, s in enumerate(ours.shape) if k != axis)
    if any(tuple(s for k, s in enumerate(i.shape) if k != axis) != wanted for i in index):
        return None
    one, other = (np.clip(i.astype(np.int64), 0, ours.shape[axis] - 1) for i in index[:2])
    if any(np.any((i < 0) | (i >= ours.shape[axis])) for i in index[:2]):
        return None
    first, second = np.take_along_axis(ours, one, axis), np.take_along_axis(ours, other, axis)
    moved = [np.abs(np.take_along_axis(theirs, i, axis) - np.take_along_axis(ours, i, axis)) for i in (one, other)]
    where = index[2].astype(bool)
    return float(np.max(np.abs(first - second)[where])), float(np.max(np.maximum(*moved)[where]))


def _axis(op: str, attributes: Mapping[str, Any], scores: tuple[int, ...], chosen: tuple[int, ...]) -> int | None:
    """The axis along which choices are made: as the file has it, else the only one that fits the shapes."""
    said = attributes.get("axis", attributes.get("dim"))
    if isinstance(said, int) and -len(scores) <= said < len(scores):
        return said % len(scores)
    rest = [tuple(s for k, s in enumerate(scores) if k != a) for a in range(len(scores))]
    same = len(chosen) == len(scores)
    kept = [tuple(s for k, s in enumerate(chosen) if k != a) if same else chosen for a in range(len(scores))]
    fitting = [a for a in range(len(scores)) if rest[a] == kept[a]]
    return fitting[0] if len(fitting) == 1 else None
