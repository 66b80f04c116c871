"""Grids of quantized tensors: a scale or zero point that does not fit, values cut off at its ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from aligndbg.core.types import Array
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypotheses.attribute import same_operators
from aligndbg.explain.hypothesis import Hypothesis, other_side
from aligndbg.explain.thresholds import FEWEST_TO_FIT, ZERO_POINT_ONLY

__all__ = ["QuantizationScale", "QuantizerConstants"]


QUANTIZER_PARTS = {1: "scale", 2: "zero point"}  # by input of QuantizeLinear and DequantizeLinear


class QuantizerConstants(Hypothesis):
    """A QuantizeLinear or DequantizeLinear whose scale or zero point is not the other side's, given that one."""

    name = "quantizer_constants"

    def applies(self, case: Case) -> bool:
        return len(list(case.programs(plain=False))) == 2

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs(plain=False))
        for places in same_operators(both):
            op = both["candidate"].steps[places["candidate"]].op
            for position, part in QUANTIZER_PARTS.items() if op in ("QuantizeLinear", "DequantizeLinear") else ():
                value = {s: both[s].constant(both[s].steps[k], position) for s, k in places.items()}
                r, c = value["reference"], value["candidate"]
                if r is None or c is None or r.shape != c.shape or r.dtype != c.dtype or np.array_equal(r, c):
                    continue
                shown = {
                    s: ", ".join(f"{n:.4g}" for n in np.ravel(v)[:4]) for s, v in (("reference", r), ("candidate", c))
                }
                words = (
                    f"the candidate's {op} has the {part} {shown['candidate']}, the reference's {shown['reference']}"
                )
                for side in ("candidate", "reference"):
                    theirs = value[other_side(side)]
                    assert theirs is not None
                    change, details = f"with the {other_side(side)}'s in the {side}", {"part": part, **shown}
                    made = both[side].with_constant(places[side], position, theirs)
                    yield Trial("quantization_scale", side, made, words, change, costs.OTHERS_QUANTIZER, details)


class QuantizationScale(Hypothesis):
    """candidate = reference * a + b over the whole tensor; saturated values left out of the fit."""

    name = "quantization"

    def applies(self, case: Case) -> bool:
        return case.quant is not None

    def trials(self, case: Case) -> Iterator[Trial]:
        assert case.quant is not None
        r = case.aligned("reference", case.half("reference").value)
        c = case.aligned("candidate", case.half("candidate").value)
        scale, zero = float(case.quant.scale.reshape(-1)[0]), int(case.quant.zero_point.reshape(-1)[0])
        limits = np.iinfo(case.quant_dtype)
        inside = (np.round(c / scale) + zero > limits.min) & (np.round(c / scale) + zero < limits.max)
        details: dict[str, Any] = {"scale": scale, "zero_point": zero, "dtype": case.quant_dtype}
        details["saturated"] = float(1 - np.mean(inside))
        fit = _fit(r[inside], c[inside])
        if fit is None:
            return
        a, b = fit
        found = details | {"factor": a, "offset": b, "offset_steps": b / scale}
        if abs(a - 1) < ZERO_POINT_ONLY:
            words = f"the candidate's grid is off by {b / scale:+.3g} steps: its zero point ({zero}) does not fit"
            change = "with that added to the reference"
            yield Trial("quantization_scale", "reference", r + b, words, change, costs.FITTED_ZERO_POINT, found)
        words = f"the candidate's values are {a:.4g} times the reference's{_plus(b / scale)}: its scale does not fit"
        change = "with the reference scaled so"
        yield Trial("quantization_scale", "reference", r * a + b, words, change, costs.FITTED_SCALE, found, guess=True)


def _fit(r: Array, c: Array) -> tuple[float, float] | None:
    if r.size < FEWEST_TO_FIT or not np.ptp(r):
        return None
    a, b = np.polyfit(r.reshape(-1), c.reshape(-1), 1)
    return (float(a), float(b)) if a > 0 else None  # no scale turns signs: operands in another order do


def _plus(steps: float) -> str:
    return f" {steps:+.2g} steps" if abs(steps) >= 0.5 else ""
