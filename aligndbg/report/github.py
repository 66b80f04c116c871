"""Diff -> Markdown, as GitHub shows it in a job's summary. Names from a model are escaped."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable
from pathlib import Path

from aligndbg.core.errors import UsageError
from aligndbg.core.types import Cause, Coverage, Fault, ModelInfo, Verdict
from aligndbg.measure.results import Measurement
from aligndbg.report.causes import told
from aligndbg.report.effects import all_corrected, effect_of
from aligndbg.report.words import UNITS, clean, cosine, number
from aligndbg.result import Result

__all__ = ["append_summary", "to_markdown"]

MARK = {Verdict.ALIGNED: "✅", Verdict.DIVERGED: "❌", Verdict.INCONCLUSIVE: "⚠️"}
VARIABLE = "GITHUB_STEP_SUMMARY"
WORST = 5
LONGEST_NAME = 60  # characters


def append_summary(text: str) -> None:
    """Append to the file that GitHub Actions gives each step. Raises UsageError where there is none."""
    path = os.environ.get(VARIABLE)
    if not path:
        raise UsageError(f"{VARIABLE} is not set", hint="GitHub Actions sets it for each step")
    try:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except OSError as error:
        raise UsageError(
            f"cannot write it: {error.strerror}", context=path, hint=f"{VARIABLE} must name a file to write"
        ) from None


def to_markdown(diff: Result) -> str:
    """The verdict, the models with their coverage, the faults, the outputs and the worst pairs."""
    lines = [f"### {MARK[diff.verdict]} {diff.verdict.upper()}: {_plain(diff.verdict_reason)}", ""]
    lines += [
        "| | model | runtime | compared | unobservable | one-sided | unmatched |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for side, info in (("reference", diff.reference), ("candidate", diff.candidate)):
        lines.append(_side(side, info, diff.coverage[side]))
    for cause in diff.causes:
        lines += ["", "**The whole pair**", "", *_cause(cause)]
    lines += ["", *(f"- ⚠️ {_plain(text)}" for text in diff.warnings)]
    for k, fault in enumerate(diff.faults, 1):
        lines += ["", *_fault(k, fault)]
        if said := effect_of(fault, diff):
            lines.append(f"- {_plain(said)}")
    if said := all_corrected(diff):
        lines += ["", f"{_plain(said[0].upper() + said[1:])}."]
    if diff.truncated:
        lines += ["", "More faults may follow: the search stopped at its limit."]
    shown = {m.pair.reference for m in diff.worst(WORST)} | diff.outputs
    rows = [m for m in diff.pairs if m.pair.reference in shown]
    if rows:
        lines += ["", f"The outputs and the {min(WORST, len(diff.pairs))} worst of {len(diff.pairs)} pairs:", ""]
        lines += _table(rows)
    return "\n".join(lines) + "\n"


def _side(side: str, info: ModelInfo, c: Coverage) -> str:
    counts = " | ".join(str(n) for n in (c.compared, c.unobservable, c.one_sided, c.unmatched))
    return f"| {side} | {_code(os.path.basename(info.path))} | {_plain(info.version)} | {counts} |"


def _fault(k: int, fault: Fault) -> Iterable[str]:
    unit = UNITS.get(fault.isolated_unit, UNITS["rel_l2"])
    ops = f"{_plain(fault.reference_op or '-')} against {_plain(fault.candidate_op or '-')}"
    yield f"**Fault {k}**: {ops}, own error {number(fault.isolated_error)} {unit}"
    yield ""
    for side, name, scope in (
        ("reference", fault.reference, fault.reference_scope),
        ("candidate", fault.candidate, fault.candidate_scope),
    ):
        yield f"- {side} {_code(name or '-')}" + (f" in {_code(scope)}" if scope else "")
    if fault.cause is not None:
        yield from _cause(fault.cause)


def _cause(cause: Cause) -> Iterable[str]:
    said = told(cause)
    yield f"- **{_plain(said.kind)}**: {_plain(said.summary)}"
    if said.change:
        yield f"- to change: {_plain(said.change)}"
    for name, ours, theirs in said.attributes:
        yield f"- {_plain(name)}: {_code(ours)} against {_code(theirs)}"


def _table(rows: Iterable[Measurement]) -> Iterable[str]:
    yield "| status | reference | candidate | op | rel L2 | own | cosine |"
    yield "|---|---|---|---|--:|--:|--:|"
    for m in rows:
        own = m.isolated
        quantized = own is not None and own.lsb_max is not None
        error = "-" if own is None else f"{number(own.lsb_max)} LSB" if quantized else number(own.rel_l2)
        ops = f"{_plain(m.reference_op or '-')} ~ {_plain(m.candidate_op or '-')}"
        names = f"{_code(m.pair.reference)} | {_code(m.pair.candidate)}"
        yield f"| {m.status} | {names} | {ops} | {number(m.metrics.rel_l2)} | {error} | {cosine(m.metrics.cosine)} |"


def _plain(text: str) -> str:
    """Text that neither HTML nor Markdown reads as markup."""
    safe = html.escape(clean(text))
    return "".join(f"&#{ord(ch)};" if ch in "\\`*_{}[]()#|~!" else ch for ch in safe)


def _code(name: str) -> str:
    return f"<code>{_plain(clean(name, LONGEST_NAME))}</code>"
