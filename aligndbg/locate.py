"""Each layer's own error, and the faults: one side is re-run with every paired tensor overridden by the other's value.

Each region between paired tensors then computes from perfect inputs, so what differs at its output is its own doing.
A pair found by structure alone is believed when something after it comes out right once it was overridden, or when its
own value, from perfect inputs, is near; what fails both is set aside and the rest is paired anew. Knows no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aligndbg._types import Array, Fault, Graph, LayoutKind, Matching, Pair, Region, Trace
from aligndbg.match._side import LAYOUT_OPS
from aligndbg.match._state import FAMILIES, ops_agree
from aligndbg.metrics import Fingerprint, Metrics
from aligndbg.verdict import Judge

__all__ = ["Isolation", "isolate", "make_faults"]

MAX_ROUNDS = 8
# Ops that round nothing by themselves.
ACTIVATIONS = FAMILIES[1]
MOVING = LAYOUT_OPS | {"Pad", "Slice", "Split", "Gather"}
NEAR = 0.3  # own sampled error (of the spread) up to which a pair with agreeing inputs is confirmed by its value

Rerun = Callable[[Mapping[str, Array]], tuple[Trace, dict[str, Fingerprint]]]
Rematch = Callable[[Trace, dict[str, Fingerprint], "tuple[Pair, ...]", "frozenset[tuple[str, str]]"], Matching]


@dataclass(frozen=True)
class Isolation:
    """`own` holds each pair's isolated metrics by reference name; `over` names those over tolerance.

    `doubtful` says why a pair is not confirmed."""

    matching: Matching
    own: Mapping[str, Metrics] = field(default_factory=dict)
    doubtful: Mapping[str, str] = field(default_factory=dict)
    over: frozenset[str] = frozenset()
    runs: int = 0


def isolate(
    reference: Trace,
    candidate: Trace,
    matching: Matching,
    judge: Judge,
    rerun: Rerun,
    rematch: Rematch,
    *,
    forward: bool,
    overridable: Callable[[str], bool] = lambda name: True,
) -> Isolation:
    """Isolated metrics of every pair. `forward`: the candidate is re-run on the reference's values; else the mirror.

    `rerun(overrides)` runs that side; `rematch(trace, prints, keep, reject)` pairs again with its new values.
    """
    graph = candidate.graph if forward else reference.graph
    rejected: set[tuple[str, str]] = set()
    aside: frozenset[str] = frozenset()  # the user's pairs that what follows them refutes: never overridden again
    rounds: list[Isolation] = []
    seen = [_state(matching, aside)]
    while len(rounds) < MAX_ROUNDS:
        usable = [p for p in matching.pairs if p.reference not in aside and _safe(p)]
        trace, prints = rerun(_overrides(reference, candidate, usable, forward, overridable))
        judge.inner = inner_steps(candidate.graph, matching.pairs)
        own, over = _own_errors(reference, candidate, trace, matching.pairs, judge, forward)
        doubtful = _unconfirmed(graph, matching.pairs, own, over, forward, aside)
        refuted = _refuted(graph, matching.pairs, doubtful, forward, aside)
        aside |= {p.reference for p in refuted if p.method == "user"}
        rejected |= {(p.reference, p.candidate) for p in refuted if p.method != "user"}
        again = rematch(
            trace,
            prints,
            _settled(matching.pairs, over, refuted, (reference.graph, candidate.graph)),
            frozenset(rejected),
        )
        state = _state(again, aside)
        # The same pairs, some of them proved by value now.
        known = again if state[0] == seen[-1][0] else matching
        rounds.append(Isolation(known, own, doubtful, over))
        if state in seen:
            rounds = rounds[seen.index(state) :]
            break
        seen.append(state)
        matching = again
    # Where it went in circles: the least in doubt, the fewest faults, the most pairs.
    best = min(reversed(rounds), key=lambda i: (len(i.doubtful), len(i.over), -len(i.matching.pairs)))
    judge.inner = inner_steps(candidate.graph, best.matching.pairs)
    return replace(best, runs=len(seen))


def _refuted(
    graph: Graph, pairs: Sequence[Pair], doubtful: Mapping[str, str], forward: bool, aside: frozenset[str]
) -> list[Pair]:
    """Of the doubtful pairs, those with no doubtful one right below: a wrong pair robs the one before of its proof."""
    by_name = {(p.candidate if forward else p.reference): p for p in pairs if p.reference not in aside}
    consumers = graph.consumers()
    return [
        p
        for name, p in by_name.items()
        if p.reference in doubtful
        and not any(q.reference in doubtful for q in _next_pairs(consumers, by_name, name) if q is not p)
    ]


def _state(matching: Matching, aside: frozenset[str]) -> tuple[frozenset[Any], frozenset[str]]:
    return frozenset((p.reference, p.candidate, p.layout.permutation) for p in matching.pairs), aside


def _settled(
    pairs: Iterable[Pair], over: frozenset[str], refuted: Iterable[Pair], graphs: tuple[Graph, Graph]
) -> tuple[Pair, ...]:
    """What is not paired anew: proved by value, given by the user, or over tolerance, of one op and not refuted.

    A pair found by structure that came out right is left to be found again, by its value now; so is one of two ops,
    which may be two siblings crossed.
    """
    ours, theirs = (graph.producers() for graph in graphs)

    def alike(p: Pair) -> bool:
        rn, cn = ours.get(p.reference), theirs.get(p.candidate)
        return rn is None or cn is None or ops_agree(rn, cn) >= 0.9

    gone = {p.reference for p in refuted if p.method != "user"}
    return tuple(
        p
        for p in pairs
        if p.reference not in gone and (p.method in ("value", "user") or (p.reference in over and alike(p)))
    )


def _safe(pair: Pair) -> bool:
    """An override through a layout that is only guessed would poison what comes after it."""
    return pair.layout.kind is not LayoutKind.AMBIGUOUS


def _overrides(
    reference: Trace,
    candidate: Trace,
    pairs: Iterable[Pair],
    forward: bool,
    overridable: Callable[[str], bool],
) -> dict[str, Array]:
    source, target = (reference, candidate) if forward else (candidate, reference)
    read = {n for node in target.graph.nodes for n in node.inputs}
    out: dict[str, Array] = {}
    for p in pairs:
        name = p.candidate if forward else p.reference
        if name not in read or not overridable(name):
            continue
        other = p.reference if forward else p.candidate
        value, quant = source.values[other], source.quant(other)
        if quant is not None:
            value = quant.dequantize(value)
        moved = p.layout.to_candidate(value) if forward else p.layout.to_reference(value)
        grid, dtype = target.quant(name), target.values[name].dtype
        stored = grid.quantize(moved, dtype) if grid is not None else moved.astype(dtype, copy=False)
        out[name] = np.ascontiguousarray(stored)
    return out


def _own_errors(
    reference: Trace, candidate: Trace, trace: Trace, pairs: Iterable[Pair], judge: Judge, forward: bool
) -> tuple[dict[str, Metrics], frozenset[str]]:
    """Isolated metrics by reference name, and which of them are over tolerance."""
    own: dict[str, Metrics] = {}
    over: set[str] = set()
    for p in pairs:
        if (p.candidate if forward else p.reference) not in trace.values:
            continue
        metrics = judge.isolated(p, trace, forward)
        own[p.reference] = metrics
        if not judge.own_within(p, metrics):
            over.add(p.reference)
    return own, frozenset(over)


def inner_steps(graph: Graph, pairs: Iterable[Pair]) -> dict[str, int]:
    """For each pair (by reference name), the unpaired tensors that its region computes on the candidate's side."""
    producers = graph.producers()
    stop = {p.candidate for p in pairs} | set(graph.inputs) | graph.constants
    out: dict[str, int] = {}
    for p in pairs:
        stack, seen = [p.candidate], {p.candidate}
        while stack:
            node = producers.get(stack.pop())
            for i in node.inputs if node else ():
                if i and i not in seen and i not in stop:
                    seen.add(i)
                    stack.append(i)
        computed = [n for n in seen if n != p.candidate and n in producers and producers[n].canonical not in MOVING]
        if computed:
            out[p.reference] = len(computed)
    return out


def _unconfirmed(
    graph: Graph,
    pairs: Iterable[Pair],
    own: Mapping[str, Metrics],
    over: frozenset[str],
    forward: bool,
    aside: frozenset[str],
) -> dict[str, str]:
    """Provisional pairs over tolerance that nothing confirms, with the reason."""
    # A pair set aside is not overridden: what is computed from it is computed from what comes before it.
    by_name = {(p.candidate if forward else p.reference): p for p in pairs if p.reference not in aside}
    consumers = graph.consumers()
    out = dict.fromkeys(aside, "given by --map, and what is computed from it disagrees")
    for name, p in by_name.items():
        if p.reference not in over:
            continue  # values that agree by chance (x - y for y - x twice over) come out here too
        metrics = own[p.reference]
        if p.provisional and _spread_error(metrics) <= NEAR:
            continue
        below = _next_pairs(consumers, by_name, name)
        if any(d.reference in own and d.reference not in over for d in below):
            continue
        if not below and p.provisional:
            continue  # nothing is computed from it: there is nothing that could confirm it, nor be poisoned by it
        out[p.reference] = "nothing computed from it comes out right once it is overridden"
    return out


def _spread_error(m: Metrics) -> float:
    return m.rmse / m.std_reference if m.std_reference > 0 else float("inf")


def _next_pairs(consumers: Mapping[str, Any], by_name: Mapping[str, Pair], name: str) -> list[Pair]:
    """The nearest paired tensors computed from `name`, each once."""
    found: dict[str, Pair] = {}
    stack, seen = [name], {name}
    while stack:
        for node in consumers.get(stack.pop(), ()):
            for o in node.outputs:
                if not o or o in seen:
                    continue
                seen.add(o)
                if o in by_name:
                    found[o] = by_name[o]
                else:
                    stack.append(o)
    return list(found.values())


def make_faults(
    reference: Trace, candidate: Trace, isolation: Isolation, judge: Judge, limit: int
) -> tuple[tuple[Fault, ...], bool]:
    """One Fault a confirmed pair over tolerance on its own, in the reference's order; and whether cut at `limit`.

    Where an unpaired tensor lies in the regions of several, and all that is computed from it is over, it is the one
    fault: an op that only one side has.
    """
    pairs = [p for p in isolation.matching.pairs if p.reference not in isolation.doubtful]
    faulty = [p for p in pairs if p.reference in isolation.over]
    out: list[tuple[int, Fault]] = []
    sides = (
        (reference.graph, {p.reference: p for p in pairs}),
        (candidate.graph, {p.candidate: p for p in pairs}),
    )
    order = {p.reference: k for k, p in enumerate(pairs)}
    merged: set[str] = set()
    for k, (graph, by_name) in enumerate(sides):
        values = (reference, candidate)[k].values
        for name, below in _shared(graph, by_name, {p.reference for p in faulty} - merged):
            if name not in values or (values[name].dtype.kind in "iub" and graph.tensors[name].quant is None):
                continue  # shape arithmetic
            if any(p.reference in merged for p in below):
                continue
            merged |= {p.reference for p in below}
            found = _fault(name if k == 0 else None, name if k == 1 else None, below, sides, isolation)
            found = _with_counterpart(found, k, below, sides)
            out.append((min(order[p.reference] for p in below), found))
    for p in faulty:
        if p.reference not in merged:
            found = _fault(p.reference, p.candidate, [p], sides, isolation)
            out.append((order[p.reference], _one_sided_activation(found, sides) or found))
    by_place: dict[tuple[str | None, str | None], Fault] = {}
    for _, f in sorted(out, key=lambda item: item[0]):
        place = (f.reference, f.candidate)
        if place not in by_place or by_place[place].isolated_error < f.isolated_error:
            by_place[place] = f
    ordered = list(by_place.values())
    return tuple(ordered[:limit]), len(ordered) > limit


def _with_counterpart(fault: Fault, side: int, below: Sequence[Pair], sides: Sides) -> Fault:
    """A fault at one side's unpaired op, with what its pairs have in common on the other side (an unrolled LSTM)."""
    graph, paired = sides[1 - side]
    names = [p.candidate if side == 0 else p.reference for p in below]
    regions = [region(graph, n, set(paired)) for n in names]
    common = set(regions[0].nodes).intersection(*(r.nodes for r in regions[1:]))
    nodes = [n for n in graph.nodes if n.name in common]
    if not nodes:
        return fault
    last = nodes[-1].outputs[0]
    found = Region(tuple(n.name for n in nodes), region(graph, last, set(paired)).inputs, (last,))
    if side == 0:
        return replace(fault, candidate=last, candidate_op=nodes[-1].op_type, region_candidate=found)
    return replace(fault, reference=last, reference_op=nodes[-1].op_type, region_reference=found)


def _shared(graph: Graph, by_name: Mapping[str, Pair], faulty: set[str]) -> list[tuple[str, list[Pair]]]:
    """Unpaired tensors from which two or more pairs, all of them faulty, are computed; the last such ones first."""
    consumers = graph.consumers()
    out = []
    for node in reversed(graph.nodes):
        for o in node.outputs:
            if o and o not in by_name and o not in graph.constants and node.canonical not in MOVING:
                below = _next_pairs(consumers, by_name, o)
                if len(below) > 1 and all(p.reference in faulty for p in below):
                    out.append((o, below))
    return out


Sides = tuple[tuple[Graph, Mapping[str, Pair]], tuple[Graph, Mapping[str, Pair]]]


def _one_sided_activation(fault: Fault, sides: Sides) -> Fault | None:
    """The fault moved to an activation that only one side's region has, right after a paired tensor.

    Without it, or with one too many, an op agrees with the other side's value before the activation, and what comes
    after the activation would be blamed.
    """
    regions = (fault.region_reference, fault.region_candidate)
    by_node = [{n.name: n for n in graph.nodes} for graph, _ in sides]
    nodes = [[by_node[k][name] for name in regions[k].nodes] for k in (0, 1)]
    tails = [[n.tail for n in ns] for ns in nodes]
    lone = [
        (k, n)
        for k in (0, 1)
        for n in nodes[k]
        if n.tail in ACTIVATIONS
        and tails[k].count(n.tail) > tails[1 - k].count(n.tail)
        and n.outputs[0] not in (fault.reference, fault.candidate)
        and n.inputs
        and n.inputs[0] in sides[k][1]
    ]
    if len(lone) != 1:
        return None
    k, node = lone[0]
    before = sides[k][1][node.inputs[0]]
    where = [before.reference, before.candidate]
    where[k] = node.outputs[0]
    r, c = where
    found = [region(graph, name, set(paired)) for (graph, paired), name in zip(sides, where, strict=True)]
    producers = [graph.producers() for graph, _ in sides]
    return replace(
        fault,
        reference=r,
        candidate=c,
        reference_op=producers[0][r].op_type if r in producers[0] else "",
        candidate_op=producers[1][c].op_type if c in producers[1] else "",
        region_reference=found[0],
        region_candidate=found[1],
    )


def _fault(
    r: str | None,
    c: str | None,
    pairs: Sequence[Pair],
    sides: Sides,
    isolation: Isolation,
) -> Fault:
    """The fault at `r` and `c`; the one that is None has no such op. The error is the largest of `pairs`."""
    metrics = [isolation.own[p.reference] for p in pairs]
    lsb = [m.lsb_max for m in metrics if m.lsb_max is not None]
    (left, paired_r), (right, paired_c) = sides
    nodes_r, nodes_c = left.producers(), right.producers()
    return Fault(
        reference=r,
        candidate=c,
        reference_op=nodes_r[r].op_type if r in nodes_r else "",
        candidate_op=nodes_c[c].op_type if c in nodes_c else "",
        isolated_error=max(lsb) if lsb else max(m.rel_l2 for m in metrics),
        isolated_unit="lsb" if lsb else "rel_l2",
        region_reference=region(left, r, set(paired_r)) if r else Region(),
        region_candidate=region(right, c, set(paired_c)) if c else Region(),
    )


def region(graph: Graph, output: str, paired: set[str]) -> Region:
    """The nodes between `output` and the nearest paired tensors (or inputs and constants) before it."""
    producers = graph.producers()
    nodes: dict[str, None] = {}
    inputs: dict[str, None] = {}
    stack, seen = [output], {output}
    while stack:
        node = producers.get(stack.pop())
        if node is None:
            continue
        nodes.setdefault(node.name)
        for i in node.inputs:
            if not i or i in seen or i in graph.constants:
                continue
            seen.add(i)
            if i in paired or i in graph.inputs:
                inputs.setdefault(i)
            else:
                stack.append(i)
    order = {n.name: k for k, n in enumerate(graph.nodes)}
    return Region(tuple(sorted(nodes, key=lambda n: order[n])), tuple(inputs), (output,))
