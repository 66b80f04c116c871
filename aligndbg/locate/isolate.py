"""Each layer's own error, and the faults: one side is re-run with every paired tensor overridden by the other's value.

Each region between paired tensors then computes from perfect inputs, so what differs at its output is its own doing.
A pair found by structure alone is believed when something after it comes out right once it was overridden, when its
own value, from perfect inputs, is near, or when no other op could be meant; what fails these is set aside and the rest
is paired anew. Knows no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np

from aligndbg.core.arrays import Lazy
from aligndbg.core.qdq import as_read, read_through
from aligndbg.core.regions import next_pairs
from aligndbg.core.types import Array, Graph, LayoutKind, Matching, Pair, Trace
from aligndbg.locate.faults import one_sided_activations
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.replay import Comparing, Replay, Rerun, Run, rerun_name
from aligndbg.locate.trust import Standing, spread_error, stand
from aligndbg.match.thresholds import NEAR, STRICT
from aligndbg.measure.fingerprint import Fingerprint
from aligndbg.measure.judge import Judge
from aligndbg.measure.results import Metrics
from aligndbg.measure.rounding import inner_roundings

__all__ = ["isolate", "moved_past"]


MAX_ROUNDS = 8
# Times the error that a pair had before what comes before it was corrected.
NEARER, FARTHER = 0.5, 1.5


Rematch = Callable[[Trace, dict[str, Fingerprint], "tuple[Pair, ...]", "frozenset[tuple[str, str]]"], Matching]


def isolate(
    reference: Trace,
    candidate: Trace,
    matching: Matching,
    judge: Judge,
    rerun: Rerun,
    rematch: Rematch,
    comparing: Comparing,
    *,
    forward: bool,
) -> Isolation:
    """Isolated metrics of every pair. `forward`: the candidate is re-run on the reference's values; else the mirror.

    `rerun(overrides, begin)` runs that side: it calls `begin(trace, refused)` first, with the trace that the run will
    fill and what is known to be refused, and what that gives with the name of each value that is there.
    `rematch(trace, prints, keep, reject)` pairs again with its new values; `comparing(pairs)` surrounds the comparisons
    that are left when a run ends, and gives what is called before and after each.
    """
    graph = candidate.graph if forward else reference.graph
    rejected: set[tuple[str, str]] = set()
    # The user's pairs that their values, or what follows them, refute: never overridden again.
    aside = _crossed(judge, matching.pairs)
    rounds: list[Isolation] = []
    seen = [_state(matching, aside)]
    replay: Replay | None = None
    while len(rounds) < MAX_ROUNDS:
        usable = [p for p in matching.pairs if p.reference not in aside and _safe(p)]
        if replay is not None:
            replay.close()
        run = Run(judge, matching.pairs, matching.pairs, forward)
        replay, own, over = run.compared(rerun, _overrides(reference, candidate, usable, forward), comparing)
        refused = {
            p.reference: replay.refused[name] for p in usable if (name := rerun_name(p, forward)) in replay.refused
        }
        nearer, farther = _moved(judge, own, [p for p in matching.pairs if p.reference in over])
        standing = Standing(own, over, refused, aside, forward, nearer, farther)
        shadowed, unconfirmed = stand(graph, matching.pairs, standing)
        own, over = {r: m for r, m in own.items() if r not in shadowed}, over - shadowed.keys()
        refuted = _refuted(graph, matching.pairs, unconfirmed, forward, aside)
        aside |= {p.reference for p in refuted if p.method == "user"}
        rejected |= {(p.reference, p.candidate) for p in refuted if p.method != "user"}
        again = rematch(
            replay.trace,
            replay.prints,
            _settled(matching.pairs, over, refuted),
            frozenset(rejected),
        )
        state = _state(again, aside)
        # The same pairs, some of them proved by value now.
        known = again if state[0] == seen[-1][0] else matching
        rounds.append(
            Isolation(known, own, shadowed | unconfirmed, over, frozenset(refused), standing=standing, replay=replay)
        )
        if state in seen:
            rounds = rounds[seen.index(state) :]
            break
        seen.append(state)
        matching = again
    # Where it went in circles: the least in doubt, the fewest faults, the most pairs.
    best = min(reversed(rounds), key=lambda i: (len(i.doubtful), len(i.over), -len(i.matching.pairs)))
    runs = len(seen)
    usable = [p for p in best.matching.pairs if p.reference not in _set_aside(best) | best.open and _safe(p)]
    if best is not rounds[-1] and replay is not None:  # its values made room for a later round's
        replay.close()
        run = Run(judge, best.matching.pairs, (), forward)
        replay, *_ = run.compared(rerun, _overrides(reference, candidate, usable, forward), comparing)
        best, runs = replace(best, replay=replay), runs + 1
    activations = one_sided_activations(reference, candidate, best)
    if activations:
        after = [p for p in best.matching.pairs if p.reference in activations]
        run = Run(judge, best.matching.pairs, after, forward)
        passing = moved_past(usable, activations.values())
        overrides = _overrides(reference, candidate, passing, forward)
        past, own, over = run.compared(rerun, overrides, comparing, aside=True)
        best = replace(best, beyond={r: own[r] for r in over}, activations=activations, past=past)
        runs += 1
    borders = [p for p in best.matching.pairs if p.reference not in best.open]
    inner = inner_roundings(reference.graph, candidate.graph, borders)
    return replace(best, runs=runs, conditions=replace(judge.conditions, inner=inner))


def _set_aside(isolation: Isolation) -> frozenset[str]:
    return isolation.standing.aside if isolation.standing else frozenset()


def moved_past(pairs: Iterable[Pair], places: Collection[tuple[str, str]]) -> list[Pair]:
    """The pairs, those right before a one-sided activation moved to `places`, right after it."""
    ours, theirs = dict(places), {c: r for r, c in places}
    out = []
    for p in pairs:
        r = theirs.get(p.candidate, p.reference)
        out.append(replace(p, reference=r, candidate=ours.get(r, p.candidate)))
    return out


def _crossed(judge: Judge, pairs: Iterable[Pair]) -> frozenset[str]:
    """The user's pairs that are crossed with another of his: the values of each agree with the other's counterpart.

    What is computed from both need not show it (a product of the two).
    """
    wrong = [p for p in pairs if p.method == "user" and not _agrees(judge, p)]
    out = set()
    for p, q in permutations(wrong, 2):
        fits = p.layout.candidate_shape == q.layout.candidate_shape
        if fits and p.layout.reference_shape == q.layout.reference_shape and _agrees(judge, _with(p, q)):
            out |= {p.reference, q.reference}
    return frozenset(out)


def _with(p: Pair, q: Pair) -> Pair:
    """`p` with the counterpart of `q`."""
    return replace(p, candidate=q.candidate, layout=q.layout)


def _agrees(judge: Judge, pair: Pair) -> bool:
    return spread_error(judge.metrics(pair)) <= STRICT


def _refuted(
    graph: Graph, pairs: Sequence[Pair], doubtful: Mapping[str, str], forward: bool, aside: frozenset[str]
) -> list[Pair]:
    """Of the doubtful pairs, those with no doubtful one right below: a wrong pair robs the one before of its proof."""
    by_name = {rerun_name(p, forward): p for p in pairs if p.reference not in aside}
    consumers = graph.consumers()
    return [
        p
        for name, p in by_name.items()
        if p.reference in doubtful
        and _safe(p)  # of another layout it may well be right
        and not any(q.reference in doubtful for q in next_pairs(consumers, by_name, name) if q is not p)
    ]


def _state(matching: Matching, aside: frozenset[str]) -> tuple[frozenset[Any], frozenset[str]]:
    return frozenset((p.reference, p.candidate, p.layout.permutation, _safe(p)) for p in matching.pairs), aside


def _settled(pairs: Iterable[Pair], over: frozenset[str], refuted: Iterable[Pair]) -> tuple[Pair, ...]:
    """What is not paired anew: proved by value, given by the user, or over tolerance and not refuted.

    A pair found by structure that came out right is left to be found again, by its value now.
    """
    gone = {p.reference for p in refuted if p.method != "user"}
    return tuple(
        p
        for p in pairs
        if p.reference not in gone and (p.method in ("value", "user") or (p.reference in over and _safe(p)))
    )


def _safe(pair: Pair) -> bool:
    """An override through a layout that is only guessed would poison what comes after it."""
    return pair.layout.kind is not LayoutKind.AMBIGUOUS


def _overrides(
    reference: Trace,
    candidate: Trace,
    pairs: Iterable[Pair],
    forward: bool,
) -> Lazy:
    """Each made when it is read: together they are as large as all tensors of a run."""
    source, target = (reference, candidate) if forward else (candidate, reference)
    read = {n for node in target.graph.nodes for n in node.inputs}
    readers, target_readers = source.graph.consumers(), target.graph.consumers()

    def moved(p: Pair) -> Array:
        name = rerun_name(p, forward)
        other = p.reference if forward else p.candidate
        value, quant = source.values[other], source.quant(other)
        if quant is not None:
            value = quant.dequantize(value)
        elif read_through(target_readers, name) is None:
            value = as_read(source, readers, other, value)
        value = p.layout.to_candidate(value) if forward else p.layout.to_reference(value)
        grid, dtype = target.quant(name), target.values[name].dtype
        stored = grid.quantize(value, dtype) if grid is not None else value.astype(dtype, copy=False)
        return np.asarray(stored, order="C")  # ascontiguousarray makes a scalar one-dimensional

    return Lazy({name: partial(moved, p) for p in pairs if (name := rerun_name(p, forward)) in read})


def _moved(judge: Judge, own: Mapping[str, Metrics], pairs: Iterable[Pair]) -> tuple[frozenset[str], frozenset[str]]:
    """Of pairs over tolerance: those of one op, near, and by half nearer than before what comes before them was
    corrected; and those that are farther off than before."""
    nearer, farther = set(), set()
    for p in pairs:
        error, before = spread_error(own[p.reference]), spread_error(judge.metrics(p))
        if error <= NEAR and error <= NEARER * before and judge.same_op(p):
            nearer.add(p.reference)
        if error > FARTHER * before:
            farther.add(p.reference)
    return frozenset(nearer), frozenset(farther)
