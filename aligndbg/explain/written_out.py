"""Activations that are written out: a function of one tensor alone in several elementwise steps, told by its values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError, evaluate
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array
from aligndbg.explain.activations import ACTIVATIONS, written
from aligndbg.explain.folding import BINARY, UNARY
from aligndbg.explain.thresholds import SAME_CURVE

__all__ = ["CURVES", "WrittenOut", "written_out"]


# What activations are written out with, besides those that are one by themselves.
CURVES = frozenset({"Max", "Min", "Exp", "Softmax", "Abs", "Where"})
ELEMENTWISE = UNARY | BINARY | ACTIVATIONS | {"Where", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}
LINEAR = ("Mul", "Div", "Add", "Sub")
MOST_STEPS = 16
FORM_OPSET = 17
GRID = np.linspace(-8, 8, 257, dtype=np.float32)[None]


@dataclass(frozen=True)
class WrittenOut:
    """From the tensor `source` to the output of step `at`; `steps` are all the places in between, `at` included."""

    source: str
    at: int
    steps: frozenset[int]
    name: str


def written_out(program: Program) -> list[WrittenOut]:
    """The largest such functions that bend, each step in one of them only."""
    found: list[WrittenOut] = []
    for at in reversed(range(len(program.steps))):
        if any(at in known.steps for known in found) or not program.steps[at].node:
            continue
        made = _from_one_source(program, at)
        if made is not None:
            source, steps = made
            found.append(WrittenOut(source, at, frozenset(steps), _name(program, source, at, steps)))
    return found


def _from_one_source(program: Program, at: int) -> tuple[str, set[int]] | None:
    """Walks up from a step until all its paths meet in one tensor, in a second branch at least."""
    steps, open_names, branched = {at}, _varying(program, at), False
    while len(steps) <= MOST_STEPS:
        branched |= len(open_names) > 1
        if len(open_names) == 1 and (branched or not _passes_on(program, at, steps)):
            break
        places = {name: program.producer(name) for name in open_names}
        latest = max(open_names, key=lambda name: -1 if places[name] is None else places[name] or 0, default="")
        place = places.get(latest)
        if place is None or program.steps[place].op not in ELEMENTWISE or latest == program.output:
            return None
        steps.add(place)
        open_names = (open_names - {latest}) | _varying(program, place)
    inside = [program.steps[k] for k in steps]
    read_outside = any(set(program.readers(o)) - steps for k in steps - {at} for o in program.steps[k].outputs)
    bends = any(s.op in ACTIVATIONS or s.op in CURVES for s in inside)
    if not branched or len(open_names) != 1 or read_outside or not bends or program.steps[at].op not in ELEMENTWISE:
        return None
    return next(iter(open_names)), steps


def _passes_on(program: Program, at: int, steps: set[int]) -> bool:
    """Whether only factors and terms have been passed so far: the function may lie above them."""
    return all(program.steps[k].op in LINEAR for k in steps) and program.steps[at].op in LINEAR


def _varying(program: Program, at: int) -> set[str]:
    return {i for i in program.steps[at].inputs if i and i not in program.constants}


def _name(program: Program, source: str, at: int, steps: set[int]) -> str:
    """The known activation with these values, else the operators it is written with."""
    ops = ", ".join(program.steps[k].op for k in sorted(steps))
    part = replace(program, steps=tuple(program.steps[k] for k in sorted(steps)))
    try:
        [curve] = part.run({source: GRID}, program.steps[at].outputs[:1])
    except CannotEvaluateError:
        return f"what is written out as {ops}"
    for name, known in _curves().items():
        if curve.shape == known.shape and np.allclose(curve, known, SAME_CURVE, SAME_CURVE):
            return name
    return f"what is written out as {ops}"


@lru_cache(maxsize=1)
def _curves() -> dict[str, Array]:
    """Every known activation on the grid."""
    known = written("x", "y", GRID.dtype)
    return {each.name: evaluate(each.steps, {"x": GRID}, each.constants, ["y"], FORM_OPSET)[0] for each in known}
