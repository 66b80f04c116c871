"""The small number that keeps a normalization from dividing by zero: 1e-3 on one side, 1e-5 on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Epsilon"]


USUAL = (1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12, 1e-4, 1e-2, 0.0)
SMALL = 0.05  # a larger constant is no epsilon
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
                others = [v for v in known.get(other_side(side), ()) if not math.isclose(v, value, rel_tol=1e-3)]
                for guess in others:
                    yield _trial(side, what, value, guess, change(guess), 0.0)
                if len(known) == 2 and known[other_side(side)] and not others:
                    continue  # both are known, and alike
                for guess in USUAL:
                    if not math.isclose(guess, value, rel_tol=1e-3):
                        yield _trial(side, what, value, guess, change(guess), 1.0)
                found = _search(case, side, change)
                if found is not None and not math.isclose(found, value, rel_tol=1e-2):
                    yield _trial(side, what, value, found, change(found), 2.0)


def _places(program: Program) -> Iterator[tuple[str, float, Change]]:
    """(operator, epsilon, how to change it) for normalizations, and for small constants added to something."""
    for k, step in enumerate(program.steps):
        if step.op.endswith("Normalization") and step.op not in ("LpNormalization", "MeanVarianceNormalization"):
            value = float(step.attributes.get("epsilon", 1e-5))
            yield step.op, value, lambda e, k=k: program.with_attributes(k, epsilon=float(e))  # type: ignore[misc]
        elif step.op == "Add" and len(step.inputs) == 2:
            for slot in (0, 1):
                constant = program.constant(step, slot)
                if constant is not None and _is_epsilon(constant):
                    yield (
                        step.op,
                        float(constant.reshape(-1)[0]),
                        lambda e, k=k, slot=slot, like=constant: program.with_constant(  # type: ignore[misc]
                            k, slot, np.full_like(like, e)
                        ),
                    )


def _is_epsilon(value: Array) -> bool:
    if value.dtype.kind != "f" or not value.size or np.ptp(value):
        return False
    return 0 < float(value.reshape(-1)[0]) <= SMALL


def _search(case: Case, side: str, change: Change) -> float | None:
    """The epsilon of least error: a grid of decades, then golden sections."""

    def error(power: float) -> float:
        try:
            return case.after(Trial("epsilon", side, change(10.0**power), ""))
        except CannotEvaluateError:
            return math.inf

    grid = np.linspace(*DECADES, 10)
    errors = [error(p) for p in grid]
    at = int(np.argmin(errors))
    if not math.isfinite(errors[at]):
        return None
    low, high = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
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


def _trial(side: str, what: str, value: float, other: float, changed: Program, cost: float) -> Trial:
    words = {side: f"{value:.3g}", other_side(side): f"{other:.3g}"}
    return Trial(
        "epsilon",
        side,
        changed,
        f"the candidate computes {what} with epsilon {words['candidate']}, the reference with {words['reference']}",
        f"with {other:.3g} in the {side}",
        cost,
        {side: {"epsilon": value}, other_side(side): {"epsilon": other}},
    )
