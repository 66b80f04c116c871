"""The axis an operator works along: a softmax over the wrong one, a reduction, a concatenation."""

from __future__ import annotations

from collections.abc import Iterator

from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Axis"]


OPS = ("Softmax", "LogSoftmax", "LpNormalization", "CumSum", "Hardmax", "Concat", "Gather", "Split")


class Axis(Hypothesis):
    """Every other axis, in whichever side's program can be run."""

    name = "axis"

    def applies(self, case: Case) -> bool:
        return any(_places(program) for _, program in case.programs(plain=False))

    def trials(self, case: Case) -> Iterator[Trial]:
        for side, program in case.programs(plain=False):
            rank = case.half(side).value.ndim
            for at in _places(program):
                step = program.steps[at]
                own = int(step.attributes.get("axis", 1 if program.opset < 13 else -1))
                for axis in range(rank):
                    if axis != own % max(rank, 1):
                        yield _trial(program, side, at, own, axis)


def _places(program: Program) -> list[int]:
    return [k for k, step in enumerate(program.steps) if step.op in OPS]


def _trial(program: Program, side: str, at: int, own: int, axis: int) -> Trial:
    step = program.steps[at]
    return Trial(
        "axis",
        side,
        program.with_attributes(at, axis=axis),
        f"the {side}'s {step.op} works along axis {own}, the {other_side(side)}'s along what is axis {axis} there",
        f"with axis {axis} in the {side}",
        costs.AXIS,
        {side: {"axis": own}, "explained_by": {"axis": axis}},
    )
