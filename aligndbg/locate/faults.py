"""From isolated errors to faults: the smallest region on both sides that holds each, one-sided ops included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aligndbg.core.ops import MOVING
from aligndbg.core.regions import next_pairs, region
from aligndbg.core.types import Fault, Graph, Pair, Region, Trace
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.one_sided import PairedGraphs, one_sided_activation
from aligndbg.measure.results import Metrics

__all__ = ["make_faults", "one_sided_activations"]


def make_faults(reference: Trace, candidate: Trace, isolation: Isolation, limit: int) -> tuple[tuple[Fault, ...], bool]:
    """One Fault a confirmed pair over tolerance on its own, in the reference's order; and whether cut at `limit`.

    Where an unpaired tensor lies in the regions of several, and all that is computed from it is over, it is the one
    fault: an op that only one side has.
    """
    pairs, faulty, sides = _places(reference, candidate, isolation)
    out: list[tuple[int, Fault]] = []
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
            moved = one_sided_activation(found, sides)
            out.append((order[p.reference], moved or found))
            if moved and p.reference in isolation.own_past_activation:
                rest = _fault(
                    p.reference, p.candidate, [p], _passed(moved, sides), isolation, isolation.own_past_activation
                )
                out.append((order[p.reference], rest))
    by_place: dict[tuple[str | None, str | None], Fault] = {}
    for _, f in sorted(out, key=lambda item: item[0]):
        place = (f.reference, f.candidate)
        if place not in by_place or by_place[place].isolated_error < f.isolated_error:
            by_place[place] = f
    ordered = list(by_place.values())
    return tuple(ordered[:limit]), len(ordered) > limit


def one_sided_activations(reference: Trace, candidate: Trace, isolation: Isolation) -> dict[str, tuple[str, str]]:
    """The pairs over tolerance (by reference name) whose fault is an activation before them that one side has more.

    With the tensors right after that activation on both sides: what is between those and the pair is not judged yet.
    """
    _, faulty, sides = _places(reference, candidate, isolation)
    out = {}
    for p in faulty:
        moved = one_sided_activation(_fault(p.reference, p.candidate, [p], sides, isolation), sides)
        if moved and moved.reference and moved.candidate:
            out[p.reference] = (moved.reference, moved.candidate)
    return out


def _places(reference: Trace, candidate: Trace, isolation: Isolation) -> tuple[list[Pair], list[Pair], PairedGraphs]:
    """The confirmed pairs, those of them that are over tolerance, and the tensors that are borders of regions."""
    pairs = [p for p in isolation.matching.pairs if p.reference not in isolation.doubtful]
    sides = (
        (reference.graph, {p.reference: p for p in pairs if p.reference not in isolation.not_overridden}),
        (candidate.graph, {p.candidate: p for p in pairs if p.reference not in isolation.not_overridden}),
    )
    return pairs, [p for p in pairs if p.reference in isolation.over_tolerance], sides


def _passed(moved: Fault, sides: PairedGraphs) -> PairedGraphs:
    """The borders of regions where those are right after a one-sided activation, not before it."""
    names = (moved.reference or "", moved.candidate or "")
    before = sides[0][1].get(names[0]) or sides[1][1][names[1]]
    pair = replace(before, reference=names[0], candidate=names[1])
    (left, ours), (right, theirs) = sides
    return (
        (left, {r: p for r, p in ours.items() if r != before.reference} | {names[0]: pair}),
        (right, {c: p for c, p in theirs.items() if c != before.candidate} | {names[1]: pair}),
    )


def _with_counterpart(fault: Fault, side: int, below: Sequence[Pair], sides: PairedGraphs) -> Fault:
    """A fault at one side's unpaired op, with what its pairs have in common on the other side (an unrolled LSTM)."""
    graph, paired = sides[1 - side]
    names = [p.candidate if side == 0 else p.reference for p in below]
    regions = [region(graph, n, paired) for n in names]
    common = set(regions[0].nodes).intersection(*(r.nodes for r in regions[1:]))
    nodes = [n for n in graph.nodes if n.name in common]
    if not nodes:
        return fault
    last = nodes[-1].outputs[0]
    found = Region(tuple(n.name for n in nodes), region(graph, last, paired).inputs, (last,))
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
                below = next_pairs(consumers, by_name, o)
                if len(below) > 1 and all(p.reference in faulty for p in below):
                    out.append((o, below))
    return out


def _fault(
    r: str | None,
    c: str | None,
    pairs: Sequence[Pair],
    sides: PairedGraphs,
    isolation: Isolation,
    own: Mapping[str, Metrics] | None = None,
) -> Fault:
    """The fault at `r` and `c`; the one that is None has no such op. The error is the largest of `pairs`."""
    metrics = [(own or isolation.own)[p.reference] for p in pairs]
    lsb = [m.lsb_max for m in metrics if m.lsb_max is not None]
    (left, paired_r), (right, paired_c) = sides
    node_r, node_c = left.producers().get(r or ""), right.producers().get(c or "")
    return Fault(
        reference=r,
        candidate=c,
        reference_op=node_r.op_type if node_r else "",
        candidate_op=node_c.op_type if node_c else "",
        isolated_error=max(lsb) if lsb else max(m.rel_l2 for m in metrics),
        isolated_unit="lsb" if lsb else "rel_l2",
        region_reference=region(left, r, paired_r) if r else Region(),
        region_candidate=region(right, c, paired_c) if c else Region(),
        reference_scope=node_r.scope if node_r else "",
        candidate_scope=node_c.scope if node_c else "",
    )
