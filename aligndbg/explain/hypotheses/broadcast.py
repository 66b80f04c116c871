"""A constant for each channel put on another axis of that length: the slopes of a PReLU, a bias, a factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aligndbg.canonical.evaluate import Step
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.constant_roles import ARITHMETIC
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Broadcast"]


WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")


class Broadcast(Hypothesis):
    """Each such constant along every other axis that has its length."""

    name = "broadcast"

    def applies(self, case: Case) -> bool:
        return any(s.op in ARITHMETIC or s.op in WITH_BIAS for _, p in case.programs() for s in p.steps)

    def trials(self, case: Case) -> Iterator[Trial]:
        for side, program in case.programs():
            feeds = case.half(side).feeds
            for at, step in enumerate(program.steps):
                slot = _slot(program, step)
                value = None if slot is None else program.constant(step, slot)
                if slot is None or value is None or max(value.shape, default=1) != value.size or value.size < 2:
                    continue
                shape = program.shape(feeds, step.outputs[0] if step.op in WITH_BIAS else step.inputs[1 - slot])
                own = _own_axis(step.op, value, len(shape))
                for axis, length in enumerate(shape):
                    if length == value.size and axis != own:
                        moved = value.reshape([length if a == axis else 1 for a in range(len(shape))])
                        yield _trial(side, program, at, slot, moved, own, axis)


def _slot(program: Program, step: Step) -> int | None:
    """Where a step reads a constant that is spread over what it computes."""
    if step.op in WITH_BIAS:
        return 2
    slots = [k for k in range(len(step.inputs)) if step.op in ARITHMETIC and program.constant(step, k) is not None]
    return slots[0] if len(slots) == 1 and step.node else None


def _own_axis(op: str, value: Array, rank: int) -> int:
    if op in WITH_BIAS:
        return 1
    return rank - value.ndim + int(np.argmax(value.shape))


def _trial(side: str, program: Program, at: int, slot: int, moved: Array, own: int, axis: int) -> Trial:
    step = program.steps[at]
    what = {"PRelu": "slopes", "Mul": "factor", "Div": "divisor", "Pow": "exponent"}.get(step.op, "term")
    if step.op in WITH_BIAS:
        what, before, name = "bias", f"{step.outputs[0]}:unbiased", f"{step.outputs[0]}:bias"
        bare = replace(step, inputs=step.inputs[:2], outputs=(before,))
        steps = bare, Step("Add", (before, name), step.outputs, {}, step.node)
        made = program.with_steps(at, *steps, constants={name: moved})
    else:
        made = program.with_constant(at, slot, moved)
    return Trial(
        "axis",
        side,
        made,
        f"the {side}'s {step.op} has its {what} ({moved.size} values) along axis {own}, the {other_side(side)} "
        f"computes as along axis {axis}",
        f"along axis {axis} in the {side}",
        costs.AXIS,
        {side: {"axis": own}, "explained_by": {"axis": axis}},
    )
