"""Activations that are written out: a function of one tensor alone in several elementwise steps, told by its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError, Step, evaluate
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array, Graph, Node
from aligndbg.explain.activations import ACTIVATIONS, written
from aligndbg.explain.folding import BINARY, UNARY
from aligndbg.explain.thresholds import SAME_CURVE

__all__ = ["CURVES", "WrittenOut", "around", "written_out"]


# What activations are written out with, besides those that are one by themselves.
CURVES = frozenset({"Max", "Min", "Exp", "Softmax", "Abs", "Where"})
ELEMENTWISE = UNARY | BINARY | ACTIVATIONS | {"Where", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}
LINEAR = ("Mul", "Div", "Add", "Sub")
MOST_STEPS, MOST_BEHIND = 16, 2
FORM_OPSET = 17
GRID = np.linspace(-8, 8, 257, dtype=np.float32)[None]


@dataclass(frozen=True)
class WrittenOut:
    """From the tensor `source` to the output of step `at`; `steps` are all the places in between, `at` included.

    `known` where its values are those of an activation that has a name.
    """

    source: str
    at: int
    steps: frozenset[int]
    name: str
    known: bool


def written_out(program: Program) -> list[WrittenOut]:
    """All of them, each step in one only. A factor behind belongs to it where that makes it a known activation."""
    found: list[WrittenOut] = []
    for at in reversed(range(len(program.steps))):
        joined = None if any(at in known.steps for known in found) else _joined(program, at)
        if joined is None:
            continue
        source, steps = joined
        made = [_named(program, source, end, part) for end, part in ((at, steps), *_behind(program, at, steps))]
        found.append(next((each for each in made if each.known), made[0]))
    return found


def around(graph: Graph, tensor: str) -> list[tuple[str, frozenset[str]]]:
    """What may be the written-out activation that `tensor` is a part or the result of: its result, the tensors inside.

    The nearest that is closed by itself first, then with what scales it.
    """
    producers, consumers = graph.producers(), graph.consumers()
    for end in dict.fromkeys((*_scaled_above(graph, producers, tensor), *_below(consumers, tensor))):
        part = _above(graph, producers, end)
        joined = _joined(part, len(part.steps) - 1) if part.steps else None
        if joined is None:
            continue
        inside = {o for k in joined[1] for o in part.steps[k].outputs}
        ends, last = [end], end
        while len(ends) <= MOST_BEHIND and (behind := _scales(graph, consumers.get(last, ()))) is not None:
            last = behind.outputs[0]
            ends.append(last)
        if tensor in inside or tensor in ends:
            first = ends.index(tensor) if tensor in ends else 0  # never an end before the tensor
            return [(e, frozenset({*inside, *ends[:k]} - {e})) for k, e in enumerate(ends) if k >= first]
    return []


def _scaled_above(graph: Graph, producers: Mapping[str, Node], tensor: str) -> list[str]:
    """What `tensor` is a factor or a term of, the tensor itself first."""
    found = [tensor]
    while len(found) <= MOST_BEHIND:
        node = producers.get(found[-1])
        varying = [i for i in node.inputs if i not in graph.constants] if node is not None else []
        if node is None or node.canonical not in LINEAR or len(varying) != 1:
            break
        found.append(varying[0])
    return found


def _below(consumers: Mapping[str, Sequence[Node]], tensor: str) -> list[str]:
    below, front = list[str](), [tensor]
    for _ in range(MOST_STEPS):
        readers = [node for name in front for node in consumers.get(name, ())]
        front = [node.outputs[0] for node in readers if node.canonical in ELEMENTWISE]
        below += front
    return below


def _scales(graph: Graph, readers: Sequence[Node]) -> Node | None:
    """The only reader of a tensor, where it adds or multiplies by a constant."""
    node = readers[0] if len(readers) == 1 else None
    if node is None or node.canonical not in LINEAR or not any(i in graph.constants for i in node.inputs):
        return None
    return node


def _above(graph: Graph, producers: Mapping[str, Node], end: str) -> Program:
    """The elementwise operators that `end` is computed by, as steps without values, `end`'s own the last."""
    nodes: dict[str, Node] = {}
    stack = [end]
    while stack and len(nodes) <= 2 * MOST_STEPS:
        node = producers.get(stack.pop())
        if node is not None and node.canonical in ELEMENTWISE and node.name not in nodes:
            nodes[node.name] = node
            stack += [i for i in node.inputs if i and i not in graph.constants]
    places = graph.places()
    ordered = sorted(nodes.values(), key=lambda node: (node.outputs[0] == end, places[node.name]))
    steps = tuple(Step(n.canonical, n.inputs, n.outputs, {}, n.name) for n in ordered)
    return Program(steps, dict.fromkeys(graph.constants, np.zeros(0)), (), end, FORM_OPSET)


def _joined(program: Program, at: int) -> tuple[str, set[int]] | None:
    """Where two branches of one tensor meet again in step `at`: that tensor, and the steps; one of them must bend."""
    steps, open_names = {at}, _varying(program, at)
    if len(open_names) < 2 or not program.steps[at].node or program.steps[at].op not in ELEMENTWISE:
        return None
    while len(open_names) > 1 and len(steps) <= MOST_STEPS:
        places = {name: -1 if (k := program.producer(name)) is None else k for name in open_names}
        latest = max(open_names, key=places.__getitem__)
        place = places[latest]
        if place < 0 or program.steps[place].op not in ELEMENTWISE or latest == program.output:
            return None
        steps.add(place)
        open_names = (open_names - {latest}) | _varying(program, place)
    inside = [program.steps[k] for k in steps]
    read_outside = any(set(program.readers(o)) - steps for k in steps - {at} for o in program.steps[k].outputs)
    bends = any(s.op in ACTIVATIONS or s.op in CURVES for s in inside)
    return None if len(open_names) != 1 or read_outside or not bends else (next(iter(open_names)), steps)


def _behind(program: Program, at: int, steps: set[int]) -> Iterator[tuple[int, set[int]]]:
    """The same with one more factor or term behind it, and with two."""
    for _ in range(MOST_BEHIND):
        readers = program.readers(program.steps[at].outputs[0])
        if len(readers) != 1 or program.steps[readers[0]].op not in LINEAR or len(_varying(program, readers[0])) != 1:
            return
        at, steps = readers[0], {*steps, readers[0]}
        yield at, steps


def _varying(program: Program, at: int) -> set[str]:
    return {i for i in program.steps[at].inputs if i and i not in program.constants}


def _named(program: Program, source: str, at: int, steps: set[int]) -> WrittenOut:
    """By the known activation with these values, else by the operators it is written with."""
    ordered = [program.steps[k] for k in sorted(steps)]
    words = f"what is written out as {', '.join(step.op for step in ordered)}"
    try:
        [curve] = replace(program, steps=tuple(ordered)).run({source: GRID}, program.steps[at].outputs[:1])
    except CannotEvaluateError:
        return WrittenOut(source, at, frozenset(steps), words, known=False)
    same = [n for n, c in _curves().items() if c.shape == curve.shape and np.allclose(curve, c, SAME_CURVE, SAME_CURVE)]
    return WrittenOut(source, at, frozenset(steps), same[0] if same else words, bool(same))


@lru_cache(maxsize=1)
def _curves() -> dict[str, Array]:
    """Every known activation on the grid."""
    known = written("x", "y", GRID.dtype)
    return {each.name: evaluate(each.steps, {"x": GRID}, each.constants, ["y"], FORM_OPSET)[0] for each in known}
