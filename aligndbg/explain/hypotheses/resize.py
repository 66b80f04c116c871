"""How a resize picks its source: coordinates (half_pixel, asymmetric, align_corners), nearest rounding, cubic's a."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.antialias import antialiased
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypotheses.attribute import twins
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Resize"]


COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
ROUNDINGS = ("floor", "round_prefer_floor", "round_prefer_ceil", "ceil")
CUBICS = (-0.75, -0.5)
ANTIALIAS = 18  # the opset that brought it
DEFAULTS: Mapping[str, Any] = {
    "mode": "nearest",
    "coordinate_transformation_mode": "half_pixel",
    "nearest_mode": "round_prefer_floor",
    "cubic_coeff_a": -0.75,
    "exclude_outside": 0,
    "antialias": 0,
}


class Resize(Hypothesis):
    """The other side's settings where they are known; then every combination for this mode, then the other modes."""

    name = "resize"

    def applies(self, case: Case) -> bool:
        return any(_places(program) for _, program in case.programs())

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs())
        known = twins(both)
        for side, program in both.items():
            for at in _places(program):
                own = _settings(program, at)
                if at in known[side]:
                    theirs, there = both[other_side(side)], known[side][at]
                    yield from _target(side, program, at, theirs, there)
                    if (settings := _settings(theirs, there)) != own:
                        made = _set(program, at, settings)
                        yield _trial(made, side, own, settings, costs.OTHERS_RESIZE, seen=True)
                    continue
                yield from _antialias(case, side, program, at, own)
                for settings in _combinations(own["mode"]):
                    if settings != own:
                        changes = sum(settings[k] != own[k] for k in settings if _matters(settings["mode"], k))
                        cost = costs.RESIZE + costs.RESIZE_SETTING * changes
                        yield _trial(_set(program, at, settings), side, own, settings, cost, seen=False)


def _target(side: str, program: Program, at: int, theirs: Program, there: int) -> Iterator[Trial]:
    """The other side's factors in place of a size, which gives them rounded to whole pixels; or the size."""
    ours, other = (
        [p.constant(p.steps[k], slot) if k < len(p.steps) else None for slot in (2, 3)]
        for p, k in ((program, at), (theirs, there))
    )
    for slot, name in ((2, "factors"), (3, "sizes")):
        value, own = other[slot - 2], ours[5 - slot - 2]
        if value is None or not value.size or own is None or not own.size or value.size != own.size:
            continue
        inputs = [program.steps[at].inputs[0], "", "", ""]
        made = program.with_inputs(at, inputs[:slot]).with_constant(at, slot, value)
        words = f"the {other_side(side)} resizes by {name} {value.tolist()}, the {side} by {own.tolist()}"
        change = f"with the {other_side(side)}'s in the {side}"
        details = {side: {"target": own.tolist()}, other_side(side): {"target": value.tolist()}}
        yield Trial("resize_mode", side, made, words, change, costs.OTHERS_RESIZE, details)


def _places(program: Program) -> list[int]:
    return [k for k, s in enumerate(program.steps) if s.op == "Resize" and program.opset >= 11]


def _settings(program: Program, at: int) -> dict[str, Any]:
    given = program.steps[at].attributes
    return {k: given.get(k, v) for k, v in DEFAULTS.items()}


def _matters(mode: str, key: str) -> bool:
    return {
        "nearest_mode": mode == "nearest",
        "cubic_coeff_a": mode == "cubic",
        "exclude_outside": mode == "cubic",
    }.get(key, True)


def _combinations(own: str) -> Iterator[dict[str, Any]]:
    for mode in (own, *(m for m in ("nearest", "linear", "cubic") if m != own)):
        fine: tuple[Any, ...] = {"nearest": ROUNDINGS, "cubic": CUBICS}.get(mode, (None,))
        key = {"nearest": "nearest_mode", "cubic": "cubic_coeff_a"}.get(mode, "")
        for coordinates, value in itertools.product(COORDINATES, fine):
            settings = {**DEFAULTS, "mode": mode, "coordinate_transformation_mode": coordinates}
            yield {**settings, key: value} if key else settings


def _antialias(case: Case, side: str, program: Program, at: int, own: dict[str, Any]) -> Iterator[Trial]:
    if own["antialias"]:
        return
    step, feeds = program.steps[at], case.half(side).feeds
    before, after = program.shape(feeds, step.inputs[0]), program.shape(feeds, step.outputs[0])
    for mode in dict.fromkeys((own["mode"], "linear", "cubic")):
        with suppress(CannotEvaluateError):
            made = antialiased(program, at, mode, before, after)
            other = {**DEFAULTS, "mode": mode, "cubic_coeff_a": CUBICS[1], "antialias": 1}
            yield _trial(made, side, own, other, costs.RESIZE + costs.RESIZE_SETTING, seen=False)


def _set(program: Program, at: int, settings: Mapping[str, Any]) -> Program:
    known = {k: v for k, v in settings.items() if k != "antialias" or program.opset >= ANTIALIAS}
    return program.with_attributes(at, **known)


def _trial(made: Program, side: str, own: dict[str, Any], other: dict[str, Any], cost: float, *, seen: bool) -> Trial:
    """`seen`: the other side's file says so."""
    there = other_side(side)
    words = f"the {there} {_words(other)}" if seen else f"the {there} computes as with {_words(other)}"
    return Trial(
        "resize_mode",
        side,
        made,
        f"the {side} resizes {_words(own)}, {words}",
        f"with the {there}'s way in the {side}" if seen else f"with that in the {side}",
        cost,
        {side: own, there if seen else "explained_by": other},
        guess=not seen,
    )


def _words(settings: Mapping[str, Any]) -> str:
    mode = settings["mode"]
    extra = {"nearest": f", {settings['nearest_mode']}", "cubic": f", a = {settings['cubic_coeff_a']:g}"}.get(mode, "")
    extra += ", antialias" if settings["antialias"] else ""
    return f"{mode} ({settings['coordinate_transformation_mode']}{extra})"
