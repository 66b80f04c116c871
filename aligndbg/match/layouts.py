"""Which axes of the candidate are which axes of the reference: proposed from shapes, proved on sampled values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from aligndbg.core.layouts import Shape, layouts, sampled_error, source_positions, spread_of
from aligndbg.core.types import Array, Layout, LayoutKind
from aligndbg.match.side import Side
from aligndbg.match.thresholds import SLACK
from aligndbg.measure.masks import huge_values

__all__ = ["Fit", "best_layouts", "head", "with_alternatives"]


KEPT_SAMPLES = 4096  # of up to 8 KB each
HEAD = 32  # samples looked at first
FEW_LAYOUTS = 8  # up to which that is not worth it


@dataclass(frozen=True)
class Fit:
    """A layout and the sampled error under it: rms of the difference over the reference's spread.

    A mask's huge values are measured apart from the rest: by its spread nothing else would show.
    """

    layout: Layout
    error: float
    rank: int = 0  # place among the layouts that fit the shapes; 0 is the most conventional


def best_layouts(
    reference: Side, r: str, candidate: Side, c: str, hints: Iterable[Shape] = (), limit: float = math.inf
) -> list[Fit]:
    """Every layout of `c` on `r` with its sampled error, best first (ties keep the conventional order).

    Those of which a few samples show that they are past `limit` may be left out.
    """
    shapes = reference.shape(r), candidate.shape(c), tuple(hints)
    options = layouts(*shapes)
    if not options:
        return []
    wanted, spread, huge = reference.sample(r), _kept_spread(reference, r), _kept_mask(reference, r)
    ours, theirs = reference.grid(r), candidate.grid(c)
    if theirs is not None and ours is None:  # what a grid takes off is no other value
        wanted = theirs.rounded(wanted)
        spread = spread_of(wanted)
    if limit < math.inf and huge is None and len(options) > FEW_LAYOUTS:
        at = _heads(*shapes)
        held = candidate.read(c, at.reshape(-1)).reshape(at.shape)
        held = ours.rounded(held) if ours is not None and theirs is None else held
        with np.errstate(all="ignore"):
            # A part of the squares cannot be more than all of them.
            apart = np.square(held - wanted[head(wanted.size)]).sum(axis=1)
            kept = ~(apart > SLACK * wanted.size * (limit * spread) ** 2)
    else:
        kept = np.ones(len(options), bool)
    fits = []
    for rank in np.flatnonzero(kept).tolist():
        layout = options[rank]
        held = _moved_sample(candidate, c, layout)
        held = ours.rounded(held) if ours is not None and theirs is None else held
        error = sampled_error(wanted, held, spread) if huge is None else _error_apart(wanted, held, huge)
        fits.append(Fit(layout, error, rank))
    fits.sort(key=lambda f: f.error)
    return fits


def head(samples: int, most: int = HEAD) -> slice:
    """Up to `most` of so many samples, spread evenly."""
    step = max(1, samples // most)
    return slice(None, most * step, step)


@lru_cache(maxsize=1024)
def _heads(reference: Shape, candidate: Shape, hints: tuple[Shape, ...]) -> Array:
    """(layouts, HEAD): where the candidate holds the first samples looked at, by layout."""
    positions = [source_positions(layout) for layout in layouts(reference, candidate, hints)]
    return np.stack([at[head(at.size)] for at in positions])


def _kept_spread(reference: Side, r: str) -> float:
    if r not in reference.spreads:
        reference.spreads[r] = spread_of(reference.sample(r))
    return reference.spreads[r]


def _kept_mask(reference: Side, r: str) -> Array | None:
    """Which of the samples are a mask's huge values, that would hide the others; None where none are."""
    if r not in reference.masks:
        sample = reference.sample(r)
        huge = huge_values(sample)
        rest = sample[~huge]
        reference.masks[r] = huge if huge.any() and spread_of(rest[np.isfinite(rest)]) else None
    return reference.masks[r]


def _error_apart(wanted: Array, held: Array, huge: Array) -> float:
    """The sampled error of the rest, or that of a mask's huge values by their own size, whichever is larger."""
    with np.errstate(over="ignore", invalid="ignore"):
        masked = float(np.linalg.norm(held[huge] - wanted[huge]) / np.linalg.norm(wanted[huge]))
    return max(masked, sampled_error(wanted[~huge], held[~huge])) if masked == masked else float("inf")


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
