"""The axis an operator works along: a softmax over the wrong one, a reduction, a concatenation; all behind an axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from aligndbg.canonical.evaluate import Step
from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypotheses.attribute import same_axes, twins
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Axis"]


SOFTMAX = ("Softmax", "LogSoftmax", "Hardmax")
OPS = (*SOFTMAX, "LpNormalization", "CumSum", "Concat", "Gather", "Split")
ALONG_ONE = 13  # the opset from which a softmax works along its axis; before, along that and all behind it at once


@dataclass(frozen=True)
class _Along:
    """`flat`: along the axis and all behind it at once."""

    axis: int
    rank: int
    flat: bool

    def __str__(self) -> str:
        return f"axis {self.axis} of {self.rank}" + (" and all behind it" if self.flat else "")


class Axis(Hypothesis):
    """Every other axis, in whichever side's program can be run; of a softmax, along one axis or all from it on."""

    name = "axis"

    def applies(self, case: Case) -> bool:
        return any(step.op in OPS for _, program in case.programs(plain=False) for step in program.steps)

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs(plain=False))
        along = {side: _axes(case, side, program) for side, program in both.items()}
        known = twins(both)
        for side, program in both.items():
            for at, own in along[side].items():
                theirs = along[other_side(side)].get(known[side][at]) if at in known[side] else None
                if theirs is not None and own.flat == theirs.flat and same_axes(case, side, own.axis, theirs.axis):
                    continue  # both files say the same
                yield from _others(program, side, at, own, theirs)


def _axes(case: Case, side: str, program: Program) -> dict[int, _Along]:
    """What each step works along, by its place."""
    found = {}
    for at, step in enumerate(program.steps):
        if step.op in OPS:
            rank = program.rank(case.half(side).feeds, step.inputs[0])
            axis = int(program.attributes(at).get("axis", 0)) % max(rank, 1)
            flat = step.op in SOFTMAX and program.opset < ALONG_ONE and axis < rank - 1
            found[at] = _Along(axis, rank, flat)
    return found


def _others(program: Program, side: str, at: int, own: _Along, theirs: _Along | None) -> Iterator[Trial]:
    first = [own.axis] if theirs is None else [theirs.axis, own.axis]
    for axis in dict.fromkeys((*(a for a in first if a < own.rank), *range(own.rank))):
        for flat in (False, True) if program.steps[at].op in SOFTMAX and axis < own.rank - 1 else (False,):
            other = replace(own, axis=axis, flat=flat)
            if other != own:
                made = _flattened(program, at, axis) if flat else _along(program, at, axis, own.rank)
                yield _trial(program, side, at, own, other, theirs, made)


def _along(program: Program, at: int, axis: int, rank: int) -> Program:
    """Step `at` along one axis alone, in any opset: that axis moved to the end where a softmax takes all behind it."""
    step = program.steps[at]
    if step.op not in SOFTMAX or program.opset >= ALONG_ONE:
        return program.with_attributes(at, axis=axis)
    perm = [a for a in range(rank) if a != axis] + [axis]
    moved, made = f"{step.outputs[0]}:moved", f"{step.outputs[0]}:along"
    return program.with_steps(
        at,
        Step("Transpose", step.inputs, (moved,), {"perm": perm}),
        replace(step, inputs=(moved,), outputs=(made,), attributes={"axis": rank - 1}),
        Step("Transpose", (made,), step.outputs, {"perm": [int(p) for p in np.argsort(perm)]}),
    )


def _flattened(program: Program, at: int, axis: int) -> Program:
    """Step `at` along `axis` and all behind it as one."""
    step = program.steps[at]
    flat, made, shape = (f"{step.outputs[0]}:{word}" for word in ("flat", "made", "shape"))
    return program.with_steps(
        at,
        Step("Flatten", step.inputs, (flat,), {"axis": axis}),
        replace(step, inputs=(flat,), outputs=(made,), attributes={"axis": 1}),
        Step("Shape", step.inputs, (shape,)),
        Step("Reshape", (made, shape), step.outputs),
    )


def _trial(
    program: Program, side: str, at: int, own: _Along, other: _Along, theirs: _Along | None, made: Program
) -> Trial:
    """`theirs` is what the other side's file says, in its own layout."""
    op, there = program.steps[at].op, other_side(side)
    says = f"the {there}'s along {theirs}" if theirs is not None else f"the {there} computes as along {other}"
    return Trial(
        "axis",
        side,
        made,
        f"the {side}'s {op} works along {own}, {says}",
        f"along {other} in the {side}",
        costs.AXIS,
        {side: {"axis": own.axis}, "explained_by": {"axis": other.axis}},
    )
