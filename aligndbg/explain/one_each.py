"""Faults that are one: rows in one other order at every reader of one operator, inputs exchanged on both branches."""

from __future__ import annotations

from dataclasses import replace

from aligndbg.core.types import Cause, Fault

__all__ = ["one_each"]


SHARED = ("order", "exchanged")  # details of a cause that is of what several faults are computed from


def one_each(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """The first of those that have the very same cause; it says where else that shows."""
    kept: list[Fault] = []
    also: dict[int, list[str]] = {}
    for fault in faults:
        first = next((k for k, known in enumerate(kept) if _one(known, fault)), None)
        if first is None:
            kept.append(fault)
        else:
            also.setdefault(first, []).append(fault.reference or fault.candidate or "")
    return tuple(_also_at(fault, also.get(k, [])) for k, fault in enumerate(kept))


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
