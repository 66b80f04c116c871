"""Weights, biases, factors: which constant differs, in which channels and how; proved by putting the other one in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligndbg.core.types import Array
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.constant_roles import ConstantPair, RoleConstant, pair_constants, role_constants
from aligndbg.explain.folding import LINEAR
from aligndbg.explain.hypothesis import Hypothesis, other_side
from aligndbg.explain.rounding import held_format, rounded_to
from aligndbg.explain.thresholds import (
    CHANNEL_REL,
    EQUAL_WEIGHTS,
    FORM_LEAVES,
    FORM_LEAVES_QUANTIZED,
    OF_WORST_CHANNEL,
    REARRANGED_REL,
    SMALL_CHANNEL,
)
from aligndbg.measure.masks import huge_values

__all__ = ["Constants"]


NAMED_CHANNELS = 12  # as many are named one by one


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
    from_files = True

    def applies(self, case: Case) -> bool:
        return len(list(case.programs())) == 2

    def trials(self, case: Case) -> Iterator[Trial]:
        plain = dict(case.programs())
        pairs, lone_r, lone_c = pair_constants(role_constants(plain["reference"]), role_constants(plain["candidate"]))
        differing = [p for p in pairs if p.apart > EQUAL_WEIGHTS]
        for pair in differing:
            yield from _both_ways(case, pair)
        if len(differing) > 1:
            yield from _together(case, differing)
        yield from _without_conv_bias(case)
        for side, lone in (("reference", lone_r), ("candidate", lone_c)):
            for constant in lone:
                yield from _neutral(side, constant)


def _both_ways(case: Case, pair: ConstantPair) -> Iterator[Trial]:
    form = describe(case, pair)
    for side, constant, value in (("candidate", pair.candidate, pair.ours), ("reference", pair.reference, pair.theirs)):
        change = f"with the {other_side(side)}'s {_noun(constant)} in the {side}"
        yield Trial(form.kind, side, constant.put(value), form.words, change, form.cost, form.details)


def _together(case: Case, differing: Sequence[ConstantPair]) -> Iterator[Trial]:
    """Several at once: what folding a wrong normalization does to weights and bias."""
    forms = [describe(case, p) for p in differing]
    weights = [f for f, p in zip(forms, differing, strict=True) if p.reference.role in ("weight", "factor")]
    lead = max(weights or forms, key=lambda f: f.cost)
    changed = differing[0].candidate.put(differing[0].ours)
    for pair in differing[1:]:
        place = pair.candidate.step, pair.candidate.role
        again = next(s for s in role_constants(changed) if (s.step, s.role) == place)
        changed = again.put(pair.ours)
    words = "; ".join(dict.fromkeys(f.words for f in forms))
    change, cost = "with the reference's in the candidate", lead.cost + costs.ANOTHER_CONSTANT * (len(forms) - 1)
    yield Trial(lead.kind, "candidate", changed, words, change, cost, lead.details)


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
            change = f"without that bias in the {side}"
            yield Trial("missing_bias", side, changed, words, change, costs.CONV_BIAS_FORGOTTEN, {"step": k})


def _neutral(side: str, constant: RoleConstant) -> Iterator[Trial]:
    """A factor or a term that the other side does not have."""
    if constant.role not in ("factor", "term") or constant.absent:
        return
    value = np.ones_like(constant.value) if constant.role == "factor" else np.zeros_like(constant.value)
    few = 2 * np.count_nonzero(constant.value != value) <= constant.value.size  # only some channels do anything
    kind = ("weight" if few else "scale") if constant.role == "factor" else "bias" if few else "missing_bias"
    what = f"multiplies by {_span(constant.value)}" if constant.role == "factor" else f"adds {_span(constant.value)}"
    words = f"the {side}'s {constant.op} {what}, the {other_side(side)} does not"
    change, details = f"without it in the {side}", {"value": _some(constant.value)}
    yield Trial(kind, side, constant.put(value), words, change, costs.ONE_FACTOR, details)


def describe(case: Case, pair: ConstantPair) -> Form:
    """The kind and the words for how the candidate's constant differs from the reference's."""
    r, c = pair.reference.value.astype(np.float64), pair.theirs.astype(np.float64)
    role = pair.reference.role
    if role == "weight":
        return _weight(case, pair, r, c)
    if role == "term":
        return _term(pair, r.reshape(-1), c.reshape(-1))
    if role == "slope":
        words = f"the slopes of the PRelu differ in {_channels(r, c)}"
        return Form("activation", words, costs.SMALL_CONSTANT, _ratio(r, c))
    if role == "exponent":
        words = f"the candidate's exponent is {_span(c)}, the reference's {_span(r)}"
        return Form("weight", words, costs.SMALL_CONSTANT, _ratio(r, c))
    if role == "factor":
        ratio = _one_ratio(r, c)
        if ratio is not None:
            words = f"the candidate's factor is {ratio:.4g} times the reference's"
            return Form("scale", words, costs.ONE_FACTOR, {"ratio": ratio})
        words = f"the candidate's factor ({pair.candidate.op}) differs in {_channels(r, c)}"
        return Form("weight", words, costs.FACTOR_OR_NORM, _ratio(r, c))
    words = f"the candidate's {role} of the normalization differs in {_channels(r, c)}"
    return Form("weight", words, costs.FACTOR_OR_NORM, _ratio(r, c))


def _weight(case: Case, pair: ConstantPair, r: Array, c: Array) -> Form:
    op = pair.candidate.op
    rounding = rounded_to(pair.reference.value, pair.theirs)
    if rounding:
        whose, number_format = rounding
        words = f"the {whose}'s weights of {op} are the {other_side(whose)}'s rounded to {number_format}"
        return Form("precision", words, costs.ROUNDED_STORED_WEIGHTS, {"rounded": whose, "to": number_format})
    held = _held(case, pair)
    if held is not None:
        return held
    quantized = case.quant is not None
    ratio = _one_ratio(r, c, FORM_LEAVES_QUANTIZED if quantized else FORM_LEAVES)
    if ratio is not None:
        kind = "quantization_scale" if quantized else "scale"
        words = f"the candidate's weights of {op} are {ratio:.4g} times the reference's"
        return Form(kind, words, costs.ONE_FACTOR, {"ratio": ratio})
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
    return Form("weight", words, costs.FEW_CHANNELS if few else costs.MANY_CHANNELS, details)


def _held(case: Case, pair: ConstantPair) -> Form | None:
    """One side's weights, as its file has them, hold values of a smaller type only: folding hides it afterwards."""
    formats = {}
    for side, constant in (("reference", pair.reference), ("candidate", pair.candidate)):
        program = case.half(side).program
        if program is None:
            return None
        own = [program.constant(s, 1) for s in program.steps if s.node == constant.node and s.op in LINEAR]
        formats[side] = held_format(own[0], pair.apart) if len(own) == 1 and own[0] is not None else None
    sides = [side for side, held in formats.items() if held]
    if len(sides) != 1:
        return None
    side = sides[0]
    words = (
        f"the {side}'s weights of {pair.candidate.op} hold {formats[side]} values only, and differ from the "
        f"{other_side(side)}'s by that rounding ({pair.apart:.1e})"
    )
    return Form("precision", words, costs.WEIGHTS_IN_A_FORMAT, {"rounded": side, "to": formats[side]})


def _rearranged(case: Case, pair: ConstantPair, r: Array, c: Array) -> Form | None:
    """Input channels in another order, the kernel flipped or transposed."""
    op = pair.candidate.op

    def same(other: Array) -> bool:
        return other.shape == c.shape and float(np.linalg.norm(other - c)) <= REARRANGED_REL * float(np.linalg.norm(c))

    for axis in range(2, r.ndim):
        if r.shape[axis] > 1 and same(np.flip(r, axis)):
            words = f"the candidate's kernel of {op} is flipped on axis {axis}"
            return Form("flip", words, costs.WEIGHTS_REARRANGED, {"axis": axis})
    if r.ndim == 4 and same(r.transpose(0, 1, 3, 2)):
        words = f"the candidate's kernel of {op} has height and width swapped"
        return Form("layout", words, costs.WEIGHTS_REARRANGED, {"axes": [2, 3]})
    for axis, what in ((1, "input"), (0, "output")):
        order = _order(r, c, axis) if r.ndim > axis and 1 < r.shape[axis] <= 4096 else None
        if order is not None and same(np.take(r, order, axis)):
            first = axis == 1 and any(
                i in case.half("candidate").own.graph.inputs for i in case.half("candidate").feeds
            )
            kind = "input_channel_order" if first else "channel_order"
            shown = str(list(order)) if len(order) <= NAMED_CHANNELS else f"{len(order)} channels"
            words = (
                f"the candidate's weights of {op} have their {what} channels in the order {shown} of the reference's"
            )
            return Form(kind, words, costs.WEIGHTS_REARRANGED, {"axis": axis, "order": [int(i) for i in order]})
    return None


def _order(r: Array, c: Array, axis: int) -> Array | None:
    """The permutation that sorts the channels alike, by a weighted sum that tells them apart."""
    a, b = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v in (r, c))
    mark = np.random.default_rng(0).standard_normal(a.shape[1])
    x, y = a @ mark, b @ mark
    order = np.empty(x.size, np.int64)
    order[np.argsort(y, kind="stable")] = np.argsort(x, kind="stable")
    return None if np.array_equal(order, np.arange(x.size)) else order


def _term(pair: ConstantPair, r: Array, c: Array) -> Form:
    op = pair.candidate.op
    for side, mine, other in (("candidate", c, r), ("reference", r, c)):
        if not mine.any() and 2 * np.count_nonzero(other) > other.size:
            words = f"the {side}'s {op} has no bias; the {other_side(side)}'s is {_span(other)}"
            return Form("missing_bias", words, costs.BIAS_MISSING, {"missing_on": side, "bias": _some(other)})
    rounding = rounded_to(r.astype(np.float32), c.astype(np.float32))
    if rounding and rounding[1] != "int8":
        words = f"the {rounding[0]}'s bias of {op} is the {other_side(rounding[0])}'s rounded to {rounding[1]}"
        return Form("precision", words, costs.ROUNDED_STORED_BIAS, {"rounded": rounding[0], "to": rounding[1]})
    scale = float(np.max(np.abs(r[~huge_values(r)]), initial=0.0))
    channels = _differing(r.reshape(-1, 1), c.reshape(-1, 1), scale)
    details = {"channels": channels[:100], "difference": [float(c[k] - r[k]) for k in channels[:100]]}
    words = f"the candidate's bias of {op} differs in {_named(channels, r.size)}"
    return Form("bias", words, costs.BIAS, details)


def _one_ratio(r: Array, c: Array, leaves: float = FORM_LEAVES) -> float | None:
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
    limit = CHANNEL_REL * np.maximum(norm, SMALL_CHANNEL * float(np.max(norm, initial=0.0)))
    worst = OF_WORST_CHANNEL * float(np.max(apart, initial=0.0))
    return [int(k) for k in np.flatnonzero((apart > limit) & (apart > worst))]


def _channels(r: Array, c: Array) -> str:
    return _named(_differing(np.atleast_1d(r), np.atleast_1d(c)), np.atleast_1d(r).shape[0])


def _named(channels: Sequence[int], total: int) -> str:
    if total == 1:
        return "its one value"
    if len(channels) == total:
        return f"all {total} channels"
    shown = ", ".join(map(str, channels[:NAMED_CHANNELS])) + (", ..." if len(channels) > NAMED_CHANNELS else "")
    return f"channel{'s' if len(channels) > 1 else ''} {shown} of {total}"


def _ratio(r: Array, c: Array) -> dict[str, Any]:
    return {"reference": _some(r), "candidate": _some(c)}


def _some(value: Array) -> list[float]:
    return [float(v) for v in value.reshape(-1)[:32]]


def _span(value: Array) -> str:
    low, high = float(np.min(value)), float(np.max(value))
    return f"{low:.4g}" if low == high else f"{low:.3g} to {high:.3g}"


def _noun(constant: RoleConstant) -> str:
    return {"weight": "weights", "term": "bias", "slope": "slopes"}.get(constant.role, constant.role)
