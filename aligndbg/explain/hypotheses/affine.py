"""One factor, one offset, or both for all of a result, whatever computed it: told by its values alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aligndbg.core.types import Array
from aligndbg.explain import costs
from aligndbg.explain.case import SIDES, Case, Trial
from aligndbg.explain.hypothesis import Hypothesis
from aligndbg.explain.thresholds import FEWEST_FOR_ONE, FEWEST_TO_FIT, SAME_FACTOR

__all__ = ["Affine"]


class Affine(Hypothesis):
    """The reference's result scaled, shifted, or both, as fits best; a factor of n / (n - 1) is said to be one."""

    name = "affine"

    def applies(self, case: Case) -> bool:
        values = [case.half(side).value for side in SIDES]
        return case.quant is None and values[0].size >= FEWEST_FOR_ONE and all(np.isfinite(v).all() for v in values)

    def trials(self, case: Case) -> Iterator[Trial]:
        r, c = (case.aligned(side, case.half(side).value) for side in SIDES)
        square = float(np.sum(r * r))
        if square:
            factor = float(np.sum(r * c)) / square
            words = f"the candidate's result is {factor:.5g} times the reference's throughout{_bessel(case, factor)}"
            yield _trial("scale", r * factor, words, costs.RESULT_SCALED, {"ratio": factor})
        shift = float(np.mean(c - r))
        words = f"the candidate's result is the reference's plus {shift:.5g} throughout"
        yield _trial("bias", r + shift, words, costs.RESULT_SCALED, {"offset": shift})
        if np.ptp(r) and r.size >= FEWEST_TO_FIT:
            a, b = (float(v) for v in np.polyfit(r.reshape(-1), c.reshape(-1), 1))
            words = f"the candidate's result is {a:.5g} times the reference's, plus {b:.5g}, throughout"
            found = {"ratio": a, "offset": b}
            yield _trial("scale", a * r + b, words, costs.RESULT_SCALED_AND_SHIFTED, found)


def _trial(kind: str, made: Array, words: str, cost: float, details: dict[str, float]) -> Trial:
    return Trial(kind, "reference", made, words, "with the reference's so", cost, details, fitted=True)


def _bessel(case: Case, factor: float) -> str:
    """Whether it is what dividing by n in place of n - 1 makes of a variance, or of a standard deviation."""
    half = case.half("reference")
    counts = {v.size // half.value.size for v in half.feeds.values() if half.value.size}
    for n in sorted(n for n in counts if n > 1):
        for power, what in ((1.0, "variance"), (0.5, "standard deviation")):
            ratio = (n / (n - 1)) ** power
            for known, own, other in ((ratio, "n - 1", "n"), (1 / ratio, "n", "n - 1")):
                if math.isclose(factor, known, rel_tol=SAME_FACTOR):
                    return f": a {what} of {n} values divided by {own}, the reference's by {other}"
    return ""
