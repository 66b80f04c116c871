"""Causes: what explaining needs of one diff, how long it may take, and what it leaves of the faults."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from aligndbg.core.clock import Clock
from aligndbg.core.types import Array, Backend, Cause, Fault, Pair, RunAgain, Status
from aligndbg.explain.budget import worked
from aligndbg.explain.case import Context, SideRun
from aligndbg.explain.coarse_weights import coarse_weights
from aligndbg.explain.common_weights import CommonWeights, common_weights, multiplied
from aligndbg.explain.grids import lost_at, unlike_grids
from aligndbg.explain.one_each import one_each
from aligndbg.explain.repro import write_repro
from aligndbg.explain.search import explain_faults
from aligndbg.explain.stretched_grid import stretched_by_mask
from aligndbg.explain.whole_pair import (
    another_network,
    cut_off_outputs,
    input_causes,
    partly_trained,
    shared_scales,
    swapped_axes,
)
from aligndbg.feeds.plan import Feeding
from aligndbg.locate.captured_pair import CapturedPair
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.replay import Replay
from aligndbg.measure.results import Measurement
from aligndbg.trace.capture import Captured

__all__ = ["causes_of_faults", "causes_of_the_pair"]


# Of the whole diff, or seconds of work where that is more; the last trial ends a little later.
SHARE, SECONDS = 0.18, 1.8


def causes_of_faults(
    faults: tuple[Fault, ...],
    sides: CapturedPair,
    isolation: Isolation,
    clock: Clock,
    repro: Path | None,
    seconds: float | None = None,
) -> tuple[Fault, ...]:
    """Each fault with its cause; with `repro`, the first ones written there too. Raises UsageError for a bad folder.

    `seconds` of work may be spent on all of them; without, what is usual.
    """
    if not faults:
        return faults
    if seconds is None:
        seconds = max(SECONDS, SHARE / (1 - SHARE) * sum(clock.seconds.values()))
    with clock.stage("explain"), np.errstate(all="ignore"):  # NaN and Inf are experimented on like other values
        contexts = _contexts(faults, sides, isolation)
        pairs, traces = isolation.matching.pairs, (sides.left.trace, sides.right.trace)
        masked = {k: cause for k, f in enumerate(faults) if (cause := stretched_by_mask(f, pairs, *traces))}
        rest = [k for k in range(len(faults)) if k not in masked]
        tried = explain_faults([faults[k] for k in rest], [contexts[k] for k in rest], worked() + seconds)
        told = dict(zip(rest, tried, strict=True))
        found = one_each(tuple(told.get(k) or replace(f, cause=masked[k]) for k, f in enumerate(faults)))
    if repro is not None:
        write_repro(repro, found, contexts, {"reference": sides.reference, "candidate": sides.candidate})
    return found


def causes_of_the_pair(
    faults: tuple[Fault, ...],
    sides: CapturedPair,
    feeding: Feeding,
    measured: Sequence[Measurement],
    outputs: frozenset[str],
    isolation: Isolation | None,
    clock: Clock,
) -> tuple[tuple[Fault, ...], tuple[Cause, ...], list[str]]:
    """Causes that are of no single operator, the faults that they leave, and what is to be told of the weights."""
    passed = {m.pair.reference for m in measured if m.pair.reference in outputs and m.status is Status.PASS}
    suspect = not passed.issuperset(sides.left.trace.graph.outputs) or not passed
    causes = input_causes(feeding.findings)
    with clock.stage("explain"), np.errstate(all="ignore"):
        causes += swapped_axes(measured, outputs, sides.left.trace, sides.right.trace)
        traces = sides.left.trace, sides.right.trace
        pairs = [m.pair for m in measured]
        for cause in shared_scales(measured, outputs, *traces):
            if cause.details.get("dead"):
                at = next(p for p in pairs if p.candidate == cause.details["candidate"])
                faults = lost_at(faults, at, cause, traces)
            else:
                causes.append(cause)
        causes += cut_off_outputs(measured, outputs, *traces)
        faults = unlike_grids(faults, pairs, sides)
        causes += coarse_weights(sides, isolation, [m for m in measured if m.pair.reference in outputs])
        notes: list[str] = []
        if suspect and (faults or not causes):
            common = _common(sides)
            faults, found = another_network(faults, *common, _rounded(sides))
            causes += found
            notes = [] if found else partly_trained(faults, common[0])
    return faults, tuple(causes), notes


def _common(sides: CapturedPair) -> tuple[CommonWeights, CommonWeights]:
    """What of each side's weights the other one has; nothing where they are not known (a recording, an engine)."""
    graphs = sides.left.trace.graph, sides.right.trace.graph
    ours, theirs = (
        [weight for name, weight in prints.items() if name in names]
        for prints, names in zip(sides.weights(), map(multiplied, graphs), strict=True)
    )
    return common_weights(ours, theirs), common_weights(theirs, ours)


def _rounded(sides: CapturedPair) -> bool:
    """Whether a side has weights on a grid, or of eight bits."""
    infos = (t.graph.tensors.get(n) for t in (sides.left.trace, sides.right.trace) for n in t.graph.constants)
    return any(info is not None and (info.quant is not None or info.dtype.startswith("float8")) for info in infos)


def _contexts(faults: Sequence[Fault], sides: CapturedPair, isolation: Isolation) -> list[Context]:
    """For each fault what is known where it was measured; for an operator that one side lacks, where it shows."""
    trusted = [p for p in isolation.matching.pairs if p.reference not in isolation.doubtful]
    trusted += isolation.exact
    assert isolation.replay is not None
    usual = _context(sides, isolation, isolation.replay, trusted)
    known = {(p.fault.reference, p.fault.candidate): p for p in isolation.proved.faults}
    found = []
    for place in ((f.reference, f.candidate) for f in faults):
        one, witness = known.get(place), isolation.proved.witnesses.get(place)
        pair = one.pair if one else None
        context = _at_border(usual, witness) if witness else _at_proved_pair(usual, pair)
        found.append(replace(context, proved_pair=pair, as_run=one is not None and one.as_run))
    return found


def _at_proved_pair(usual: Context, pair: Pair | None) -> Context:
    """Where experiments proved a fault between tensors that values pair with others: what follows it is corrected."""
    if pair is None or pair in usual.pairs:
        return usual
    rest = [p for p in usual.pairs if p.reference != pair.reference and p.candidate != pair.candidate]
    return replace(usual, pairs=(*rest, pair), over_tolerance=usual.over_tolerance | {pair.reference})


def _at_border(usual: Context, witness: tuple[str, Mapping[str, Array]]) -> Context:
    """For an operator that one side lacks: what the pair below it shows where that is not corrected."""
    values = ChainMap(dict(witness[1]), cast(dict[str, Array], usual.isolated))
    return replace(usual, over_tolerance=frozenset({witness[0]}), isolated=values)


def _context(sides: CapturedPair, isolation: Isolation, replay: Replay, pairs: Sequence[Pair]) -> Context:
    run_again = isolation.run_again
    fed_apart = sides.plan.feeds or sides.right.trace.feeds
    reference = _side(sides.reference, sides.left, sides.feeds, replay if run_again is RunAgain.REFERENCE else None)
    candidate = _side(sides.candidate, sides.right, fed_apart, replay if run_again is RunAgain.CANDIDATE else None)
    return Context(
        reference,
        candidate,
        tuple(pairs),
        isolation.over_tolerance,
        run_again,
        replay.trace.values,
        isolation.not_overridden,
    )


def _side(backend: Backend, captured: Captured, feeds: Mapping[str, Array] | None, replay: Replay | None) -> SideRun:
    """`replay` where this side was run again."""

    def read(names: Sequence[str]) -> Mapping[str, Array]:
        return dict(backend.run({}, names)) if "run" in backend.capabilities else {}

    fed = (replay.feeds if replay else feeds) or {}
    fixed = replay.weights if replay else {}
    return SideRun(
        captured.trace.graph, captured.trace.values, fed, read, fixed, backend.info.path, captured.trace.info.backend
    )
