"""What every report says of what faults do at the outputs."""

from __future__ import annotations

from collections.abc import Mapping

from aligndbg.core.types import Fault
from aligndbg.report.words import clean, number
from aligndbg.result import Result

__all__ = ["all_corrected", "effect_of", "largest"]


def largest(errors: Mapping[str, float] | None) -> float | None:
    """The largest of the outputs' errors, nan first; None where none is known."""
    return max(errors.values(), key=lambda e: e if e == e else float("inf")) if errors else None


def effect_of(fault: Fault, diff: Result) -> str:
    """What one fault does at the outputs, where that is not what all of them do; "" where there is nothing to say."""
    if fault.hidden:
        return "this input does not show it below; other values at its borders do"
    if fault.effect is None or len(diff.faults) < 2 or not fault.effect.alone:
        return ""
    alone, corrected = number(largest(fault.effect.alone)), number(largest(fault.effect.corrected))
    return f"alone it moves the outputs by {alone}; with only it corrected {corrected} is left"


def all_corrected(diff: Result) -> str:
    """What correcting every fault leaves at the outputs, and which one matters most; "" where it is not known."""
    left = largest(diff.corrected)
    if left is None or diff.corrected is None:
        return ""
    many = len(diff.faults)
    what = "it" if many == 1 else "both" if many == 2 else f"all {many}"
    at = next(name for name, error in diff.corrected.items() if error is left)
    before = largest({m.pair.reference: m.metrics.rel_l2 for m in diff.pairs if m.pair.reference in diff.corrected})
    where = f" (at {clean(at, 40)})" if len(diff.corrected) > 1 else ""
    said = f"with {what} corrected the outputs differ by {number(left)}{where} instead of {number(before)}"
    ranked = sorted(
        ((f.effect.largest, k) for k, f in enumerate(diff.faults, 1) if f.effect is not None), key=lambda r: -r[0]
    )
    return said + (f"; fault {ranked[0][1]} matters most" if len(ranked) > 1 and ranked[0][0] > ranked[1][0] else "")
