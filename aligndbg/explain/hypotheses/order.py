"""The right values in the wrong place: operands, parts of a Concat, axes, channels, memory read in another shape."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError, Step
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypothesis import Hypothesis, other_side
from aligndbg.explain.thresholds import FEWEST_DISTINCT, REARRANGED_REL

__all__ = ["Arrangement", "Operands", "channel_order"]


MAX_PARTS, MAX_RANK, MAX_ORDERS = 6, 5, 30
NOT_COMMUTATIVE = ("Sub", "Div", "Pow", "MatMul", "Less", "Greater")


class Operands(Hypothesis):
    """x - y for y - x, and the parts of a Concat in another order."""

    name = "operands"

    def applies(self, case: Case) -> bool:
        return any(
            s.op in (*NOT_COMMUTATIVE, "Concat", "Where") for _, p in case.programs(plain=False) for s in p.steps
        )

    def trials(self, case: Case) -> Iterator[Trial]:
        for side, program in case.programs(plain=False):
            for at, step in reversed(list(enumerate(program.steps))):
                if step.op in NOT_COMMUTATIVE and len(step.inputs) == 2:
                    yield _operands(program, side, at, (1, 0))
                elif step.op == "Where":
                    yield _operands(program, side, at, (0, 2, 1))
                elif step.op == "Concat":
                    for order in _orders(len(step.inputs)):
                        yield _operands(program, side, at, order)


def _orders(count: int) -> Iterator[tuple[int, ...]]:
    """Every order of a few parts; of many, every two exchanged."""
    if count <= 3:
        yield from itertools.islice(itertools.permutations(range(count)), 1, None)
        return
    for i, j in itertools.combinations(range(min(count, 2 * MAX_PARTS)), 2):
        order = list(range(count))
        order[i], order[j] = j, i
        yield tuple(order)
    yield tuple(range(count))[::-1]


def _operands(program: Program, side: str, at: int, order: Sequence[int]) -> Trial:
    step = program.steps[at]
    what = "operands" if step.op != "Concat" else f"parts, here {list(order)},"
    words = f"the {other_side(side)}'s {step.op} takes its {what} in another order than the {side}'s"
    change = f"with them exchanged in the {side}"
    changed = program.with_inputs(at, [step.inputs[i] for i in order])
    return Trial("operand_order", side, changed, words, change, costs.OPERANDS, {"order": list(order)})


class Arrangement(Hypothesis):
    """Axes exchanged, an axis reversed, channels in another order, memory reshaped without the transpose before it."""

    name = "arrangement"

    def applies(self, case: Case) -> bool:
        return case.half("reference").value.size > 1

    def trials(self, case: Case) -> Iterator[Trial]:
        yield from _of_values(case)
        for side, program in case.programs():
            yield from _perms(case, side, program)
            yield from _reshapes(case, side, program)


def _of_values(case: Case) -> Iterator[Trial]:
    """What can be seen at the output alone, whatever computed it: the reference's value rearranged."""
    layout = case.pair.layout
    r, c = case.half("reference").value, layout.to_reference(case.half("candidate").value)
    for axis, size in enumerate(r.shape):
        if size > 1:
            words = f"the candidate's result is the reference's reversed along axis {axis}"
            change = "with the reference's reversed"
            yield Trial("flip", "reference", np.flip(r, axis), words, change, costs.FLIPPED, {"axis": axis})
    for perm in _permutations(r.shape):
        words = f"the candidate's result is the reference's with axes in the order {list(perm)}"
        change = "with the reference's transposed so"
        moved, so = r.transpose(perm), {"permutation": list(perm)}
        yield Trial("layout", "reference", moved, words, change, costs.TRANSPOSED, so)
    packed = r.reshape([d for d in r.shape if d != 1])
    for perm in _all_permutations(packed.ndim):
        change = "with the reference's memory read so"
        read_so = {"permutation": list(perm), "reshaped": True}
        words = f"the candidate's result is the reference's read in the order {list(perm)} of its axes and reshaped"
        made = np.ascontiguousarray(packed.transpose(perm)).reshape(r.shape)
        yield Trial("layout", "reference", made, words, change, costs.RESHAPED, read_so)
        back = packed.reshape([packed.shape[p] for p in perm]).transpose(np.argsort(perm)).reshape(r.shape)
        words = f"the candidate's result is the reference's memory read as axes in the order {list(perm)}"
        yield Trial("layout", "reference", back, words, change, costs.RESHAPED, read_so)
    for axis in range(r.ndim):
        order = channel_order(r, c, axis)
        if order is not None:
            shown = str(order) if len(order) <= 16 else f"{order[:8]} ... of {len(order)}"
            words = f"the candidate's axis {axis} holds the reference's channels in the order {shown}"
            details = {"axis": axis, "order": order, "shuffle_groups": _groups(order)}
            change = "with the reference's in that order"
            many = costs.CHANNELS_SHUFFLED if details["shuffle_groups"] else costs.MANY_CHANNELS_REORDERED
            cost = costs.CHANNELS_REORDERED if len(order) <= 16 else many
            yield Trial("channel_order", "reference", np.take(r, order, axis), words, change, cost, details)


def channel_order(r: Array, c: Array, axis: int) -> list[int] | None:
    """The order in which `c` holds the slices of `r` along an axis, by their sorted sums; None for the same order."""
    size = r.shape[axis]
    if not 1 < size <= 8192 or r.shape != c.shape or not (np.isfinite(r).all() and np.isfinite(c).all()):
        return None
    if r.size == size and not _same_values(r.reshape(-1), c.reshape(-1)):
        return None
    marks = []
    for value in (r, c):
        rows = np.moveaxis(value, axis, 0).reshape(size, -1).astype(np.float64)
        weights = np.random.default_rng(1).standard_normal(rows.shape[1])
        marks.append(rows @ weights)
    order = np.empty(size, np.int64)
    order[np.argsort(marks[1], kind="stable")] = np.argsort(marks[0], kind="stable")
    return None if np.array_equal(order, np.arange(size)) else [int(i) for i in order]


def _same_values(r: Array, c: Array) -> bool:
    """Whether single values are the same ones: sorting brings any two of one distribution near."""
    a, b = np.sort(r), np.sort(c)
    apart = float(np.max(np.abs(a - b)))
    return np.unique(r).size >= FEWEST_DISTINCT and apart <= REARRANGED_REL * float(np.min(np.diff(np.unique(a))))


def _groups(order: Sequence[int]) -> int | None:
    """The number of groups, where the order is ShuffleNet's channel shuffle."""
    count = len(order)
    for groups in range(2, count):
        if count % groups == 0 and list(np.arange(count).reshape(groups, -1).T.reshape(-1)) == list(order):
            return groups
    return None


def _permutations(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Orders of the axes that keep the shape, the given one left out."""
    if len(shape) <= MAX_RANK:
        for perm in itertools.islice(itertools.permutations(range(len(shape))), 1, None):
            moved = [a for a in perm if shape[a] > 1]
            if tuple(shape[a] for a in perm) == tuple(shape) and moved != sorted(moved):
                yield perm


def _all_permutations(rank: int) -> Iterator[tuple[int, ...]]:
    if 2 <= rank <= 4:
        yield from itertools.islice(itertools.permutations(range(rank)), 1, None)


def _perms(case: Case, side: str, program: Program) -> Iterator[Trial]:
    """Another order of axes in each Transpose, of those that keep its shape."""
    for at, step in enumerate(program.steps):
        if step.op != "Transpose" or "perm" not in step.attributes or not step.node:
            continue
        own = [int(p) for p in step.attributes["perm"]]
        shape = _shape(case, side, program, step.inputs[0])
        orders = itertools.permutations(range(len(own))) if len(own) <= 4 else _swaps(own)
        for perm in itertools.islice(orders, MAX_ORDERS):
            if list(perm) != own and shape is not None and [shape[p] for p in perm] == [shape[p] for p in own]:
                words = {side: str(own), other_side(side): str(list(perm))}
                yield Trial(
                    "layout",
                    side,
                    program.with_attributes(at, perm=list(perm)),
                    f"the candidate transposes by {words['candidate']}, the reference by {words['reference']}",
                    f"with {list(perm)} in the {side}",
                    costs.TRANSPOSE,
                    {side: {"perm": own}, other_side(side): {"perm": list(perm)}},
                )


def _shape(case: Case, side: str, program: Program, name: str) -> tuple[int, ...] | None:
    """The shape of a tensor inside a program; None where it cannot be run so far."""
    feeds = case.half(side).feeds
    if name in feeds or name in program.constants:
        return tuple((feeds[name] if name in feeds else program.constants[name]).shape)
    try:
        return tuple(program.run(feeds, [name])[0].shape)
    except CannotEvaluateError:
        return None


def _swaps(own: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for i, j in itertools.combinations(range(len(own)), 2):
        order = list(own)
        order[i], order[j] = order[j], order[i]
        yield tuple(order)


def _reshapes(case: Case, side: str, program: Program) -> Iterator[Trial]:
    """A transpose put before a Reshape: what a view of a permuted tensor means, and a copy does not."""
    for at, step in enumerate(program.steps):
        if step.op not in ("Reshape", "Flatten") or step.outputs[0] == "":
            continue
        shape = _shape(case, side, program, step.inputs[0])
        if shape is None:
            continue
        for perm in itertools.islice(_all_permutations(len(shape)), MAX_ORDERS):
            if (moved := [p for p in perm if shape[p] != 1]) == sorted(moved):
                continue
            name = f"{step.outputs[0]}:permuted"
            steps = (
                Step("Transpose", step.inputs[:1], (name,), {"perm": list(perm)}, step.node),
                replace(step, inputs=(name, *step.inputs[1:])),
            )
            words = f"the {other_side(side)} transposes by {list(perm)} before it reshapes, the {side} does not"
            change = f"with that transpose in the {side}"
            made, cost = program.with_steps(at, *steps), costs.TRANSPOSE_BEFORE_RESHAPE
            yield Trial("layout", side, made, words, change, cost, {"permutation": list(perm)})
