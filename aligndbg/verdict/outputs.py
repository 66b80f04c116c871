"""What is to be said of an output that is an inner tensor of the other model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from aligndbg.core.types import Graph, Matching, Status
from aligndbg.measure.exact import Exact
from aligndbg.measure.results import Measurement

__all__ = ["exact_notes", "output_notes"]


OPERATORS_SAID = 3


def exact_notes(exact: Iterable[Exact]) -> list[str]:
    """Outputs of integers, booleans or strings that differ, and inner ones that do by themselves."""
    return [
        f"output {e.note}" if e.output else e.note for e in exact if e.share and (e.output or e.own or e.margin == 0)
    ]


def output_notes(measured: Sequence[Measurement], matching: Matching, reference: Graph, candidate: Graph) -> list[str]:
    """For each output that differs from its namesake, and passes as an inner tensor of the other model: that it does.

    That model goes on computing from there (a decoding, a softmax), and this one lacks it.
    """
    found = list(matching.notes)
    passed = [m.pair for m in measured if m.status is Status.PASS]
    right = {p.reference for p in passed if p.reference == p.candidate}
    pairs = (*matching.pairs, *matching.again)
    for name in dict.fromkeys(p.reference for p in pairs if p.reference == p.candidate and p.reference not in right):
        if name not in {*reference.outputs, *candidate.outputs}:
            continue
        inner_r = next(
            (p.reference for p in passed if p.candidate == name and p.reference not in reference.outputs), ""
        )
        inner_c = next(
            (p.candidate for p in passed if p.reference == name and p.candidate not in candidate.outputs), ""
        )
        if inner_r:
            found.append(_note(name, "candidate", "reference", inner_r, reference))
        if inner_c:
            found.append(_note(name, "reference", "candidate", inner_c, candidate))
    return found


def _note(name: str, label: str, other: str, inner: str, graph: Graph) -> str:
    made = graph.producers().get(inner)
    word = f" ({made.op_type})" if made is not None else ""
    ops = _between(graph, inner, name)
    more = f" and {len(ops) - OPERATORS_SAID} more" if len(ops) > OPERATORS_SAID else ""
    further = (
        f", which goes on from there to its own {name!r} by {', '.join(ops[:OPERATORS_SAID])}{more}" if ops else ""
    )
    return f"the {label}'s output {name!r} equals the inner tensor {inner!r}{word} of the {other}{further}"


def _between(graph: Graph, start: str, end: str) -> list[str]:
    """The operators on the ways from one tensor to another, in execution order."""
    below, queue = {start}, deque([start])
    while queue:
        for node in graph.consumers().get(queue.popleft(), ()):
            fresh = [o for o in node.outputs if o and o not in below]
            below.update(fresh)
            queue += fresh
    above, queue = {end}, deque([end])
    while queue:
        inputs = (i for node in [graph.producers().get(queue.popleft())] if node for i in node.inputs)
        fresh = [i for i in inputs if i in below and i not in above and i != start]
        above.update(fresh)
        queue += fresh
    return [n.op_type for n in graph.nodes if not above.isdisjoint(n.outputs) and not below.isdisjoint(n.inputs)]
