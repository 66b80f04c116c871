"""From isolated errors to faults: the smallest region on both sides that holds each, one-sided ops included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aligndbg._types import Fault, Graph, Node, Pair, Region, Trace
from aligndbg.match._side import LAYOUT_OPS, PASSIVE_OPS
from aligndbg.match.ops import FAMILIES, WEIGHT_OPS, kindred

if TYPE_CHECKING:
    from aligndbg.locate import Isolation
    from aligndbg.metrics import Metrics

__all__ = ["MOVING", "make_faults", "next_pairs", "one_sided_activations", "region"]

# Ops that round nothing by themselves.
MOVING = LAYOUT_OPS | {"Pad", "Slice", "Split", "Gather"}
ACTIVATIONS = FAMILIES[1]
ELEMENTWISE = ACTIVATIONS | FAMILIES[2] | {"Erf", "Pow", "Exp", "Neg"}
Sides = tuple[tuple[Graph, Mapping[str, Pair]], tuple[Graph, Mapping[str, Pair]]]


def next_pairs(consumers: Mapping[str, Any], by_name: Mapping[str, Pair], name: str) -> list[Pair]:
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
            moved = _one_sided_activation(found, sides)
            out.append((order[p.reference], moved or found))
            if moved and p.reference in isolation.beyond:
                rest = _fault(p.reference, p.candidate, [p], _passed(moved, sides), isolation, isolation.beyond)
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
        moved = _one_sided_activation(_fault(p.reference, p.candidate, [p], sides, isolation), sides)
        if moved and moved.reference and moved.candidate:
            out[p.reference] = (moved.reference, moved.candidate)
    return out


def _places(reference: Trace, candidate: Trace, isolation: Isolation) -> tuple[list[Pair], list[Pair], Sides]:
    """The confirmed pairs, those of them that are over tolerance, and the tensors that are borders of regions."""
    pairs = [p for p in isolation.matching.pairs if p.reference not in isolation.doubtful]
    sides = (
        (reference.graph, {p.reference: p for p in pairs if p.reference not in isolation.open}),
        (candidate.graph, {p.candidate: p for p in pairs if p.reference not in isolation.open}),
    )
    return pairs, [p for p in pairs if p.reference in isolation.over], sides


def _passed(moved: Fault, sides: Sides) -> Sides:
    """The borders of regions where those are right after a one-sided activation, not before it."""
    names = (moved.reference or "", moved.candidate or "")
    before = sides[0][1].get(names[0]) or sides[1][1][names[1]]
    pair = replace(before, reference=names[0], candidate=names[1])
    (left, ours), (right, theirs) = sides
    return (
        (left, {r: p for r, p in ours.items() if r != before.reference} | {names[0]: pair}),
        (right, {c: p for c, p in theirs.items() if c != before.candidate} | {names[1]: pair}),
    )


def _with_counterpart(fault: Fault, side: int, below: Sequence[Pair], sides: Sides) -> Fault:
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


def _one_sided_activation(fault: Fault, sides: Sides) -> Fault | None:
    """The fault moved to an activation that only one side's region has, right after a paired tensor.

    Without it, or with one too many, an op agrees with the other side's value before the activation, and what comes
    after the activation would be blamed.
    """
    regions = (fault.region_reference, fault.region_candidate)
    nodes = [[graph.node(name) for name in found.nodes] for (graph, _), found in zip(sides, regions, strict=True)]
    tails = [[n.tail for n in ns] for ns in nodes]
    lone = [
        (k, n.inputs[0], n.outputs[0], n)
        for k in (0, 1)
        for n in nodes[k]
        if n.tail in ACTIVATIONS
        and tails[k].count(n.tail) > tails[1 - k].count(n.tail)
        and n.outputs[0] not in (fault.reference, fault.candidate)
        and n.inputs
        and n.inputs[0] in sides[k][1]
    ]
    found = [
        (k, x, y)
        for k, x, y, n in lone
        if _alike(_computing(nodes[k], sides[k][0], n), _computing(nodes[1 - k], sides[1 - k][0]))
    ] or [place for k in (0, 1) for place in _written_out(k, nodes, sides)]
    if len(found) != 1:
        return None  # the regions differ in more than this, or there is a choice
    k, given, made = found[0]
    before = sides[k][1][given]
    where = [before.reference, before.candidate]
    where[k] = made
    r, c = where
    held = [region(graph, name, paired) for (graph, paired), name in zip(sides, where, strict=True)]
    producers = [graph.producers() for graph, _ in sides]
    return replace(
        fault,
        reference=r,
        candidate=c,
        reference_op=producers[0][r].op_type if r in producers[0] else "",
        candidate_op=producers[1][c].op_type if c in producers[1] else "",
        region_reference=held[0],
        region_candidate=held[1],
    )


def _written_out(k: int, nodes: Sequence[Sequence[Node]], sides: Sides) -> list[tuple[int, str, str]]:
    """An activation that side `k` of a region has more, as several elementwise ops: (k, its input, its output)."""
    graph, paired = sides[k]
    inside = {o: n for n in nodes[k] for o in n.outputs}
    others = _computing(nodes[1 - k], sides[1 - k][0])
    for n in nodes[k][:-1]:
        group: dict[str, Node] = {}
        borders: set[str] = set()
        stack = [n.outputs[0]]
        while stack:
            name = stack.pop()
            if name in paired or name not in inside:
                borders.add(name)
                continue
            node = inside[name]
            if node.name not in group:
                group[node.name] = node
                stack += [i for i in node.inputs if i and i not in graph.constants]
        if len(borders) != 1 or len(group) < 2 or not all(m.tail in ELEMENTWISE for m in group.values()):
            continue
        if not any(m.tail in ACTIVATIONS | {"Erf"} for m in group.values()) or not borders <= paired.keys():
            continue
        if _alike(_computing([m for m in nodes[k] if m.name not in group], graph), others):
            return [(k, borders.pop(), n.outputs[0])]
    return []


def _alike(left: Counter[str], right: Counter[str]) -> bool:
    """Whether each op of one region has a kindred one in the other."""
    rest = list(right.elements())
    for word in left.elements():
        match = next((w for w in sorted(rest, key=lambda w: w != word) if kindred(word, w)), None)
        if match is None:
            return False
        rest.remove(match)
    return not rest


def _computing(nodes: Sequence[Node], graph: Graph, without: Node | None = None) -> Counter[str]:
    """The ops of a region that a converter leaves alone, `without` the activation of one."""
    words: Counter[str] = Counter()
    for n in nodes:
        inner = sum(1 for i in n.inputs if i and i not in graph.constants)
        if n.canonical in MOVING | PASSIVE_OPS | {"Expand"} or (
            n.canonical in ("Add", "Mul", "BatchNormalization") and inner == 1
        ):
            continue
        word = "weighted" if n.canonical in WEIGHT_OPS else n.canonical
        words.update({word, n.tail} if n.canonical not in (n.tail, "BatchNormalization") else {word})
        if n is without:
            words[n.tail] -= 1
    return +words


def _fault(
    r: str | None,
    c: str | None,
    pairs: Sequence[Pair],
    sides: Sides,
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


def region(graph: Graph, output: str, paired: Container[str]) -> Region:
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
    return Region(tuple(sorted(nodes, key=graph.places().__getitem__)), tuple(inputs), (output,))
