"""Faults that are one: rows in one other order for every reader, inputs exchanged, parts of one activation."""

from __future__ import annotations

from dataclasses import replace

from aligndbg.core.types import Cause, Fault

__all__ = ["one_each"]


SHARED = ("order", "exchanged")  # details of a cause that is of what several faults are computed from


def one_each(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """One of those that are the same; it says where else that shows."""
    also: dict[int, list[int]] = {}
    for k, fault in enumerate(faults):
        whole = next((j for j, other in enumerate(faults) if j != k and _part_of(fault, other, later=j > k)), None)
        first = next((j for j, other in enumerate(faults[:k]) if _one(other, fault)), whole)
        if first is not None:
            also.setdefault(first, []).append(k)
    dropped = {k for others in also.values() for k in others}
    return tuple(
        _also_at(fault, [faults[j].reference or faults[j].candidate or "" for j in also.get(k, ())])
        for k, fault in enumerate(faults)
        if k not in dropped
    )


def _part_of(fault: Fault, other: Fault, *, later: bool) -> bool:
    """Whether a fault lies in the written-out activation that `other` is explained with; of two the later stays."""
    if other.cause is None or fault.cause is None or other.cause.kind == "unexplained":
        return False
    whole, own = other.cause.details.get("whole", {}), fault.cause.details.get("whole", {})
    inside = any(getattr(fault, side) in names for side, names in whole.items())
    return inside and (later or not own)


def _one(known: Fault, fault: Fault) -> bool:
    a, b = known.cause, fault.cause
    if a is None or b is None or a.kind != b.kind:
        return False
    if not any(a.details.get(key) and a.details.get(key) == b.details.get(key) for key in SHARED):
        return False
    common = set(known.region_reference.nodes).intersection(fault.region_reference.nodes)
    common |= set(known.region_candidate.nodes).intersection(fault.region_candidate.nodes)
    return bool(a.details.get("exchanged") or common)


def _also_at(fault: Fault, names: list[str]) -> Fault:
    if not names or fault.cause is None:
        return fault
    cause: Cause = fault.cause
    words = f"{cause.summary}; it shows at {', '.join(map(repr, names))} too"
    return replace(fault, cause=replace(cause, summary=words, details={**cause.details, "also_at": names}))
