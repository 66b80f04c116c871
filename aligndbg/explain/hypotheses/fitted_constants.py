"""Weights and biases of a side whose constants are unknown (a recording), from what it computed of known inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array
from aligndbg.explain.case import Case, Half, Trial
from aligndbg.explain.constant_roles import Slot, slots
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Fit"]


BENDS = {"Relu": (0.0, np.inf), "Clip": (-np.inf, np.inf)}  # what passes an activation unchanged
FEWEST = 8  # values that an affine fit of two numbers needs
LIKE = 1e-3  # of a channel's factor: as good as 1


@dataclass(frozen=True)
class _Linear:
    """The last linear step before the output, with the affine map of each channel that fits the other side."""

    step: int
    weight: Slot
    bias: Slot
    factor: Array
    term: Array


class Fit(Hypothesis):
    """candidate = reference * a + b in each output channel of the linear operator: one a, a few, or only b."""

    name = "fit"

    def applies(self, case: Case) -> bool:
        return len(list(case.programs())) == 1

    def trials(self, case: Case) -> Iterator[Trial]:
        for side, program in case.programs():
            other = other_side(side)
            for slot in slots(program):
                if slot.role == "term" and slot.value.any():
                    words = f"the {other}'s {slot.op} has no bias"
                    change = f"without it in the {side}"
                    yield Trial("missing_bias", side, slot.put(np.zeros_like(slot.value)), words, change, 0.5)
            found = _fitted(case, side, program)
            if found is not None:
                yield from _affine(case, side, found)


def _affine(case: Case, side: str, f: _Linear) -> Iterator[Trial]:
    other, change = other_side(side), f"with that in the {side}"
    ratio = float(np.median(f.factor))
    scaled = [k for k, a in enumerate(f.factor) if abs(a - 1) > LIKE]
    shape = (-1, *[1] * (f.weight.value.ndim - 1))
    words = f"the {other}'s weights of {f.weight.op} are {ratio:.4g} times the {side}'s"
    kind = "scale" if case.grid is None else "quantization_scale"
    yield Trial(kind, side, f.weight.put(f.weight.value * ratio), words, change, 1.0, {"ratio": ratio})
    term = f.bias.value + f.term
    moved = [k for k, b in enumerate(f.term) if abs(b) > LIKE * (float(np.max(np.abs(f.term))) or 1.0)]
    words = f"the {other}'s bias of {f.bias.op} differs in {len(moved)} of {f.term.size} channels"
    yield Trial("bias", side, f.bias.put(term), words, change, 1.5, {"channels": moved[:100]})
    if scaled:
        words = f"the {other}'s weights of {f.weight.op} are scaled in {len(scaled)} of {f.factor.size} channels"
        made = f.weight.put(f.weight.value * f.factor.reshape(shape))
        details = {"channels": scaled[:100], "factors": [float(f.factor[k]) for k in scaled[:100]]}
        yield Trial("weight", side, made, words, change, 2.0, details)


def _fitted(case: Case, side: str, program: Program) -> _Linear | None:
    half, known = case.half(side), slots(program)
    for weight in reversed([s for s in known if s.role == "weight"]):
        bias = next((s for s in known if s.step == weight.step and s.role == "term"), None)
        axis = 1 if weight.op.startswith("Conv") else -1
        if bias is None:
            continue
        limits = _passes(program, weight.step)
        try:
            before = program.run(half.feeds, list(program.steps[weight.step].outputs[:1]))[0]
        except CannotEvaluateError:
            return None
        target = _target(case, half)
        if limits is None or target is None or target.shape != before.shape:
            return None
        factor, term = _by_channel(before - _shaped(bias.value, before.ndim, axis), target, axis, limits)
        return _Linear(weight.step, weight, bias, factor, np.where(np.abs(factor - 1) > LIKE, 0, term - bias.value))
    return None


def _target(case: Case, half: Half) -> Array | None:
    """The other side's output in this side's layout."""
    other = case.other(half.side)
    layout = case.pair.layout
    return layout.to_reference(other.value) if half.side == "reference" else layout.to_candidate(other.value)


def _passes(program: Program, at: int) -> tuple[float, float] | None:
    """The range in which what follows the linear step changes nothing; None where it does more."""
    low, high = -np.inf, np.inf
    for step in program.steps[at + 1 :]:
        if step.op not in BENDS:
            return None
        ends = [program.constant(step, k) for k in (1, 2)] if step.op == "Clip" else [np.zeros(1), None]
        low = max(low, float(ends[0].reshape(-1)[0])) if ends[0] is not None else low
        high = min(high, float(ends[1].reshape(-1)[0])) if ends[1] is not None else high
    return low, high


def _shaped(bias: Array, rank: int, axis: int) -> Array:
    shape = [1] * rank
    shape[axis] = -1
    return bias.reshape(shape)


def _by_channel(x: Array, y: Array, axis: int, limits: tuple[float, float]) -> tuple[Array, Array]:
    """Least squares y = a x + b in each channel, over what lies inside `limits`; 1 and 0 where too little does."""
    xs, ys = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1).astype(np.float64) for v in (x, y))
    factor, term = np.ones(len(xs)), np.zeros(len(xs))
    for k, (u, v) in enumerate(zip(xs, ys, strict=True)):
        inside = (v > limits[0]) & (v < limits[1])
        if np.count_nonzero(inside) >= FEWEST and np.ptp(u[inside]) > 0:
            factor[k], term[k] = np.polyfit(u[inside], v[inside], 1)
    return factor, term
