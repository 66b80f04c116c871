"""How a resize picks its source: coordinates (half_pixel, asymmetric, align_corners), nearest rounding, cubic's a."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Resize"]


COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
ROUNDINGS = ("floor", "round_prefer_floor", "round_prefer_ceil", "ceil")
CUBICS = (-0.75, -0.5)
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
        for side, program in both.items():
            theirs = both.get(other_side(side))
            known = [_settings(theirs, k) for k in _places(theirs)] if theirs is not None else []
            for n, at in enumerate(_places(program)):
                own = _settings(program, at)
                if n < len(known) and known[n] != own:
                    yield _trial(program, side, at, own, known[n], costs.OTHERS_RESIZE)
                for settings in _combinations(own["mode"]):
                    if settings != own:
                        changes = sum(settings[k] != own[k] for k in settings if _matters(settings["mode"], k))
                        cost = costs.RESIZE + costs.RESIZE_SETTING * changes
                        yield _trial(program, side, at, own, settings, cost)


def _places(program: Program) -> list[int]:
    return [k for k, s in enumerate(program.steps) if s.op == "Resize" and program.opset >= 11]


def _settings(program: Program, at: int) -> dict[str, Any]:
    given = program.steps[at].attributes
    return {k: given.get(k, v) for k, v in DEFAULTS.items() if k != "antialias" or program.opset >= 18}


def _matters(mode: str, key: str) -> bool:
    return {
        "nearest_mode": mode == "nearest",
        "cubic_coeff_a": mode == "cubic",
        "exclude_outside": mode == "cubic",
    }.get(key, True)


def _combinations(own: str) -> Iterator[dict[str, Any]]:
    plain = {k: v for k, v in DEFAULTS.items() if k != "antialias"}
    for mode in (own, *(m for m in ("nearest", "linear", "cubic") if m != own)):
        fine: tuple[Any, ...] = {"nearest": ROUNDINGS, "cubic": CUBICS}.get(mode, (None,))
        key = {"nearest": "nearest_mode", "cubic": "cubic_coeff_a"}.get(mode, "")
        for coordinates, value in itertools.product(COORDINATES, fine):
            settings = {**plain, "mode": mode, "coordinate_transformation_mode": coordinates}
            yield {**settings, key: value} if key else settings


def _trial(program: Program, side: str, at: int, own: dict[str, Any], other: dict[str, Any], cost: float) -> Trial:
    kept = {k: v for k, v in other.items() if k != "antialias" or program.opset >= 18}
    words = {side: _words(own), other_side(side): _words(kept)}
    return Trial(
        "resize_mode",
        side,
        program.with_attributes(at, **kept),
        f"the candidate resizes {words['candidate']}, the reference {words['reference']}",
        f"with the {other_side(side)}'s way in the {side}",
        cost,
        {side: own, other_side(side): kept},
    )


def _words(settings: Mapping[str, Any]) -> str:
    mode = settings["mode"]
    extra = {"nearest": f", {settings['nearest_mode']}", "cubic": f", a = {settings['cubic_coeff_a']:g}"}.get(mode, "")
    return f"{mode} ({settings['coordinate_transformation_mode']}{extra})"
