"""The small number that keeps a normalization from dividing by zero: 1e-3 on one side, 1e-5 on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.constant_roles import is_epsilon
from aligndbg.explain.hypothesis import Hypothesis, other_side
from aligndbg.explain.thresholds import SAME_EPSILON, SAME_FOUND_EPSILON

__all__ = ["Epsilon"]


USUAL = (1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12, 1e-4, 1e-2, 0.0)
GOLDEN = (math.sqrt(5) - 1) / 2
DECADES = (-13.0, 0.5)
REFINEMENTS = 22
Change = Callable[[float], Program]


class Epsilon(Hypothesis):
    """Another epsilon in a normalization, or in what one is written out as: the usual values, then a search."""

    name = "epsilon"

    def applies(self, case: Case) -> bool:
        return any(True for _, program in case.programs(plain=False) for _ in _places(program))

    def trials(self, case: Case) -> Iterator[Trial]:
        known = {side: [value for _, value, _ in _places(program)] for side, program in case.programs(plain=False)}
        for side, program in case.programs(plain=False):
            for what, value, change in _places(program):
                others = [
                    v for v in known.get(other_side(side), ()) if not math.isclose(v, value, rel_tol=SAME_EPSILON)
                ]
                for guess in others:
                    yield _trial(side, what, value, guess, change(guess), costs.OTHERS_EPSILON, seen=True)
                if len(known) == 2 and known[other_side(side)] and not others:
                    continue  # both are known, and alike
                for guess in USUAL:
                    if not math.isclose(guess, value, rel_tol=SAME_EPSILON):
                        yield _trial(side, what, value, guess, change(guess), costs.USUAL_EPSILON)
                found = _search(case, side, change)
                if found is not None and not math.isclose(found, value, rel_tol=SAME_FOUND_EPSILON):
                    yield _trial(side, what, value, found, change(found), costs.FITTED_EPSILON)


def _places(program: Program) -> Iterator[tuple[str, float, Change]]:
    """(operator, epsilon, how to change it) for normalizations, and for small constants added to something."""
    for k, step in enumerate(program.steps):
        value = program.attributes(k).get("epsilon")
        if value is not None:
            yield step.op, float(value), lambda e, k=k: program.with_attributes(k, epsilon=float(e))  # type: ignore[misc]
        elif step.op == "Add" and len(step.inputs) == 2:
            for position in (0, 1):
                constant = program.constant(step, position)
                if constant is not None and is_epsilon(constant):
                    yield (
                        step.op,
                        float(constant.reshape(-1)[0]),
                        lambda e, k=k, position=position, like=constant: program.with_constant(  # type: ignore[misc]
                            k, position, np.full_like(like, e)
                        ),
                    )


def _search(case: Case, side: str, change: Change) -> float | None:
    """The epsilon of least error: some powers of ten, then golden sections."""

    def error(power: float) -> float:
        try:
            return case.after(Trial("epsilon", side, change(10.0**power), ""))
        except CannotEvaluateError:
            return math.inf

    powers = np.linspace(*DECADES, 10)
    errors = [error(p) for p in powers]
    at = int(np.argmin(errors))
    if not math.isfinite(errors[at]):
        return None
    low, high = powers[max(at - 1, 0)], powers[min(at + 1, len(powers) - 1)]
    a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    fa, fb = error(a), error(b)
    for _ in range(REFINEMENTS):
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - GOLDEN * (high - low)
            fa = error(a)
        else:
            low, a, fa = a, b, fb
            b = low + GOLDEN * (high - low)
            fb = error(b)
    return float(10.0 ** ((low + high) / 2))


def _trial(
    side: str, what: str, value: float, other: float, changed: Program, cost: float, *, seen: bool = False
) -> Trial:
    """`seen`: the other side's file has that one."""
    there = other_side(side)
    words = f"the {there} with {other:.3g}" if seen else f"the {there} as with {other:.3g}"
    return Trial(
        "epsilon",
        side,
        changed,
        f"the {side} computes {what} with epsilon {value:.3g}, {words}",
        f"with {other:.3g} in the {side}",
        cost,
        {side: {"epsilon": value}, there if seen else "explained_by": {"epsilon": other}},
    )
