"""Which pooling: the largest or the mean, with or without the padding counted, rounded up or down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypotheses.attribute import twins
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Pooling"]


OTHERS = {
    "MaxPool": ("AveragePool",),
    "AveragePool": ("MaxPool",),
    "GlobalAveragePool": ("GlobalMaxPool",),
    "GlobalMaxPool": ("GlobalAveragePool",),
    "ReduceMean": ("ReduceMax", "ReduceMin", "ReduceL2"),
    "ReduceMax": ("ReduceMean", "ReduceMin"),
    "ReduceSum": ("ReduceL1",),
}
ONLY = {"MaxPool": ("storage_order", "dilations"), "AveragePool": ("count_include_pad",)}


class Pooling(Hypothesis):
    """Another kind of pooling, then count_include_pad and ceil_mode the other way."""

    name = "pooling"

    def applies(self, case: Case) -> bool:
        return any(s.op in OTHERS for _, p in case.programs() for s in p.steps)

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs())
        known = twins(both)
        for side, program in both.items():
            theirs = {step.op for step in both[other_side(side)].steps} if len(both) == 2 else set()
            for at, step in enumerate(program.steps):
                if at in known[side]:
                    continue  # the other file has the same operator
                for op in OTHERS.get(step.op, ()):
                    kept = {k: v for k, v in step.attributes.items() if k not in ONLY.get(step.op, ())}
                    changed = program.with_steps(at, replace(step, op=op, attributes=kept))
                    yield _trial(changed, side, step.op, op, costs.POOLING, op in theirs)
                flags = {"AveragePool": ("count_include_pad", "ceil_mode"), "MaxPool": ("ceil_mode",)}
                for flag in flags.get(step.op, ()):
                    own = int(program.attributes(at).get(flag, 0))
                    changed = program.with_attributes(at, **{flag: 1 - own})
                    yield _trial(changed, side, f"{flag}={own}", f"{flag}={1 - own}", costs.POOLING_FLAG, False)


def _trial(changed: Program, side: str, own: str, other: str, cost: float, seen: bool) -> Trial:
    """`seen`: the other side's file has it so."""
    there = other_side(side)
    words = f"the {there} with {other}" if seen else f"the {there} computes as with {other}"
    return Trial(
        "pool_mode",
        side,
        changed,
        f"the {side} pools with {own}, {words}",
        f"with {other} in the {side}",
        cost,
        {side: {"pooling": own}, there if seen else "explained_by": {"pooling": other}},
        guess=not seen,
    )
