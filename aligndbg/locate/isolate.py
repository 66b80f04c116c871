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
from aligndbg.core.types import Array, Graph, LayoutKind, Matching, Pair, RunAgain, Trace
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
    run_again: RunAgain,
) -> Isolation:
    """Isolated metrics of every pair: the side `run_again` computes from the other side's values.

    `rerun(overrides, begin)` runs that side: it calls `begin(trace, refused)` first, with the trace that the run will
    fill and what is known to be refused, and what that gives with the name of each value that is there.
    `rematch(trace, prints, keep, reject)` pairs again with its new values; `comparing(pairs)` surrounds the comparisons
    that are left when a run ends, and gives what is called before and after each.
    """
    graph = reference.graph if run_again is RunAgain.REFERENCE else candidate.graph
    rejected: set[tuple[str, str]] = set()
    # The user's pairs that their values, or what follows them, refute: never overridden again.
    set_aside = _crossed(judge, matching.pairs)
    rounds: list[Isolation] = []
    seen = [_state(matching, set_aside)]
    replay: Replay | None = None
    while len(rounds) < MAX_ROUNDS:
        usable = [p for p in matching.pairs if p.reference not in set_aside and _safe(p)]
        if replay is not None:
            replay.close()
        run = Run(judge, matching.pairs, matching.pairs, run_again)
        replay, own, over_tolerance = run.compared(
            rerun, _overrides(reference, candidate, usable, run_again), comparing
        )
        refused = {
            p.reference: replay.refused[name] for p in usable if (name := rerun_name(p, run_again)) in replay.refused
        }
        improved, worsened = _moved(judge, own, [p for p in matching.pairs if p.reference in over_tolerance])
        standing = Standing(own, over_tolerance, refused, set_aside, run_again, improved, worsened)
        shadowed, unconfirmed = stand(graph, matching.pairs, standing)
        own, over_tolerance = {r: m for r, m in own.items() if r not in shadowed}, over_tolerance - shadowed.keys()
        refuted = _refuted(graph, matching.pairs, unconfirmed, run_again, set_aside)
        set_aside |= {p.reference for p in refuted if p.method == "user"}
        rejected |= {(p.reference, p.candidate) for p in refuted if p.method != "user"}
        again = rematch(
            replay.trace,
            replay.prints,
            _settled(matching.pairs, over_tolerance, refuted),
            frozenset(rejected),
        )
        state = _state(again, set_aside)
        # The same pairs, some of them proved by value now.
        known = again if state[0] == seen[-1][0] else matching
        rounds.append(
            Isolation(
                known, own, shadowed | unconfirmed, over_tolerance, frozenset(refused), standing=standing, replay=replay
            )
        )
        if state in seen:
            rounds = rounds[seen.index(state) :]
            break
        seen.append(state)
        matching = again
    # Where it went in circles: the least in doubt, the fewest faults, the most pairs.
    best = min(reversed(rounds), key=lambda i: (len(i.doubtful), len(i.over_tolerance), -len(i.matching.pairs)))
    runs = len(seen)
    usable = [p for p in best.matching.pairs if p.reference not in _set_aside(best) | best.not_overridden and _safe(p)]
    if best is not rounds[-1] and replay is not None:  # its values made room for a later round's
        replay.close()
        run = Run(judge, best.matching.pairs, (), run_again)
        replay, *_ = run.compared(rerun, _overrides(reference, candidate, usable, run_again), comparing)
        best, runs = replace(best, replay=replay), runs + 1
    activations = one_sided_activations(reference, candidate, best)
    if activations:
        after = [p for p in best.matching.pairs if p.reference in activations]
        run = Run(judge, best.matching.pairs, after, run_again)
        passing = moved_past(usable, activations.values())
        overrides = _overrides(reference, candidate, passing, run_again)
        past, own, over_tolerance = run.compared(rerun, overrides, comparing, on_disk=True)
        still_over = {r: own[r] for r in over_tolerance}
        best = replace(best, own_past_activation=still_over, activations=activations, replay_past_activation=past)
        runs += 1
    borders = [p for p in best.matching.pairs if p.reference not in best.not_overridden]
    inner = inner_roundings(reference.graph, candidate.graph, borders)
    return replace(best, runs=runs, conditions=replace(judge.conditions, inner=inner))


def _set_aside(isolation: Isolation) -> frozenset[str]:
    return isolation.standing.set_aside if isolation.standing else frozenset()


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
    graph: Graph, pairs: Sequence[Pair], doubtful: Mapping[str, str], run_again: RunAgain, set_aside: frozenset[str]
) -> list[Pair]:
    """Of the doubtful pairs, those with no doubtful one right below: a wrong pair robs the one before of its proof."""
    by_name = {rerun_name(p, run_again): p for p in pairs if p.reference not in set_aside}
    consumers = graph.consumers()
    return [
        p
        for name, p in by_name.items()
        if p.reference in doubtful
        and _safe(p)  # of another layout it may well be right
        and not any(q.reference in doubtful for q in next_pairs(consumers, by_name, name) if q is not p)
    ]


def _state(matching: Matching, set_aside: frozenset[str]) -> tuple[frozenset[Any], frozenset[str]]:
    return frozenset((p.reference, p.candidate, p.layout.permutation, _safe(p)) for p in matching.pairs), set_aside


def _settled(pairs: Iterable[Pair], over_tolerance: frozenset[str], refuted: Iterable[Pair]) -> tuple[Pair, ...]:
    """What is not paired anew: proved by value, given by the user, or over tolerance and not refuted.

    A pair found by structure that came out right is left to be found again, by its value now.
    """
    gone = {p.reference for p in refuted if p.method != "user"}
    return tuple(
        p
        for p in pairs
        if p.reference not in gone and (p.method in ("value", "user") or (p.reference in over_tolerance and _safe(p)))
    )


def _safe(pair: Pair) -> bool:
    """An override through a layout that is only guessed would poison what comes after it."""
    return pair.layout.kind is not LayoutKind.AMBIGUOUS


def _overrides(
    reference: Trace,
    candidate: Trace,
    pairs: Iterable[Pair],
    run_again: RunAgain,
) -> Lazy:
    """Each made when it is read: together they are as large as all tensors of a run."""
    to_candidate = run_again is RunAgain.CANDIDATE
    source, target = (reference, candidate) if to_candidate else (candidate, reference)
    read = {n for node in target.graph.nodes for n in node.inputs}
    readers, target_readers = source.graph.consumers(), target.graph.consumers()

    def moved(p: Pair) -> Array:
        name = rerun_name(p, run_again)
        other = p.reference if to_candidate else p.candidate
        value, quant = source.values[other], source.quant(other)
        if quant is not None:
            value = quant.dequantize(value)
        elif read_through(target_readers, name) is None:
            value = as_read(source, readers, other, value)
        value = p.layout.to_candidate(value) if to_candidate else p.layout.to_reference(value)
        own, dtype = target.quant(name), target.values[name].dtype
        stored = own.quantize(value, dtype) if own is not None else value.astype(dtype, copy=False)
        return np.asarray(stored, order="C")  # ascontiguousarray makes a scalar one-dimensional

    return Lazy({name: partial(moved, p) for p in pairs if (name := rerun_name(p, run_again)) in read})


def _moved(judge: Judge, own: Mapping[str, Metrics], pairs: Iterable[Pair]) -> tuple[frozenset[str], frozenset[str]]:
    """Of pairs over tolerance: those of one op, near, and by half nearer than before what comes before them was
    corrected; and those that are farther off than before."""
    improved, worsened = set(), set()
    for p in pairs:
        error, before = spread_error(own[p.reference]), spread_error(judge.metrics(p))
        if error <= NEAR and error <= NEARER * before and judge.same_op(p):
            improved.add(p.reference)
        if error > FARTHER * before:
            worsened.add(p.reference)
    return frozenset(improved), frozenset(worsened)
