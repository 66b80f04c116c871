"""An activation that only one side has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aligndbg.core.ops import FAMILIES, MOVING, PASSIVE_OPS, WEIGHT_OPS, kindred
from aligndbg.core.regions import region
from aligndbg.core.types import Fault, Graph, Node, Pair

__all__ = ["PairedGraphs", "one_sided_activation"]


ACTIVATIONS = FAMILIES[1]
ELEMENTWISE = ACTIVATIONS | FAMILIES[2] | {"Erf", "Pow", "Exp", "Neg"}
PairedGraphs = tuple[tuple[Graph, Mapping[str, Pair]], tuple[Graph, Mapping[str, Pair]]]


def one_sided_activation(fault: Fault, sides: PairedGraphs) -> Fault | None:
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


def _written_out(k: int, nodes: Sequence[Sequence[Node]], sides: PairedGraphs) -> list[tuple[int, str, str]]:
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
