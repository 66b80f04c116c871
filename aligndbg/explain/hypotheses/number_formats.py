"""What a number format does: rounding to fp16 or bf16, overflow past its range, and where NaN and Inf begin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aligndbg.canonical.program import Program
from aligndbg.core.types import Array
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Half, Trial
from aligndbg.explain.constant_roles import role_constants
from aligndbg.explain.hypothesis import Hypothesis, other_side
from aligndbg.explain.rounding import NUMBER_FORMATS, round_to
from aligndbg.explain.thresholds import COMPUTED_IN
from aligndbg.measure.masks import huge_values

__all__ = ["Nonfinite", "Precision"]


HALVES = ("float16", "bfloat16")
MASK_CHANGE = "write the mask as a finite value (the dtype's lowest), or keep a key that no row masks"
LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38}


class Precision(Hypothesis):
    """The result, the inputs, or the weights of one side, rounded as the other's seem to be."""

    name = "precision"

    def applies(self, case: Case) -> bool:
        return case.quant is None and bool(np.isfinite(case.before))

    def trials(self, case: Case) -> Iterator[Trial]:
        for side in ("reference", "candidate"):
            value = case.half(side).value
            for to in HALVES:
                words = f"the {other_side(side)}'s result is the {side}'s rounded to {to}"
                yield _rounded(side, round_to(value, to), words, costs.ROUNDED_RESULT, to)
        for side, program in case.programs(plain=False):
            fed = case.half(side).feeds
            for to in HALVES:
                feeds = {k: round_to(v, to) if v.dtype.kind == "f" else v for k, v in fed.items()}
                words = f"the {other_side(side)} computes from inputs rounded to {to}"
                yield _rounded(side, program, words, costs.ROUNDED_INPUTS, to, feeds)
        for side, program in case.programs() if len(list(case.programs())) == 1 else ():
            for constant in role_constants(program):
                for to in NUMBER_FORMATS if constant.role == "weight" else ():
                    words = f"the {other_side(side)}'s weights of {constant.op} are rounded to {to}"
                    made = constant.put(round_to(constant.value, to))
                    yield _rounded(side, made, words, costs.ROUNDED_WEIGHTS, to)


def _rounded(
    side: str, made: Program | Array, words: str, cost: float, to: str, feeds: dict[str, Array] | None = None
) -> Trial:
    return Trial("precision", side, made, words, f"with the {side}'s rounded so", cost, {"to": to}, feeds)


class Nonfinite(Hypothesis):
    """NaN or Inf on one side only: overflow where the other's value is past a format's range, else where it begins."""

    name = "nonfinite"

    def applies(self, case: Case) -> bool:
        r, c = (np.isfinite(case.aligned(s, case.half(s).value)) for s in ("reference", "candidate"))
        return not np.array_equal(r, c)

    def trials(self, case: Case) -> Iterator[Trial]:
        for side in ("reference", "candidate"):
            other = other_side(side)
            theirs = case.aligned(other, case.half(other).value)
            ours = case.aligned(side, case.half(side).value)
            lost = np.isfinite(ours) & ~np.isfinite(theirs)
            if not lost.any():
                continue
            details = _counts(theirs, lost) | {"on": other, "largest_there": float(np.max(np.abs(ours[lost])))}
            origin = _origin(case, side, ours, theirs, lost, details)
            yield from _mask(origin, other, ours, theirs, lost)
            yield from _overflow(case, side, ours, lost, details)
            yield origin


def _divided(case: Case, side: str) -> str:
    """That the other side divides by zero there, and by what this one does; "" where it does not."""
    other = other_side(side)
    zero, ours = _divisor(case.half(other)), _divisor(case.half(side))
    lost = ~np.isfinite(case.half(other).value)
    if zero is None or zero[lost].any():
        return ""
    here = (
        ""
        if ours is None
        else f", where the {side} divides by {float(np.min(np.abs(ours), initial=np.inf)):.2g} at least"
    )
    return f": a division by zero{here} (an epsilon may have been rounded to zero)"


def _divisor(half: Half) -> Array | None:
    """What a region of one operator divides by, at each of its results."""
    if len(half.nodes) != 1 or half.nodes[0].canonical not in ("Div", "Reciprocal"):
        return None
    value = half.feeds.get(half.nodes[0].inputs[-1])
    try:
        return None if value is None else np.broadcast_to(value, half.value.shape)
    except ValueError:
        return None


def _counts(value: Array, lost: Array) -> dict[str, float]:
    return {"nan": int(np.isnan(value[lost]).sum()), "inf": int(np.isinf(value[lost]).sum()), "of": int(value.size)}


def _mask(origin: Trial, other: str, ours: Array, theirs: Array, lost: Array) -> Iterator[Trial]:
    """A mask that is written as an infinity on the other side, as a huge value on this one."""
    infinite = math.copysign(math.inf, float(ours[lost][0]))
    if not huge_values(ours)[lost].all() or not (theirs[lost] == infinite).all():
        return
    words = (
        f"the {other}'s mask is {infinite} where the {origin.side}'s is "
        f"{float(ours[lost].mean()):.4g} ({int(lost.sum())} places): a row masked throughout is NaN after a softmax"
    )
    details = {**origin.details, "change": MASK_CHANGE}
    yield replace(origin, summary=words, change="with these left out", cost=costs.INFINITE_MASK, details=details)


def _overflow(case: Case, side: str, ours: Array, lost: Array, details: dict[str, object]) -> Iterator[Trial]:
    other = other_side(side)
    for number_format, largest in LARGEST.items():
        past = np.abs(ours) > largest
        if not past.any() or not np.array_equal(past, lost):
            continue
        made = round_to(case.half(side).value.astype(np.float32), number_format)
        words = (
            f"the {other} overflows {number_format}: {int(past.sum())} values are over {largest:g}, "
            f"the largest {float(np.max(np.abs(ours[past]))):.4g}"
        )
        change = f"with the {side}'s result cast to {number_format}"
        found, floor = {**details, "limit": largest}, COMPUTED_IN[number_format]
        yield Trial("overflow", side, made, words, change, costs.OVERFLOW, found, floor=floor)


def _origin(case: Case, side: str, ours: Array, theirs: Array, lost: Array, details: dict[str, object]) -> Trial:
    """The other side's own values where they are finite: whether NaN and Inf are all that is wrong."""
    other = other_side(side)
    fed = [v for v in case.half(other).feeds.values() if v.dtype.kind == "f"]
    clean = all(bool(np.isfinite(v).all()) for v in fed)
    first = "they begin here: every input of it is finite" if clean else "its inputs have some already"
    words = (
        f"{int(lost.sum())} of {theirs.size} values are NaN or Inf on the {other} only; {first}{_divided(case, side)}"
    )
    patched = np.where(np.isfinite(ours), ours, 0.0)
    patched[lost] = theirs[lost]
    layout = case.pair.layout
    made = layout.to_candidate(patched) if side == "candidate" else patched
    change = "with those left out"
    return Trial("nonfinite", side, made, words, change, costs.NONFINITE, {**details, "inputs_finite": clean})
