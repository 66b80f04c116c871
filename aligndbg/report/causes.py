"""What every report says of a cause: the sentence, what to change, the attributes that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aligndbg.core.types import Cause
from aligndbg.report.words import UNITS, clean, number
from aligndbg.result import Result

__all__ = ["Told", "causes_of_tensors", "told"]

MOST_ATTRIBUTES = 8
LONGEST = 60  # characters of an attribute's value


@dataclass(frozen=True)
class Told:
    """A cause in words, control characters shown.

    `error` is what the correction makes of the error, (before, after, their unit), None where nothing was corrected.
    `attributes` holds (operator.attribute, reference's, candidate's) of those that differ, `tried`
    (hypothesis, the error it left) where nothing explains it.
    """

    kind: str
    summary: str
    change: str
    error: tuple[float, float, str] | None
    attributes: tuple[tuple[str, str, str], ...]
    tried: tuple[tuple[str, str], ...]

    @property
    def is_known(self) -> bool:
        return self.kind != "unexplained"


def told(cause: Cause) -> Told:
    details = cause.details
    unit = UNITS.get(details.get("unit", ""), "")
    known = cause.before is not None and cause.after is not None
    return Told(
        kind=clean(cause.kind),
        summary=clean(cause.summary),
        change=clean(details.get("change", "")),
        error=(cause.before, cause.after, unit) if known else None,  # type: ignore[arg-type]
        attributes=tuple(_attributes(details.get("attributes", ()))),
        tried=()
        if cause.kind != "unexplained"
        else tuple((clean(t["hypothesis"]), number(t["best_error"])) for t in details.get("tried", ())),
    )


def causes_of_tensors(diff: Result) -> dict[str, Cause]:
    """The cause of each pair that is a fault, by its reference tensor."""
    pairs = {(m.pair.reference, m.pair.candidate) for m in diff.pairs}
    return {
        f.reference: f.cause
        for f in diff.faults
        if f.cause is not None and f.reference is not None and (f.reference, f.candidate) in pairs
    }


def _attributes(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for row in [row for row in rows if not row["same"]][:MOST_ATTRIBUTES]:
        ours, theirs = (clean(str(row[side]), LONGEST) for side in ("reference", "candidate"))
        yield clean(f"{row['op']}.{row['attribute']}"), ours, theirs
