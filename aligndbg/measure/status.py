"""The status of a pair from what was measured of it (DESIGN: Status of a pair)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aligndbg.core.layouts import exchanges_axes
from aligndbg.core.types import LayoutKind, Pair, Status
from aligndbg.measure.results import Metrics
from aligndbg.measure.tolerance import Tolerance, degenerate, within

__all__ = ["Judged", "Measured", "own_within", "status_of"]


@dataclass(frozen=True)
class Judged:
    """Metrics with the limits that they are held to."""

    metrics: Metrics
    limits: Tolerance


@dataclass(frozen=True)
class Measured:
    """What a pair's status follows from.

    `others` are its metrics under the other layouts that fit an ambiguous one, made when they are asked for. `doubt`
    says why it is not confirmed, `why_not_isolated` why it has no own error, `weak` why that has a wider limit, and
    `excused` why it is no fault where that is over, `hidden` why it is one where that
    is within.
    """

    pair: Pair
    accumulated: Judged
    own: Judged | None = None
    others: Iterable[Metrics] = ()
    doubt: str = ""
    why_not_isolated: str = ""
    weak: str = ""
    excused: str = ""
    hidden: str = ""


def own_within(own: Judged) -> bool:
    """False where a pair's own error is over tolerance; equal tensors that prove nothing are no fault."""
    if degenerate(own.metrics) and not own.metrics.nonfinite_mismatch:
        return True
    return within(own.metrics, own.limits)[0]


def status_of(m: Measured) -> tuple[Status, str]:
    """The status, and the sentence that gives its reason."""
    if m.doubt:
        return Status.UNKNOWN, m.doubt
    if m.hidden:
        return Status.FAULT, m.hidden
    metrics, limits = m.accumulated.metrics, m.accumulated.limits
    fine, why = within(metrics, limits)
    layout = m.pair.layout
    if layout.kind is LayoutKind.AMBIGUOUS and any(within(other, limits)[0] != fine for other in m.others):
        return Status.UNKNOWN, f"ambiguous layout: {len(layout.alternatives) + 1} fit, and judge differently"
    over = m.own is not None and not own_within(m.own)
    if m.own is not None and over and not m.excused:
        return Status.FAULT, "own error: " + within(m.own.metrics, m.own.limits)[1]
    empty = degenerate(metrics)
    if empty:
        return Status.UNKNOWN, empty
    if m.own is not None and m.own.metrics.lsb_max is not None and m.weak:
        why += f"; weak: {m.weak}"
    if over:
        why += f"; {m.excused}"
    if exchanges_axes(layout):
        why += f"; equal shapes, but its axes are in another order {layout.permutation}"
    if m.own is not None:
        return (Status.PASS if fine else Status.DRIFT), why
    if fine:
        return Status.PASS, f"{why}; own error unknown: {m.why_not_isolated}"
    return Status.UNKNOWN, f"{why}; own error unknown, so not told from an inherited one: {m.why_not_isolated}"
