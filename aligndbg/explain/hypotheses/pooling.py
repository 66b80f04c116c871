"""Which pooling: the largest or the mean, with or without the padding counted, rounded up or down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
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
        for side, program in case.programs():
            for at, step in enumerate(program.steps):
                for op in OTHERS.get(step.op, ()):
                    kept = {k: v for k, v in step.attributes.items() if k not in ONLY.get(step.op, ())}
                    changed = program.with_steps(at, replace(step, op=op, attributes=kept))
                    yield _trial(changed, side, step.op, op, f"with {op} in the {side}", costs.POOLING)
                flags = {"AveragePool": ("count_include_pad", "ceil_mode"), "MaxPool": ("ceil_mode",)}
                for flag in flags.get(step.op, ()):
                    own = int(step.attributes.get(flag, 0))
                    changed = program.with_attributes(at, **{flag: 1 - own})
                    words = f"{flag}={own}", f"{flag}={1 - own}", f"with {1 - own} in the {side}"
                    yield _trial(changed, side, *words, costs.POOLING_FLAG)


def _trial(changed: Program, side: str, own: str, other: str, change: str, cost: float) -> Trial:
    words = {side: own, other_side(side): other}
    return Trial(
        "pool_mode",
        side,
        changed,
        f"the candidate pools with {words['candidate']}, the reference with {words['reference']}",
        change,
        cost,
        {k: {"pooling": v} for k, v in words.items()},
    )
