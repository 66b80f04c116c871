"""An activation that is missing, one too many, or another: ReLU for ReLU6, the tanh GELU for the erf one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError, Step
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array
from aligndbg.explain import costs
from aligndbg.explain.activations import ACTIVATIONS, Written, describe_step, written
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypothesis import Hypothesis, other_side
from aligndbg.explain.thresholds import SLOPE_RANGE
from aligndbg.explain.written_out import CURVES, written_out

__all__ = ["Activation"]


# Steps after which an activation may have been added or lost.
BEFORE = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Sub", "BatchNormalization", "Concat", "Transpose"}
    | {"MaxPool", "AveragePool", "Resize", "Reshape"}
)
SOFTMAX = ("Softmax", "LogSoftmax")
MAX_PLACES = 3
APPROXIMATIONS = ({"GELU (erf)", "GELU (tanh)"}, {"Erf", "Erf by tanh"})


class Activation(Hypothesis):
    """Each activation taken away, then replaced, by what the other side has and by every known one; then one added."""

    name = "activation"

    def applies(self, case: Case) -> bool:
        names = [sorted(place.name for place in _places(p, curves=True)) for _, p in case.programs()]
        return bool(names) and not (len(names) == 2 and names[0] == names[1])

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs())
        for side in ("candidate", "reference"):
            if side not in both:
                continue
            program, theirs = both[side], both.get(other_side(side))
            for place in _places(program):
                left = _else_alike(program, place, theirs) if theirs else None
                if not place.part or left == 0:
                    yield _removed(program, side, place)
                for name, changed, cost in _replacements(case, side, program, place, theirs):
                    by_theirs = left == 1 and cost == costs.OTHERS_ACTIVATION
                    if not place.part or by_theirs or {place.name, name} in APPROXIMATIONS:
                        yield _replaced(side, place, name, changed, cost)
            for name in _insertions(program):
                yield from _added(case, side, program, name)


@dataclass(frozen=True)
class _Place:
    """An activation that reads `source`; step `at` gives its result. `part`: of one that is written out."""

    source: str
    at: int
    name: str
    part: bool = False


def _places(program: Program, curves: bool = False) -> list[_Place]:
    """Activations that are one step, and those that are written out. With `curves` also steps that may be part of one.

    Of a part alone nothing is missing and nothing is extra: it is there for the whole.
    """
    whole = written_out(program)
    inside = {k for each in whole for k in each.steps}
    found = [_Place(each.source, each.at, each.name) for each in whole]
    for k, step in enumerate(program.steps):
        alone = step.op in ACTIVATIONS or step.op in SOFTMAX or (curves and step.op in CURVES)
        if step.node and alone and not (curves and k in inside):
            found.append(_Place(step.inputs[0], k, _name(program, step), k in inside))
    return sorted(found, key=lambda place: place.at)


def _else_alike(program: Program, place: _Place, theirs: Program) -> int | None:
    """How many operators that bend the other side has in the place of this one, where it has all others too."""
    ours, others = (
        Counter(step.op for step in p.steps if step.node and (step.op in ACTIVATIONS or step.op in CURVES))
        for p in (program, theirs)
    )
    ours.subtract([program.steps[place.at].op])
    return (others - ours).total() if not ours - others else None


def _removed(program: Program, side: str, place: _Place) -> Trial:
    kind = "missing_activation" if side == "reference" else "extra_activation"
    y = program.steps[place.at].outputs
    return Trial(
        kind,
        side,
        program.with_steps(place.at, Step("Identity", (place.source,), y)),
        f"the {side} applies {place.name}, the {other_side(side)} does not",
        f"without it in the {side}",
        costs.ACTIVATION_REMOVED,
        {"activation": place.name, "on": side},
    )


def _added(case: Case, side: str, program: Program, name: str) -> Iterator[Trial]:
    kind = "missing_activation" if side == "candidate" else "extra_activation"
    before, last = f"{name}:before", case.half(side).value.ndim - 1
    over_last = [Written(op, (Step(op, (before,), (name,), {"axis": last}),), {}) for op in SOFTMAX]
    for each in (*written(before, name, _dtype(case, side)), *over_last):
        yield Trial(
            kind,
            side,
            program.followed(name, each.steps, each.constants),
            f"the {other_side(side)} applies {each.name}, the {side} does not",
            f"with {each.name} in the {side}",
            costs.ACTIVATION_ADDED,
            {"activation": each.name, "on": other_side(side)},
            guess=True,
        )


def _insertions(program: Program) -> list[str]:
    """Outputs of the last steps that no activation follows."""
    found = []
    for step in reversed(program.steps):
        readers = program.readers(step.outputs[0])
        bare = not any(program.steps[r].op in ACTIVATIONS and program.steps[r].node for r in readers)
        if step.op in BEFORE and bare and step.node:
            found.append(step.outputs[0])
    return found[:MAX_PLACES]


def _replaced(side: str, place: _Place, name: str, changed: Program, cost: float) -> Trial:
    there, close = other_side(side), {place.name, name} in APPROXIMATIONS
    guess = cost >= costs.USUAL_ACTIVATION
    return Trial(
        "approximation" if close else "activation",
        side,
        changed,
        f"the {side} applies {place.name}, the {there} {'computes as with ' if guess else ''}{name}",
        f"with {name} in the {side}",
        cost,
        {side: {"activation": place.name}, there: {"activation": name}},
        guess=guess,
    )


def _replacements(
    case: Case, side: str, program: Program, place: _Place, theirs: Program | None
) -> Iterator[tuple[str, Program, float]]:
    step = program.steps[place.at]
    if step.op in SOFTMAX:
        return
    x, y, own = place.source, step.outputs[0], place.name
    theirs = theirs or program
    for other in theirs.steps:
        if not other.node or other.op not in ACTIVATIONS or other.op == "PRelu" or _name(theirs, other) == own:
            continue
        rest = {f"{y}:theirs{k}": theirs.constants[i] for k, i in enumerate(other.inputs[1:]) if i in theirs.constants}
        if len(rest) == len([i for i in other.inputs[1:] if i]):
            made = replace(other, inputs=(x, *rest), outputs=(y,), node=step.node)
            yield _name(theirs, other), program.with_steps(place.at, made, constants=rest), costs.OTHERS_ACTIVATION
    known = {other.name for other in _places(theirs)}
    for each in written(x, y, _dtype(case, side)):
        if each.name != own:
            changed = program.with_steps(place.at, *each.steps, constants=each.constants)
            yield each.name, changed, costs.OTHERS_ACTIVATION if each.name in known else costs.USUAL_ACTIVATION
    slope = _negative_slope(case, side, program, place)
    if slope is not None:
        yield f"LeakyRelu {slope:.3g}", _leaky(program, place, slope), costs.FITTED_SLOPE


def _leaky(program: Program, place: _Place, alpha: float) -> Program:
    step = program.steps[place.at]
    leaky = Step("LeakyRelu", (place.source,), step.outputs, {"alpha": alpha}, step.node)
    return program.with_steps(place.at, leaky)


def _negative_slope(case: Case, side: str, program: Program, place: _Place) -> float | None:
    """The slope below zero that fits best: what follows is taken as linear in it, and the test tells."""
    half, other = case.half(side), case.other(side)
    try:
        flat, straight = (case.aligned(side, _leaky(program, place, alpha).run(half.feeds)[0]) for alpha in (0.0, 1.0))
    except (CannotEvaluateError, ValueError):
        return None
    target, step = case.aligned(other.side, other.value), straight - flat
    if step.shape != target.shape or not np.isfinite(target).all():
        return None
    square = float(np.sum(step * step))
    slope = float(np.sum((target - flat) * step)) / square if square else 0.0
    return slope if SLOPE_RANGE[0] < slope < SLOPE_RANGE[1] else None


def _name(program: Program, step: Step) -> str:
    constants: list[Array | None] = [program.constant(step, k) for k in (1, 2)]
    return describe_step(step, constants)


def _dtype(case: Case, side: str) -> np.dtype:
    return next((v.dtype for v in case.half(side).feeds.values() if v.dtype.kind == "f"), np.dtype("float32"))
