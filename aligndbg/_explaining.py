"""Causes: what explaining needs of one diff, how long it may take, and what it leaves of the faults."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aligndbg._capturing import Captured, Clock
from aligndbg._feeding import Feeding
from aligndbg._isolating import Sides
from aligndbg._repro import write_repro
from aligndbg._types import Array, Backend, Cause, Fault, Measurement, Status
from aligndbg.explain import Context, Side, explain_faults
from aligndbg.explain.overall import another_network, input_causes, shared_grids, swapped_axes
from aligndbg.locate import Isolation

__all__ = ["causes_of_faults", "causes_of_the_pair"]

SHARE, SECONDS = 0.18, 1.8  # of the whole diff, or seconds where that is more; the last trial ends a little later
MANY_FAULTS = 3  # from here on it may be another network


def causes_of_faults(
    faults: tuple[Fault, ...], sides: Sides, isolation: Isolation, clock: Clock, repro: Path | None
) -> tuple[Fault, ...]:
    """Each fault with its cause; with `repro`, the first ones written there too. Raises UsageError for a bad folder."""
    if not faults:
        return faults
    seconds = max(SECONDS, SHARE / (1 - SHARE) * sum(clock.seconds.values()))
    with clock.stage("explain"):
        context = _context(sides, isolation, time.perf_counter() + seconds)
        found = explain_faults(faults, context)
    if repro is not None:
        write_repro(repro, found, context, {"reference": sides.reference, "candidate": sides.candidate})
    return found


def causes_of_the_pair(
    faults: tuple[Fault, ...],
    sides: Sides,
    feeding: Feeding,
    measured: Sequence[Measurement],
    outputs: frozenset[str],
    clock: Clock,
) -> tuple[tuple[Fault, ...], tuple[Cause, ...]]:
    """Causes that are of no single operator, and the faults that they leave."""
    passed = {m.pair.reference for m in measured if m.pair.reference in outputs and m.status is Status.PASS}
    suspect = not passed.issuperset(sides.left.trace.graph.outputs) or not passed
    causes = input_causes(feeding.findings)
    with clock.stage("explain"):
        causes += swapped_axes(measured, outputs, sides.left.trace, sides.right.trace)
        causes += shared_grids(measured, outputs, sides.left.trace, sides.right.trace)
        if len(faults) >= MANY_FAULTS or (suspect and not faults and not causes):
            faults, found = another_network(faults, sides.weights(), suspect)
            causes += found
    return faults, tuple(causes)


def _context(sides: Sides, isolation: Isolation, deadline: float) -> Context:
    replay = sides.replay
    fed_apart = sides.plan.feeds or sides.right.trace.feeds
    reference = _side(sides.reference, sides.left, sides.feeds, sides, not replay.forward)
    candidate = _side(sides.candidate, sides.right, fed_apart, sides, replay.forward)
    trusted = tuple(p for p in isolation.matching.pairs if p.reference not in isolation.doubtful)
    return Context(
        reference, candidate, trusted, isolation.over, replay.forward, replay.values, isolation.open, deadline
    )


def _side(
    backend: Backend, captured: Captured, feeds: Mapping[str, Array] | None, sides: Sides, run_again: bool
) -> Side:
    def read(names: Sequence[str]) -> Mapping[str, Array]:
        return dict(backend.run({}, names)) if "run" in backend.capabilities else {}

    fed = (sides.replay.feeds if run_again else feeds) or {}
    fixed = sides.replay.weights if run_again else {}
    return Side(captured.trace.graph, captured.trace.values, fed, read, fixed, backend.info.path)
