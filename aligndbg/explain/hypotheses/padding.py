"""Where a convolution or a pool pads, and by how much: SAME's odd row against symmetric padding, a shifted window."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Half, Trial
from aligndbg.explain.folding import WINDOWS
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Padding", "StrideOffset"]


MAX_SPLITS = 24


class Padding(Hypothesis):
    """The other side's pads where they are known, else every way to split the same total."""

    name = "padding"
    from_files = True

    def applies(self, case: Case) -> bool:
        return any(_windows(program) for _, program in case.programs())

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs())
        for side, program in both.items():
            theirs = both.get(other_side(side))
            known = _written(case.other(side)) if theirs is None else [pads for _, pads in _windows(theirs)]
            for n, (at, pads) in enumerate(_windows(program)):
                if n < len(known) and known[n] != pads and len(known[n]) == len(pads):
                    yield _trial(program, side, at, pads, known[n], costs.OTHERS_PADS)
                if theirs is None:
                    for split in _splits(pads):
                        yield _trial(program, side, at, pads, split, costs.PADS_SPLIT)


def _windows(program: Program) -> list[tuple[int, list[int]]]:
    """Index and spatial pads of each step that pads; zeros where it says nothing."""
    found = []
    for k, step in enumerate(program.steps):
        if step.op in WINDOWS:
            rank = len(step.attributes.get("kernel_shape") or ())
            weight = program.constant(step, 1)
            rank = rank or (weight.ndim - 2 if weight is not None else 0)
            found.append((k, [int(p) for p in step.attributes.get("pads") or [0] * (2 * rank)]))
        elif step.op == "Pad" and (pads := program.constant(step, 1)) is not None:
            found.append((k, [int(p) for p in pads.reshape(-1)]))
    return found


def _written(half: Half) -> list[list[int]]:
    """The pads that a side's operators say they have, where it cannot be run as a program."""
    return [list(n.attributes["pads"]) for n in half.nodes if n.canonical in WINDOWS and "pads" in n.attributes]


def _splits(pads: Sequence[int]) -> Iterator[list[int]]:
    """Other begins for the same totals, so that the shape stays; one more row on each side where nothing is padded."""
    half = len(pads) // 2
    totals = [pads[a] + pads[a + half] for a in range(half)]
    every = itertools.product(*(range(t + 1) for t in totals))
    for begins in itertools.islice(every, 4 * MAX_SPLITS):
        split = [*begins, *(t - b for t, b in zip(totals, begins, strict=True))]
        if split != list(pads):
            yield split


class StrideOffset(Hypothesis):
    """A strided slice that begins elsewhere: every second row from row 1, not from row 0."""

    name = "stride_offset"

    def applies(self, case: Case) -> bool:
        return any(True for _, program in case.programs(plain=False) for _ in _strided(program))

    def trials(self, case: Case) -> Iterator[Trial]:
        for side, program in case.programs(plain=False):
            for at, starts, steps in _strided(program):
                step = program.steps[at]
                for begins in itertools.islice(itertools.product(*(range(s) for s in steps)), MAX_SPLITS):
                    if list(begins) == starts:
                        continue
                    words = {side: str(starts), other_side(side): str(list(begins))}
                    yield Trial(
                        "stride_offset",
                        side,
                        program.with_constant(at, 1, np.array(begins, np.int64)),
                        f"the candidate's {step.op} takes every {steps} from {words['candidate']}, the reference's "
                        f"from {words['reference']}",
                        f"from {list(begins)} in the {side}",
                        costs.STRIDE_OFFSET,
                        {side: {"starts": starts}, other_side(side): {"starts": list(begins)}, "steps": steps},
                    )


def _strided(program: Program) -> Iterator[tuple[int, list[int], list[int]]]:
    """(index, starts, steps) of slices with steps over 1."""
    for k, step in enumerate(program.steps):
        starts, steps = program.constant(step, 1), program.constant(step, 4)
        if step.op == "Slice" and starts is not None and steps is not None and np.any(steps > 1) and np.all(steps > 0):
            yield k, [int(s) for s in starts], [int(s) for s in steps]


def _trial(program: Program, side: str, at: int, pads: list[int], other: list[int], cost: float) -> Trial:
    step = program.steps[at]
    if step.op == "Pad":
        changed = program.with_constant(at, 1, np.array(other, np.int64))
    else:
        changed = program.with_attributes(at, pads=other)
    words = {side: describe(pads), other_side(side): describe(other)}
    return Trial(
        "padding",
        side,
        changed,
        f"the candidate's {step.op} pads {words['candidate']}, the reference's {words['reference']}",
        f"with {'the ' + other_side(side) + chr(39) + 's'} padding in the {side}",
        cost,
        {side: {"pads": pads}, other_side(side): {"pads": other}, "strides": step.attributes.get("strides")},
    )


def describe(pads: Sequence[int]) -> str:
    """(begin, end) of each axis, once where all axes are alike: SAME's (0,1) against (1,1)."""
    half = len(pads) // 2
    axes = [(pads[a], pads[a + half]) for a in range(half)]
    if half > 3:
        axes = [a for a in axes if a != (0, 0)] or axes[:1]
    if len(set(axes)) == 1:
        return f"({axes[0][0]},{axes[0][1]})"
    names = "hw" if len(axes) == 2 else "dhw" if len(axes) == 3 else "x" * len(axes)
    return " ".join(f"{n}({b},{e})" for n, (b, e) in zip(names, axes, strict=True))
