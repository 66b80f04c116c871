"""Weights on one grid for channels of very unlike size: the small ones round to nothing. No operator errs by that,
since each is held to the weights that it has; so it is a cause of the pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from aligndbg.core.errors import AligndbgError
from aligndbg.core.types import Array, Cause, RunAgain
from aligndbg.explain.rounding import round_to
from aligndbg.explain.thresholds import ACCOUNTS, LOST
from aligndbg.locate.captured_pair import CapturedPair
from aligndbg.locate.isolation import Isolation
from aligndbg.measure.distance import distance
from aligndbg.measure.results import Measurement

__all__ = ["coarse_weights"]

MOST = 3  # weights that are tried; each costs two runs of the reference
MOST_STEPS = 256  # to each side of zero, of a grid of eight bits
CHANGE = "quantize these weights with a scale for each channel, or equalize the channels before"


@dataclass(frozen=True, eq=False)
class _Coarse:
    """A weight of the reference, as the candidate's one grid leaves it; and with a grid for each channel."""

    name: str
    step: float
    axis: int
    channels: int
    lost: int
    zero: int
    grid: Array
    finer: Array


def coarse_weights(sides: CapturedPair, isolation: Isolation | None, outputs: Iterable[Measurement]) -> list[Cause]:
    """Those that account for the larger part of an output's error, proved by running the reference with them."""
    replay = isolation.replay if isolation is not None else None
    known = {m.pair.reference: m.metrics.rel_l2 for m in outputs if m.metrics.rel_l2 > 0}
    if isolation is None or replay is None or isolation.run_again is not RunAgain.REFERENCE or not known:
        return []
    try:
        values = dict(sides.reference.run({}, list(replay.weights))) if replay.weights else {}
        suspects = [
            found for n, grid in replay.weights.items() if n in values and (found := _coarse(n, values[n], grid))
        ]
        plain = dict(sides.reference.run(replay.feeds, list(known))) if suspects else {}
        told = []
        for one in sorted(suspects, key=lambda s: -s.lost / s.channels)[:MOST]:
            run = [dict(sides.reference.run(replay.feeds, list(known), {one.name: w})) for w in (one.grid, one.finer)]
            apart = [{n: distance(plain[n], got[n]) for n in known} for got in run]
            at = max(known, key=lambda n: apart[0][n])
            before, after = apart[0][at], apart[1][at]
            if before >= ACCOUNTS * known[at] and after <= ACCOUNTS * before:
                told.append(_cause(sides, one, at, known, before, after))
    except AligndbgError:
        return []
    return told


def _coarse(name: str, value: Array, grid: Array) -> _Coarse | None:
    """Where one grid for the whole leaves less than half of a channel."""
    levels = np.unique(grid[np.isfinite(grid)].astype(np.float64))
    if value.ndim < 2 or value.shape != grid.shape or levels.size < 2:
        return None
    step = float(np.min(np.diff(levels)))
    steps = levels / step
    if np.max(np.abs(steps)) > MOST_STEPS or np.max(np.abs(steps - np.round(steps))) > 0.01:
        return None
    best: _Coarse | None = None
    for axis in {0, value.ndim - 1} if value.ndim == 2 else {0}:
        rows, left = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1).astype(np.float64) for v in (value, grid))
        norm = np.linalg.norm(rows, axis=1)
        lost = int(np.sum((np.linalg.norm(rows - left, axis=1) > LOST * norm) & (norm > 0)))
        if not lost or (best is not None and best.lost >= lost):
            continue
        moved = round_to(np.ascontiguousarray(np.moveaxis(value, axis, 0)), "int8 per channel")
        zero = int(np.sum(~left.any(axis=1) & (norm > 0)))
        finer = np.ascontiguousarray(np.moveaxis(moved, 0, axis))
        best = _Coarse(name, step, axis, len(rows), lost, zero, grid, finer)
    return best


def _cause(
    sides: CapturedPair, one: _Coarse, at: str, known: Mapping[str, float], before: float, after: float
) -> Cause:
    reader = next(iter(sides.left.trace.graph.consumers().get(one.name, ())), None)
    whose = f" of {reader.name} ({reader.op_type})" if reader is not None else ""
    words = (
        f"the candidate's weights {one.name!r}{whose} are quantized per tensor, in steps of {one.step:.3g}: "
        f"{one.lost} of {one.channels} channels lose more than half of their values, {one.zero} of them round to zero; "
        f"that alone moves the output {at!r} by {before:.2g} (relative L2; it is off by {known[at]:.2g} in all), and "
        f"by {after:.2g} where each channel has a grid of its own"
    )
    details = {"change": CHANGE, "weights": one.name, "step": one.step, "lost": one.lost, "zero": one.zero}
    return Cause("quantization_scale", words, before, after, {**details, "axis": one.axis, "unit": "rel_l2"})
