"""Weights and biases of a side whose constants are unknown (a recording), from what it computed of known inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Half, Trial
from aligndbg.explain.constant_roles import RoleConstant, role_constants
from aligndbg.explain.hypothesis import Hypothesis, other_side
from aligndbg.explain.thresholds import FACTOR_IS_ONE, FEWEST_TO_FIT

__all__ = ["FittedConstants"]


BENDS = {"Relu": (0.0, np.inf), "Clip": (-np.inf, np.inf)}  # what passes an activation unchanged


@dataclass(frozen=True)
class _Linear:
    """The last linear step before the output, with the affine map of each channel that fits the other side."""

    weight: RoleConstant
    bias: RoleConstant
    factor: Array
    term: Array


class FittedConstants(Hypothesis):
    """candidate = reference * a + b in each output channel of the linear operator: one a, a few, or only b."""

    name = "fit"

    def applies(self, case: Case) -> bool:
        return len(list(case.programs())) == 1

    def trials(self, case: Case) -> Iterator[Trial]:
        for side, program in case.programs():
            other = other_side(side)
            for constant in role_constants(program):
                if constant.role == "term" and constant.value.any():
                    words = f"the {other}'s {constant.op} has no bias"
                    change = f"without it in the {side}"
                    without = constant.put(np.zeros_like(constant.value))
                    yield Trial("missing_bias", side, without, words, change, costs.BIAS_MISSING)
            found = _fitted(case, side, program)
            if found is not None:
                yield from _affine(case, side, found)


def _affine(case: Case, side: str, f: _Linear) -> Iterator[Trial]:
    other, change = other_side(side), f"with that in the {side}"
    ratio = float(np.median(f.factor))
    scaled = [k for k, a in enumerate(f.factor) if abs(a - 1) > FACTOR_IS_ONE]
    shape = (-1, *[1] * (f.weight.value.ndim - 1))
    words = f"the {other}'s weights of {f.weight.op} are {ratio:.4g} times the {side}'s"
    kind = "scale" if case.quant is None else "quantization_scale"
    yield Trial(kind, side, f.weight.put(f.weight.value * ratio), words, change, costs.FITTED_FACTOR, {"ratio": ratio})
    term = f.bias.value + f.term
    moved = [k for k, b in enumerate(f.term) if abs(b) > FACTOR_IS_ONE * (float(np.max(np.abs(f.term))) or 1.0)]
    words = f"the {other}'s bias of {f.bias.op} differs in {len(moved)} of {f.term.size} channels"
    yield Trial("bias", side, f.bias.put(term), words, change, costs.FITTED_BIAS, {"channels": moved[:100]})
    if scaled:
        words = f"the {other}'s weights of {f.weight.op} are scaled in {len(scaled)} of {f.factor.size} channels"
        made = f.weight.put(f.weight.value * f.factor.reshape(shape))
        details = {"channels": scaled[:100], "factors": [float(f.factor[k]) for k in scaled[:100]]}
        yield Trial("weight", side, made, words, change, costs.FITTED_CHANNELS, details)


def _fitted(case: Case, side: str, program: Program) -> _Linear | None:
    half, known = case.half(side), role_constants(program)
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
        if bias.value.size != before.shape[axis]:  # that of an LSTM has one for each gate
            return None
        factor, term = _by_channel(before - _shaped(bias.value, before.ndim, axis), target, axis, limits)
        moved = np.where(np.abs(factor - 1) > FACTOR_IS_ONE, 0, term - bias.value)
        return _Linear(weight, bias, factor, moved)
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
        if np.count_nonzero(inside) >= FEWEST_TO_FIT and np.ptp(u[inside]) > 0:
            factor[k], term[k] = np.polyfit(u[inside], v[inside], 1)
    return factor, term
