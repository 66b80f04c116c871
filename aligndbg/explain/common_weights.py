"""How much two networks' weights have in common, told channel by channel: in any layout, scale or grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aligndbg.core.moves import PASSIVE_OPS
from aligndbg.core.types import Array, Graph
from aligndbg.match.thresholds import FEWEST_CHANNELS, NEAR_WEIGHT, SAME_WEIGHT
from aligndbg.match.weights import WeightPrint

__all__ = ["CommonWeights", "common_weights", "multiplied"]


PARTS = (1, 2, 3, 4, 6, 8)  # a weight may be made of so many: query, key and value; gates, in both directions
# What reads a constant so may read a mask or a table that every network has.
AS_THEY_ARE = PASSIVE_OPS | {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Where",
    "Min",
    "Max",
    "Pow",
    "Equal",
    "Greater",
    "Less",
    "Concat",
}
OUTLIER = 3.0  # standard deviations: further out, one channel would speak for all

# By (channels, elements of a channel): one row a weight, or a part of one.
_Table = Mapping[tuple[int, int], Array]


@dataclass(frozen=True)
class CommonWeights:
    """Of one side's weights, how many the other side has: `equal` up to rounding, `near`, or `other`.

    Of those that are `other`, `sized` have a weight of their size there. Left out are weights of which nothing can be
    told: of few channels, or of channels that are all alike.
    """

    equal: int
    near: int
    other: int
    sized: int

    @property
    def count(self) -> int:
        return self.equal + self.near + self.other

    @property
    def share(self) -> float:
        """Of all, those that are equal or near."""
        return (self.equal + self.near) / max(1, self.count)


def common_weights(ours: Iterable[WeightPrint], theirs: Iterable[WeightPrint]) -> CommonWeights:
    """What of `ours` is among `theirs`.

    Two weights are compared by how the statistics of their channels go up and down together, in order: a correlation,
    1 for the same weight, about 0 for two that have nothing to do with each other.
    """
    ours, theirs = tuple(ours), tuple(theirs)
    counts, table = {weight.count for weight in theirs}, _table(theirs, PARTS[:1])
    found = [_best(weight, table, PARTS[:1]) for weight in ours]
    if any(best is not None and best < NEAR_WEIGHT for best in found):  # parts are many, and mostly not needed
        table = _table(theirs, PARTS)
        found = [
            _best(weight, table, PARTS) if best is not None and best < NEAR_WEIGHT else best
            for weight, best in zip(ours, found, strict=True)
        ]
    told = [(weight, best) for weight, best in zip(ours, found, strict=True) if best is not None]
    equal = sum(best >= SAME_WEIGHT for _, best in told)
    near = sum(NEAR_WEIGHT <= best < SAME_WEIGHT for _, best in told)
    sized = sum(best < NEAR_WEIGHT and weight.count in counts for weight, best in told)
    return CommonWeights(equal, near, len(told) - equal - near, sized)


def multiplied(graph: Graph) -> frozenset[str]:
    """The constants that a network was trained for, as far as operators tell: not masks and tables that are added."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.canonical not in AS_THEY_ARE and not all(o in graph.constants for o in node.outputs if o):
            found |= graph.constants.intersection(node.inputs)
    return frozenset(found)


def _best(weight: WeightPrint, table: _Table, steps: Sequence[int]) -> float | None:
    """The best correlation with a weight of the other side, or with parts of some; None where nothing can be told."""
    best: float | None = None
    for parts in steps:
        for size, rows in weight.channels:
            vectors = _parts(rows, parts)
            if not vectors:
                continue
            others = table.get((len(rows) // parts, size))
            worst = min(float((others @ v).max()) if others is not None else 0.0 for v in vectors)
            best = worst if best is None else max(best, worst)
        if best is None or best >= NEAR_WEIGHT:
            break
    return best


def _table(weights: Iterable[WeightPrint], steps: Sequence[int]) -> _Table:
    found: dict[tuple[int, int], list[Array]] = defaultdict(list)
    for weight in weights:
        for size, rows in weight.channels:
            for parts in steps:
                found[len(rows) // parts, size] += _parts(rows, parts)
    return {key: np.stack(vectors) for key, vectors in found.items() if vectors}


def _parts(rows: Array, parts: int) -> list[Array]:
    """Each of so many parts as a vector of length 1; none where they do not divide evenly, or one tells nothing."""
    if len(rows) % parts or len(rows) // parts < FEWEST_CHANNELS:
        return []
    vectors = [_vector(part) for part in np.split(rows, parts)]
    return [v for v in vectors if v is not None] if all(v is not None for v in vectors) else []


def _vector(rows: Array) -> Array | None:
    """How each channel's statistics lie among all channels'; None where too few channels differ.

    A channel of zeros, or one that is not finite (padding), is left out.
    """
    valid = np.isfinite(rows).all(axis=1) & (rows[:, 0] > 0)
    if np.count_nonzero(valid) < FEWEST_CHANNELS:
        return None
    kept = rows[valid].astype(np.float64)
    spread = kept.std(axis=0)
    columns = spread > 1e-4 * kept.mean(axis=0)
    if not columns.any():
        return None
    z = np.zeros((len(rows), rows.shape[1]))
    z[np.ix_(valid, columns)] = np.clip((kept - kept.mean(axis=0)) / np.where(columns, spread, 1.0), -OUTLIER, OUTLIER)[
        :, columns
    ]
    flat: Array = z.reshape(-1).astype(np.float32)
    return flat / np.float32(np.linalg.norm(flat))
