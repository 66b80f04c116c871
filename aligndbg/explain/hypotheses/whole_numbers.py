"""How a number becomes a whole one: cut off, rounded down, rounded to the nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aligndbg.canonical.evaluate import Step
from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["WholeNumbers"]


ROUNDINGS = ("Floor", "Round", "Ceil")
INTEGERS = (2, 3, 4, 5, 6, 7, 12, 13)  # of TensorProto.DataType


class WholeNumbers(Hypothesis):
    """A rounding taken away, replaced, put before a Cast to integers; floor for a division that cuts off."""

    name = "whole_numbers"

    def applies(self, case: Case) -> bool:
        return any(s.op in (*ROUNDINGS, "Cast", "Div") for _, p in case.programs(plain=False) for s in p.steps)

    def trials(self, case: Case) -> Iterator[Trial]:
        for side, program in case.programs(plain=False):
            for at, step in enumerate(program.steps):
                if step.op in ROUNDINGS:
                    yield _trial(side, program.bypassed(at), f"applies {step.op}", "without it")
                    for other in ROUNDINGS:
                        if other != step.op:
                            made = program.with_steps(at, replace(step, op=other))
                            yield _trial(side, made, f"applies {step.op}", f"with {other}")
                elif step.op == "Cast" and step.attributes.get("to") in INTEGERS:
                    for before in ROUNDINGS:
                        yield _trial(
                            side, _before(program, at, before), "casts to integers", f"with {before} before it"
                        )
                elif step.op == "Div" and _integers(case, side, program, step):
                    yield _trial(
                        side, _floored(program, at), "cuts the quotient off (towards zero)", "rounding it down"
                    )


def _integers(case: Case, side: str, program: Program, step: Step) -> bool:
    feeds = case.half(side).feeds
    known = [feeds.get(i, program.constants.get(i)) for i in step.inputs]
    value = next((v for v in known if v is not None), None)
    return (program.run(feeds, step.inputs[:1])[0] if value is None else value).dtype.kind in "iu"


def _before(program: Program, at: int, op: str) -> Program:
    step, name = program.steps[at], f"{program.steps[at].outputs[0]}:{op}"
    return program.with_steps(at, Step(op, step.inputs[:1], (name,)), replace(step, inputs=(name, *step.inputs[1:])))


def _floored(program: Program, at: int) -> Program:
    """(a - a mod b) / b, whose remainder has the divisor's sign."""
    step = program.steps[at]
    (a, b), rest, whole = step.inputs, f"{step.outputs[0]}:rest", f"{step.outputs[0]}:whole"
    mod, less = Step("Mod", (a, b), (rest,)), Step("Sub", (a, rest), (whole,))
    return program.with_steps(at, mod, less, replace(step, inputs=(whole, b)))


def _trial(side: str, made: Program, does: str, other: str) -> Trial:
    return Trial(
        "attribute",
        side,
        made,
        f"the {side} {does}, the {other_side(side)} computes as {other}",
        f"{other} in the {side}",
        costs.ROUNDING,
        {"rounding": does, "explained_by": other, "on": side, "change": "round the same way on both sides"},
    )
