"""Weights, biases, factors: which constant differs, in which channels and how; proved by putting the other one in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligndbg.core.types import Array
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.constant_roles import Slot, SlotPair, pair_slots, slots
from aligndbg.explain.folding import LINEAR
from aligndbg.explain.hypothesis import Hypothesis, other_side
from aligndbg.explain.rounding import held_grid, rounded_to

__all__ = ["Constants"]


EQUAL = 2e-6  # relative: folding in float32 moves a weight by so much
OF_DIFFERENCE = 0.02  # a form explains the difference of two weights when it leaves no more of it
MANY = 12  # channels that are named one by one


@dataclass(frozen=True)
class Form:
    """How one constant differs from the other: the kind of cause, in words, and how many numbers that takes."""

    kind: str
    words: str
    cost: float
    details: dict[str, Any]


class Constants(Hypothesis):
    """Each constant that differs replaced by the other side's; then all that differ in one operator together."""

    name = "constants"

    def applies(self, case: Case) -> bool:
        return len(list(case.programs())) == 2

    def trials(self, case: Case) -> Iterator[Trial]:
        plain = dict(case.programs())
        pairs, lone_r, lone_c = pair_slots(slots(plain["reference"]), slots(plain["candidate"]))
        differing = [p for p in pairs if p.apart > EQUAL]
        for pair in differing:
            yield from _both_ways(case, pair)
        if len(differing) > 1:
            yield from _together(case, differing)
        yield from _without_conv_bias(case)
        for side, lone in (("reference", lone_r), ("candidate", lone_c)):
            for slot in lone:
                yield from _neutral(side, slot)


def _both_ways(case: Case, pair: SlotPair) -> Iterator[Trial]:
    form = describe(case, pair)
    for side, slot, value in (("candidate", pair.candidate, pair.ours), ("reference", pair.reference, pair.theirs)):
        change = f"with the {other_side(side)}'s {_noun(slot)} in the {side}"
        yield Trial(form.kind, side, slot.put(value), form.words, change, form.cost, form.details)


def _together(case: Case, differing: Sequence[SlotPair]) -> Iterator[Trial]:
    """Several at once: what folding a wrong normalization does to weights and bias."""
    forms = [describe(case, p) for p in differing]
    weights = [f for f, p in zip(forms, differing, strict=True) if p.reference.role in ("weight", "factor")]
    lead = max(weights or forms, key=lambda f: f.cost)
    changed = differing[0].candidate.put(differing[0].ours)
    for pair in differing[1:]:
        again = next(s for s in slots(changed) if (s.step, s.role) == (pair.candidate.step, pair.candidate.role))
        changed = again.put(pair.ours)
    words = "; ".join(dict.fromkeys(f.words for f in forms))
    change = "with the reference's in the candidate"
    yield Trial(lead.kind, "candidate", changed, words, change, lead.cost + 0.7 * (len(forms) - 1), lead.details)


def _without_conv_bias(case: Case) -> Iterator[Trial]:
    """Batch normalization folded as beta - mean * factor, the convolution's own bias forgotten."""
    for side, program in case.programs(plain=False):
        for k, step in enumerate(program.steps):
            at = program.producer(step.inputs[0]) if step.op == "BatchNormalization" else None
            if at is None or program.steps[at].op not in LINEAR or program.constant(program.steps[at], 2) is None:
                continue
            words = (
                f"the {other_side(side)} folds the batch normalization without the bias of the {program.steps[at].op} "
                f"before it: its bias is beta - mean * scale"
            )
            changed = program.with_inputs(at, program.steps[at].inputs[:2])
            yield Trial("missing_bias", side, changed, words, f"without that bias in the {side}", 0.3, {"step": k})


def _neutral(side: str, slot: Slot) -> Iterator[Trial]:
    """A factor or a term that the other side does not have."""
    if slot.role not in ("factor", "term") or slot.absent:
        return
    value = np.ones_like(slot.value) if slot.role == "factor" else np.zeros_like(slot.value)
    few = 2 * np.count_nonzero(slot.value != value) <= slot.value.size  # only some channels do anything
    kind = ("weight" if few else "scale") if slot.role == "factor" else "bias" if few else "missing_bias"
    what = f"multiplies by {_span(slot.value)}" if slot.role == "factor" else f"adds {_span(slot.value)}"
    words = f"the {side}'s {slot.op} {what}, the {other_side(side)} does not"
    yield Trial(kind, side, slot.put(value), words, f"without it in the {side}", 1.0, {"value": _some(slot.value)})


def describe(case: Case, pair: SlotPair) -> Form:
    """The kind and the words for how the candidate's constant differs from the reference's."""
    r, c = pair.reference.value.astype(np.float64), pair.theirs.astype(np.float64)
    role = pair.reference.role
    if role == "weight":
        return _weight(case, pair, r, c)
    if role == "term":
        return _term(pair, r.reshape(-1), c.reshape(-1))
    if role == "slope":
        return Form("activation", f"the slopes of the PRelu differ in {_channels(r, c)}", 1.0, _ratio(r, c))
    if role == "exponent":
        return Form("weight", f"the candidate's exponent is {_span(c)}, the reference's {_span(r)}", 1.0, _ratio(r, c))
    if role == "factor":
        ratio = _one_ratio(r, c)
        if ratio is not None:
            words = f"the candidate's factor is {ratio:.4g} times the reference's"
            return Form("scale", words, 1.0, {"ratio": ratio})
        words = f"the candidate's factor ({pair.candidate.op}) differs in {_channels(r, c)}"
        return Form("weight", words, 1.5, _ratio(r, c))
    return Form(
        "weight", f"the candidate's {role} of the normalization differs in {_channels(r, c)}", 1.5, _ratio(r, c)
    )


def _weight(case: Case, pair: SlotPair, r: Array, c: Array) -> Form:
    op = pair.candidate.op
    rounding = rounded_to(pair.reference.value, pair.theirs)
    if rounding:
        whose, grid = rounding
        words = f"the {whose}'s weights of {op} are the {other_side(whose)}'s rounded to {grid}"
        return Form("precision", words, 0.3, {"rounded": whose, "to": grid})
    held = _held(case, pair)
    if held is not None:
        return held
    quantized = case.grid is not None
    ratio = _one_ratio(r, c, 0.2 if quantized else OF_DIFFERENCE)
    if ratio is not None:
        kind = "quantization_scale" if quantized else "scale"
        words = f"the candidate's weights of {op} are {ratio:.4g} times the reference's"
        return Form(kind, words, 1.0, {"ratio": ratio})
    moved = _rearranged(case, pair, r, c)
    if moved is not None:
        return moved
    channels = _differing(r, c)
    details = {"channels": channels[:100], "count": len(channels), "of": r.shape[0], "relative_difference": pair.apart}
    words = f"the candidate's weights of {op} differ in {_channels(r, c)}"
    if len(channels) == 1:
        one = _one_ratio(r[channels[0]], c[channels[0]])
        if one is not None:
            words = (
                f"the candidate's weights of {op} are {one:.4g} times the reference's in output channel {channels[0]}"
            )
            details["ratio"] = one
    few = len(channels) <= max(1, r.shape[0] // 4)
    return Form("weight", words, 1.5 if few else 3.0, details)


def _held(case: Case, pair: SlotPair) -> Form | None:
    """One side's weights, as its file has them, hold values of a smaller type only: folding hides it afterwards."""
    grids = {}
    for side, slot in (("reference", pair.reference), ("candidate", pair.candidate)):
        program = case.half(side).program
        if program is None:
            return None
        own = [program.constant(s, 1) for s in program.steps if s.node == slot.node and s.op in LINEAR]
        grids[side] = held_grid(own[0], pair.apart) if len(own) == 1 and own[0] is not None else None
    sides = [side for side, grid in grids.items() if grid]
    if len(sides) != 1:
        return None
    side = sides[0]
    words = (
        f"the {side}'s weights of {pair.candidate.op} hold {grids[side]} values only, and differ from the "
        f"{other_side(side)}'s by that rounding ({pair.apart:.1e})"
    )
    return Form("precision", words, 0.6, {"rounded": side, "to": grids[side]})


def _rearranged(case: Case, pair: SlotPair, r: Array, c: Array) -> Form | None:
    """Input channels in another order, the kernel flipped or transposed."""
    op = pair.candidate.op

    def same(other: Array) -> bool:
        return other.shape == c.shape and float(np.linalg.norm(other - c)) <= 1e-4 * float(np.linalg.norm(c))

    for axis in range(2, r.ndim):
        if r.shape[axis] > 1 and same(np.flip(r, axis)):
            return Form("flip", f"the candidate's kernel of {op} is flipped on axis {axis}", 0.5, {"axis": axis})
    if r.ndim == 4 and same(r.transpose(0, 1, 3, 2)):
        return Form("layout", f"the candidate's kernel of {op} has height and width swapped", 0.5, {"axes": [2, 3]})
    for axis, what in ((1, "input"), (0, "output")):
        order = _order(r, c, axis) if r.ndim > axis and 1 < r.shape[axis] <= 4096 else None
        if order is not None and same(np.take(r, order, axis)):
            first = axis == 1 and any(
                i in case.half("candidate").own.graph.inputs for i in case.half("candidate").feeds
            )
            kind = "input_channel_order" if first else "channel_order"
            shown = str(list(order)) if len(order) <= MANY else f"{len(order)} channels"
            words = (
                f"the candidate's weights of {op} have their {what} channels in the order {shown} of the reference's"
            )
            return Form(kind, words, 0.5, {"axis": axis, "order": [int(i) for i in order]})
    return None


def _order(r: Array, c: Array, axis: int) -> Array | None:
    """The permutation that sorts the channels alike, by a weighted sum that tells them apart."""
    a, b = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v in (r, c))
    mark = np.random.default_rng(0).standard_normal(a.shape[1])
    x, y = a @ mark, b @ mark
    order = np.empty(x.size, np.int64)
    order[np.argsort(y, kind="stable")] = np.argsort(x, kind="stable")
    return None if np.array_equal(order, np.arange(x.size)) else order


def _term(pair: SlotPair, r: Array, c: Array) -> Form:
    op = pair.candidate.op
    for side, mine, other in (("candidate", c, r), ("reference", r, c)):
        if not mine.any() and 2 * np.count_nonzero(other) > other.size:
            words = f"the {side}'s {op} has no bias; the {other_side(side)}'s is {_span(other)}"
            return Form("missing_bias", words, 0.5, {"missing_on": side, "bias": _some(other)})
    rounding = rounded_to(r.astype(np.float32), c.astype(np.float32))
    if rounding and rounding[1] != "int8":
        words = f"the {rounding[0]}'s bias of {op} is the {other_side(rounding[0])}'s rounded to {rounding[1]}"
        return Form("precision", words, 0.4, {"rounded": rounding[0], "to": rounding[1]})
    channels = _differing(r.reshape(-1, 1), c.reshape(-1, 1), float(np.max(np.abs(r))))
    details = {"channels": channels[:100], "difference": [float(c[k] - r[k]) for k in channels[:100]]}
    return Form("bias", f"the candidate's bias of {op} differs in {_named(channels, r.size)}", 1.2, details)


def _one_ratio(r: Array, c: Array, leaves: float = OF_DIFFERENCE) -> float | None:
    """The one factor between two constants, if there is one."""
    square = float(np.sum(r * r))
    if not square:
        return None
    ratio = float(np.sum(r * c)) / square
    left, whole = float(np.linalg.norm(c - ratio * r)), float(np.linalg.norm(c - r))
    return ratio if whole and left <= leaves * whole else None


def _differing(r: Array, c: Array, scale: float | None = None) -> list[int]:
    """Output channels whose values differ by more than rounding."""
    a, b = (v.reshape(v.shape[0], -1) for v in (r, c))
    apart = np.max(np.abs(a - b), axis=1, initial=0.0)
    norm = np.max(np.abs(a), axis=1, initial=0.0) if scale is None else np.full(a.shape[0], scale)
    limit = 1e-5 * np.maximum(norm, 1e-3 * float(np.max(norm, initial=0.0)))
    worst = 0.05 * float(np.max(apart, initial=0.0))  # on a quantized side every channel differs a little
    return [int(k) for k in np.flatnonzero((apart > limit) & (apart > worst))]


def _channels(r: Array, c: Array) -> str:
    return _named(_differing(np.atleast_1d(r), np.atleast_1d(c)), np.atleast_1d(r).shape[0])


def _named(channels: Sequence[int], total: int) -> str:
    if total == 1:
        return "its one value"
    if len(channels) == total:
        return f"all {total} channels"
    shown = ", ".join(map(str, channels[:MANY])) + (", ..." if len(channels) > MANY else "")
    return f"channel{'s' if len(channels) > 1 else ''} {shown} of {total}"


def _ratio(r: Array, c: Array) -> dict[str, Any]:
    return {"reference": _some(r), "candidate": _some(c)}


def _some(value: Array) -> list[float]:
    return [float(v) for v in value.reshape(-1)[:32]]


def _span(value: Array) -> str:
    low, high = float(np.min(value)), float(np.max(value))
    return f"{low:.4g}" if low == high else f"{low:.3g} to {high:.3g}"


def _noun(slot: Slot) -> str:
    return {"weight": "weights", "term": "bias", "factor": "factor", "slope": "slopes"}.get(slot.role, slot.role)
