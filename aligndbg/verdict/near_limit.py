"""What is within its limits, and still no noise."""

from __future__ import annotations

from collections.abc import Iterable

from aligndbg.core.types import Graph, Node, Status
from aligndbg.locate.thresholds import SUSPECT
from aligndbg.measure.results import Measurement
from aligndbg.measure.thresholds import OWN_REL_L2

__all__ = ["near_limit_notes"]

LAYOUT = frozenset({"axis", "axes", "perm", "name"})  # the same under another layout is another number


def near_limit_notes(measured: Iterable[Measurement], reference: Graph, candidate: Graph) -> list[str]:
    """Of operators in float32 without a fault, the one that errs most by itself, if that is over what clean ones were
    measured to do; with the attributes that differ."""
    found = []
    for m in measured:
        own = m.isolated
        if own is None or own.lsb_max is not None or m.status not in (Status.PASS, Status.DRIFT):
            continue
        if SUSPECT < own.rel_l2 <= OWN_REL_L2 and m.reason.startswith(("rel_l2", "max_abs")):
            found.append((own.rel_l2, m))
    if not found:
        return []
    error, most = max(found, key=lambda one: one[0])
    one, other = reference.producers().get(most.pair.reference), candidate.producers().get(most.pair.candidate)
    unlike = _unlike(one, other) if one is not None and other is not None else ""
    return [
        f"{most.pair.reference} ({most.reference_op}): own error {error:.2g}, over the noise of clean operators "
        f"({SUSPECT:g}) though within its limit{unlike}"
    ]


def _unlike(one: Node, other: Node) -> str:
    """The attributes that both have, or one of them, with other values."""
    if one.op_type != other.op_type:
        return ""
    keys = [k for k in sorted({*one.attributes, *other.attributes}) if k not in LAYOUT]
    said = [(k, *(str(n.attributes.get(k, "not set")) for n in (one, other))) for k in keys]
    parts = [f"{k}={a} against {b}" for k, a, b in said if a != b]
    return f"; {', '.join(parts)}" if parts else ""
