"""Which tensors can be equal at all: those with fingerprints alike, less those that a few values already tell apart.

Both are done for many candidates at once, so that a graph of thousands of like layers stays cheap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from aligndbg.core.layouts import Shape, layouts, sample_positions, source_positions, squeezed
from aligndbg.core.types import Array, Layout
from aligndbg.match.layouts import head
from aligndbg.match.side import Side
from aligndbg.match.thresholds import SLACK

__all__ = ["near_pairs"]


HEAD = 16  # positions looked at first
MAX_HEADS = 8  # layouts past which it is not worth it


def near_pairs(reference: Side, candidate: Side, window: float, limit: float) -> Iterator[tuple[str, str]]:
    """Tensors of equal count with fingerprints within `window` (in units of rms), near-linear by sorting on rms.

    Left out are those whose sampled error is above `limit` in every layout: the share of a few positions already is.
    """
    groups: dict[int, list[str]] = defaultdict(list)
    for c in candidate.names:
        fp = candidate.prints[c]
        if fp.finite and not fp.constant:
            groups[fp.count].append(c)
    tables = {count: _Table(candidate, names) for count, names in groups.items()}
    for r in reference.names:
        fp = reference.prints[r]
        table = tables.get(fp.count)
        if table is None or not fp.finite or fp.constant:
            continue
        for i in table.possible(reference, r, table.near(_features(reference, r), window), limit):
            yield r, table.names[i]


def _features(side: Side, name: str) -> Array:
    fp = side.prints[name]
    return np.array([fp.rms, fp.mean, fp.mean_abs, fp.third])


class _Table:
    """Fingerprints of one element count, sorted by rms, and a few values of each tensor."""

    def __init__(self, side: Side, names: list[str]) -> None:
        rows = np.array([_features(side, n) for n in names])
        order = np.argsort(rows[:, 0], kind="stable")
        self.side = side
        self.rows = rows[order]
        self.names = [names[i] for i in order]
        self._head = head(sample_positions(side.count(names[0])).size, HEAD)
        self._shapes = np.zeros(len(names), np.int64)
        self._of_shape: dict[Shape, int] = {}
        for i, name in enumerate(self.names):
            self._shapes[i] = self._of_shape.setdefault(side.shape(name), len(self._of_shape))
        self._heads: dict[tuple[Shape, Shape], Array | None] = {}
        grids = [side.grid(name) for name in self.names]
        self._on_grids = any(grids)
        self._grids = np.array([(g.step, g.low, g.high) if g else (0.0, -np.inf, np.inf) for g in grids]).T

    def near(self, row: Array, window: float) -> Array:
        """Places in `names` of those with alike fingerprints."""
        scale = row[0]
        low = int(np.searchsorted(self.rows[:, 0], scale * (1 - window)))
        high = int(np.searchsorted(self.rows[:, 0], scale * (1 + window), side="right"))
        with np.errstate(invalid="ignore"):  # squares past float64: their rms tells nothing
            apart = np.max(np.abs(self.rows[low:high] - row), axis=1, initial=0.0)
        return low + np.flatnonzero(apart <= window * scale)

    def possible(self, reference: Side, r: str, places: Array, limit: float) -> Array:
        """Those of `places` that a few values do not tell apart from `r`, in the same order."""
        if places.size < 2:
            return places
        sample = reference.sample(r)
        with np.errstate(all="ignore"):
            # The sampled error is |candidate - r| / |r - mean(r)|: a part of the former cannot be more than all of it.
            bound = SLACK * limit**2 * float(np.square(sample - sample.mean()).sum())
        if not np.isfinite(bound):
            return places
        kept = np.ones(places.size, bool)
        shapes = self._shapes[places]
        for shape, number in self._of_shape.items():
            here = np.flatnonzero(shapes == number) if len(self._of_shape) > 1 else np.arange(places.size)
            heads = self._heads_of(reference.shape(r), shape) if here.size else None
            if heads is None:
                continue
            with np.errstate(all="ignore"):
                wanted = self._rounded(sample[self._head], places[here])
                apart = np.square(heads[places[here]] - wanted).sum(axis=2).min(axis=1)
            kept[here] = ~(apart > bound)
        return places[kept]

    def _rounded(self, values: Array, places: Array) -> Array:
        """(names, 1, HEAD): what the grid of each leaves of real values."""
        if not self._on_grids:
            return values
        step, low, high = (column[places].reshape(-1, 1, 1) for column in self._grids)
        return np.clip(np.where(step > 0, np.round(values / step) * step, values), low, high)

    def _heads_of(self, reference: Shape, shape: Shape) -> Array | None:
        """(names, layouts, HEAD): what each tensor of `shape` holds at a few positions, by layout; nan elsewhere."""
        if (reference, shape) not in self._heads:
            found = layouts(reference, shape) if sorted(squeezed(reference)) == sorted(squeezed(shape)) else ()
            self._heads[reference, shape] = self._read(found, shape) if 0 < len(found) <= MAX_HEADS else None
        return self._heads[reference, shape]

    def _read(self, found: tuple[Layout, ...], shape: Shape) -> Array:
        at = np.stack([source_positions(layout)[self._head] for layout in found])
        heads = np.full((len(self.names), *at.shape), np.nan)
        for i in np.flatnonzero(self._shapes == self._of_shape[shape]):
            heads[i] = self.side.read(self.names[i], at.reshape(-1)).reshape(at.shape)
        return heads
