"""A Dropout that is active: some values are zero, the rest larger by one factor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aligndbg.explain import costs
from aligndbg.explain.case import SIDES, Case, Trial
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["ActiveDropout"]


SMALLEST_FACTOR = 1.01  # a hundredth of all values dropped
CHANGE = "put the model in evaluation mode (.eval()) before it is run or exported"


class ActiveDropout(Hypothesis):
    """Inactive in its program; else the other side's values, zero where this side's are and the rest times a factor."""

    name = "dropout"

    def applies(self, case: Case) -> bool:
        return any(_has_dropout(case, side) for side in SIDES)

    def trials(self, case: Case) -> Iterator[Trial]:
        for side in SIDES:
            yield from _inactive(case, side)
            yield from _masked(case, side)


def _inactive(case: Case, side: str) -> Iterator[Trial]:
    """The side's operators with Dropout passing on what it reads: written, since active it gives no value twice."""
    half = case.half(side)
    names = {node.name for node in half.nodes if node.canonical.endswith("Dropout")}
    places = [k for k, step in enumerate(half.written.steps) if step.node in names] if half.written else []
    if half.written is None or half.program is not None or not places:
        return
    made = half.written
    for at in places:
        made = made.bypassed(at)
    words = f"the {side}'s Dropout is active, the {other_side(side)}'s is not"
    change = f"with it passing on what it reads in the {side}"
    yield Trial("attribute", side, made, words, change, costs.DROPOUT, {"on": side, "change": CHANGE})


def _masked(case: Case, side: str) -> Iterator[Trial]:
    """The other side's values, zero where this side's are, times the one factor that fits the rest."""
    other = other_side(side)
    ours, theirs = (case.aligned(s, case.half(s).value) for s in (side, other))
    kept = (ours != 0) & (theirs != 0)
    lost = float(np.mean(ours[theirs != 0] == 0)) if np.any(theirs) else 0.0
    if not _has_dropout(case, side) or not kept.any() or not lost:
        return
    factor = float(np.sum(ours[kept] * theirs[kept]) / np.sum(theirs[kept] ** 2))
    if factor < SMALLEST_FACTOR:
        return  # a ReLU has zeros, too
    made = np.where(ours != 0, theirs * factor, 0.0)
    words = (
        f"the {side}'s Dropout is active: it sets {lost:.0%} of the {other}'s values to zero and "
        f"multiplies the others by {factor:.3g}"
    )
    layout = case.pair.layout
    value = layout.to_candidate(made) if other == "candidate" else made
    details = {"on": side, "share": lost, "factor": factor, "change": CHANGE}
    yield Trial("attribute", other, value, words, f"with that in the {other}", costs.DROPOUT, details)


def _has_dropout(case: Case, side: str) -> bool:
    return any(node.canonical.endswith("Dropout") for node in case.half(side).nodes)
