"""What an operator reads beside the values that are fed: another table, a state that one side leaves out, an axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from aligndbg.canonical.program import Program
from aligndbg.core.types import Array
from aligndbg.explain import costs
from aligndbg.explain.case import SIDES, Case, Trial
from aligndbg.explain.constant_roles import has_role
from aligndbg.explain.hypotheses.attribute import same_operators
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Given"]


ELSEWHERE = {"pads", "min", "max", "roi", "scales", "sizes"}  # other hypotheses try these


class Given(Hypothesis):
    """An operator of both sides whose constant at one slot differs, or that has an input there on one side only."""

    name = "given"
    from_files = True

    def applies(self, case: Case) -> bool:
        return len(list(case.programs())) == 2

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs())
        for at in same_operators(both):
            slots = []
            for slot, name in enumerate(both["reference"].slots(at["reference"])):
                if name in ELSEWHERE or has_role(both["reference"].steps[at["reference"]].op, name, slot):
                    continue
                reads = [_reads(both[side], at[side], slot) for side in SIDES]
                single = _one_sided if bool(reads[0]) != bool(reads[1]) else _other_constant
                found = list(single(both, at, slot, name)) if any(reads) else []
                slots += [(slot, found[0].summary)] if found else []
                yield from found
            if len(slots) > 1:
                yield from _together(both, at, slots)


def _together(both: Mapping[str, Program], at: Mapping[str, int], slots: Sequence[tuple[int, str]]) -> Iterator[Trial]:
    """All that differ at once: where a slice begins goes with where it ends."""
    for side in reversed(SIDES):
        theirs, made = both[other_side(side)], both[side]
        step = theirs.steps[at[other_side(side)]]
        for slot, _ in slots:
            value = theirs.constant(step, slot)
            if value is not None:
                made = made.with_constant(at[side], slot, value)
            elif slot < len(made.steps[at[side]].inputs):
                inputs = made.steps[at[side]].inputs
                made = made.with_inputs(at[side], [*inputs[:slot], "", *inputs[slot + 1 :]])
        words = "; ".join(said for _, said in slots)
        change = f"with the {other_side(side)}'s in the {side}"
        yield Trial("attribute", side, made, words, change, costs.OTHERS_ATTRIBUTES, {"slots": [s for s, _ in slots]})


def _reads(program: Program, at: int, slot: int) -> str:
    inputs = program.steps[at].inputs
    return inputs[slot] if slot < len(inputs) else ""


def _one_sided(both: Mapping[str, Program], at: Mapping[str, int], slot: int, name: str) -> Iterator[Trial]:
    """Left out where it is; given, where it is a constant, to the side that lacks it."""
    has = next(side for side in SIDES if _reads(both[side], at[side], slot))
    lacks, program = other_side(has), both[has]
    step = program.steps[at[has]]
    value = program.constant(step, slot)
    if name.startswith("initial") and value is not None and not value.any():
        return  # which is what no state means
    words = f"the {has}'s {step.op} is given {name}, the {lacks}'s is not"
    kind, details = _kind(name, value), {has: {name: "given"}, lacks: {name: "absent"}}
    inputs = [*step.inputs[:slot], "", *step.inputs[slot + 1 :]]
    without = program.with_inputs(at[has], inputs)
    yield Trial(kind, has, without, words, f"without it in the {has}", costs.OTHERS_ATTRIBUTE, details)
    if value is not None:
        given = both[lacks].with_constant(at[lacks], slot, value)
        yield Trial(kind, lacks, given, words, f"with it in the {lacks}", costs.OTHERS_ATTRIBUTE, details)


def _other_constant(both: Mapping[str, Program], at: Mapping[str, int], slot: int, name: str) -> Iterator[Trial]:
    held = {side: both[side].constant(both[side].steps[at[side]], slot) for side in SIDES}
    r, c = held["reference"], held["candidate"]
    if r is None or c is None or r.dtype.kind != c.dtype.kind or np.array_equal(r, c):
        return
    op = both["candidate"].steps[at["candidate"]].op
    if r.size > 8 or c.size > 8:
        what = "another table" if name == "data" else f"other {name}"
        words = f"the candidate's {op} reads {what} than the reference's ({_apart(r, c)})"
        kept = {side: {"shape": list(value.shape)} for side, value in (("reference", r), ("candidate", c))}
    else:
        words = f"the candidate's {op} has {name} {c.tolist()}, the reference's {r.tolist()}"
        kept = {"reference": {name: r.tolist()}, "candidate": {name: c.tolist()}}
    kind = "channel_order" if _reordered(name, r, c) else _kind(name, r)
    cost = costs.OTHER_TABLE if kind == "weight" else costs.OTHERS_ATTRIBUTE
    for side, value in (("candidate", r), ("reference", c)):
        made = both[side].with_constant(at[side], slot, value)
        yield Trial(kind, side, made, words, f"with the {other_side(side)}'s in the {side}", cost, kept)


def _reordered(name: str, r: Array, c: Array) -> bool:
    """The same places in another order."""
    return name == "indices" and r.size > 1 and np.array_equal(np.sort(r, axis=None), np.sort(c, axis=None))


def _apart(r: Array, c: Array) -> str:
    if r.shape != c.shape:
        return f"of shape {list(c.shape)} for {list(r.shape)}"
    differing = np.any((r != c).reshape(len(r), -1), axis=1) if r.ndim else np.array([True])
    return f"{int(differing.sum())} of {differing.size} rows differ"


def _kind(name: str, value: Array | None) -> str:
    if name == "constant_value":
        return "padding"
    if name.startswith("initial"):
        return "attribute"
    return "weight" if value is not None and value.dtype.kind == "f" and value.ndim > 1 else "attribute"
