"""Diff -> terminal: the verdict, the faults, what diverged first, the worst pairs, the coverage; all rows on demand."""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aligndbg._types import Coverage, Measurement, ModelInfo, Status, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from aligndbg._diff import Diff

__all__ = ["clean", "number", "render", "render_text", "stdout_console"]

VERDICT_STYLE = {Verdict.ALIGNED: "bold green", Verdict.DIVERGED: "bold red", Verdict.INCONCLUSIVE: "bold yellow"}
STATUS_STYLE = {Status.PASS: "green", Status.DRIFT: "yellow", Status.FAULT: "bold red", Status.UNKNOWN: "magenta"}
WORST = 5


def clean(text: str, width: int | None = None) -> str:
    """A name from a model, safe for a terminal: control characters shown, the middle left out past `width`."""
    safe = "".join(
        ch if ch == " " or not unicodedata.category(ch).startswith(("C", "Z")) else f"\\x{ord(ch):02x}" for ch in text
    )
    if width is None or len(safe) <= width:
        return safe
    tail = (width - 1) * 2 // 3
    return safe[: width - 1 - tail] + "…" + safe[-tail:]


def number(value: Any) -> str:
    """Two significant digits; `-` for undefined, counts as they are."""
    if value is None or value != value:
        return "-"
    if isinstance(value, int) or value == 0:
        return str(int(value))
    return f"{value:.2g}" if 0.01 <= abs(value) < 1000 else f"{value:.1e}"


@contextmanager
def stdout_console() -> Iterator[Console]:
    """A console on stdout. A reader that goes away early (head, less) ends the text, and changes no result.

    As wide as the terminal, or $COLUMNS, or 80 where stdout is no terminal: then the text is the same anywhere.
    """
    from rich.console import Console

    class Quitting(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich calls this while it handles the error, and would exit with 1, our "diverged"

    columns = os.environ.get("COLUMNS", "")
    width = None if sys.stdout.isatty() else int(columns) if columns.isdecimal() and int(columns) else 80
    try:
        yield Quitting(highlight=False, width=width)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def render_text(diff: Diff, *, all_rows: bool = False, width: int = 100) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    render(diff, console, all_rows=all_rows)
    out = console.file
    assert isinstance(out, io.StringIO)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def render(diff: Diff, console: Console, *, all_rows: bool = False) -> None:
    """Print the report on a rich console, to its width."""
    from rich.text import Text

    def line(*parts: tuple[str, str]) -> None:
        console.print(Text.assemble(*parts), soft_wrap=False)

    line((str(diff.verdict).upper(), VERDICT_STYLE[diff.verdict]), (f"  {clean(diff.verdict_reason)}", ""))
    for label, info, coverage in (
        ("reference", diff.reference, diff.matching.coverage_reference),
        ("candidate", diff.candidate, diff.matching.coverage_candidate),
    ):
        line((f"{label}  ", "bold"), (_model(info, console.width - 11, all_rows), ""))
        line(("           " + _coverage(coverage), "dim"))
    for text in _checks(diff):
        line(("checks     " + text, "dim"))
    for warning in diff.warnings:
        line(("warning: ", "yellow"), (clean(warning), ""))
    _render_faults(diff, console)
    first = diff.first_divergence
    if first is not None and not diff.faults:
        line(("first divergence: ", "bold"), (_where(first), ""))
        line((f"  {clean(first.reason)}", ""))
    rows = list(diff.pairs) if all_rows else _shown(diff)
    if rows:
        title = f"all {len(rows)} pairs, in execution order" if all_rows else _title(diff, rows)
        console.print(_table(rows, title, console.width))
    if all_rows:
        _render_rest(diff, console)
    else:
        _render_unmatched(diff, console)


def _model(info: ModelInfo, width: int, options: bool) -> str:
    version = clean(info.version)
    if options:
        version += "".join(f", {clean(k)}={clean(v)}" for k, v in info.options.items())
        return f"{clean(info.path)}  ({version})"
    return f"{clean(info.path, max(20, width - len(version) - 4))}  ({version})"


def _coverage(c: Coverage) -> str:
    return (
        f"{c.compared} compared, {c.unobservable} unobservable, {c.one_sided} one-sided, {c.unmatched} unmatched"
        f" of {c.compared + c.unobservable + c.one_sided + c.unmatched} tensors"
    )


def _checks(diff: Diff) -> list[str]:
    """One line where all is well; else one for each finding."""
    said: dict[str, list[str]] = {}
    for key, good, bad in (
        ("deterministic", "runs repeat bit for bit", "runs do NOT repeat"),
        ("observer_effect", "tapping changes no output", "tapping CHANGES the outputs"),
    ):
        for side, state in (diff.checks.get(key) or {}).items():
            fine = state is True or state == 0
            text = f"not checked: {key}" if state is None else good if fine else bad
            said.setdefault(text, []).append(side)
    return ["; ".join(t if len(sides) == 2 else f"{t} ({sides[0]})" for t, sides in said.items())] if said else []


def _where(m: Measurement) -> str:
    ours = f"{clean(m.pair.reference, 60)} ({clean(m.reference_op)})"
    return f"{ours} against {clean(m.pair.candidate, 60)} ({clean(m.candidate_op)})"


def _render_faults(diff: Diff, console: Console) -> None:
    from rich.text import Text

    for i, fault in enumerate(diff.faults, 1):
        unit = "LSB" if fault.isolated_unit == "lsb" else "relative L2"
        head = f"fault {i}: {clean(fault.reference_op or '-')} against {clean(fault.candidate_op or '-')}"
        console.print(Text.assemble((head, "bold red"), f"  own error {number(fault.isolated_error)} {unit}"))
        for label, name, region, scope in (
            ("reference", fault.reference, fault.region_reference, fault.reference_scope),
            ("candidate", fault.candidate, fault.region_candidate, fault.candidate_scope),
        ):
            nodes = ", ".join(clean(n, 40) for n in region.nodes[:4])
            more = f", ... ({len(region.nodes)})" if len(region.nodes) > 4 else ""
            console.print(Text(f"  {label}  {clean(name or '-', 60)}  [{nodes}{more}]"))
            if scope:
                console.print(Text(f"             in {clean(scope)}"))
        if fault.cause is not None:
            console.print(Text(f"  {clean(fault.cause.kind)}: {clean(fault.cause.summary)}"))
    if diff.truncated:
        console.print(Text("more faults may follow: the search stopped at --max-faults", style="yellow"))


def _shown(diff: Diff) -> list[Measurement]:
    """The worst pairs and every output, in execution order."""
    keep = {m.pair.reference for m in diff.worst(WORST)} | diff.outputs
    return [m for m in diff.pairs if m.pair.reference in keep]


def _title(diff: Diff, rows: list[Measurement]) -> str:
    return f"the outputs and the {min(WORST, len(diff.pairs))} worst of {len(diff.pairs)} pairs (--all shows every one)"


def _table(rows: list[Measurement], title: str, width: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    wide = width >= 120
    columns = _columns(rows, wide)
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False, title_style="bold")
    for name in ("status", "reference", *(["candidate"] if wide else []), "op"):
        table.add_column(name, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    op_width = min(max((len(_ops(m)) for m in rows), default=2), 28 if wide else 14)
    left = width - 2 - 8 - (op_width + 1) - 8 * (len(columns) - 1) - 9 - 1
    name_width = max(10, left // 2 - 1 if wide else left)
    for m in rows:
        names = [m.pair.reference, *([m.pair.candidate] if wide else [])]
        table.add_row(
            Text(str(m.status), STATUS_STYLE[m.status]),
            *(Text(clean(n, name_width)) for n in names),
            Text(clean(_ops(m), op_width)),
            *(show(m) for show in columns.values()),
        )
    return table


def _columns(rows: list[Measurement], wide: bool) -> dict[str, Callable[[Measurement], str]]:
    """The numbers shown: accumulated and own error, in quantization steps where the candidate has them."""
    quantized = any(m.metrics.lsb_max is not None for m in rows)
    out: dict[str, Callable[[Measurement], str]] = {"rel L2": lambda m: number(m.metrics.rel_l2)}
    if any(m.isolated is not None for m in rows) and (wide or not quantized):
        out["own"] = lambda m: number(m.isolated.rel_l2 if m.isolated is not None else None)
    if quantized:
        out["LSB"] = lambda m: number(m.metrics.lsb_max)
        out["own LSB"] = lambda m: number(m.isolated.lsb_max if m.isolated is not None else None)
    if wide or not quantized:
        out["max abs"] = lambda m: number(m.metrics.max_abs)
    return out | {"cosine": lambda m: _cosine(m.metrics.cosine)}


def _ops(m: Measurement) -> str:
    return f"{m.reference_op or '-'} ~ {m.candidate_op or '-'}"


def _cosine(value: float) -> str:
    return "-" if value != value else f"{value:.6f}"


def _render_unmatched(diff: Diff, console: Console) -> None:
    from rich.text import Text

    for side, items in (
        ("reference", diff.matching.unmatched_reference),
        ("candidate", diff.matching.unmatched_candidate),
    ):
        lost = [u for u in items if u.kind == "unmatched"]
        for u in lost[:3]:
            console.print(Text(f"unmatched on the {side}: {clean(u.name, 60)} ({clean(u.op)}): {clean(u.reason)}"))
        if len(lost) > 3:
            console.print(Text(f"  and {len(lost) - 3} more (--all lists them)"))


def _render_rest(diff: Diff, console: Console) -> None:
    from rich.text import Text

    for side, items, skipped in (
        ("reference", diff.matching.unmatched_reference, diff.matching.skipped_reference),
        ("candidate", diff.matching.unmatched_candidate, diff.matching.skipped_candidate),
    ):
        for u in items:
            console.print(Text(f"{side} {u.kind}: {clean(u.name)} ({clean(u.op)}): {clean(u.reason)}"))
        if skipped:
            console.print(Text(f"{side} skipped: {len(skipped)} (constants, integers, ...; listed in --json)", "dim"))
