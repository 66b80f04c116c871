"""Diff -> terminal: the verdict, the faults, what diverged first, the worst pairs, the coverage; all rows on demand."""

from __future__ import annotations

import io
import unicodedata
from typing import TYPE_CHECKING, Any

from aligndbg._types import Coverage, Measurement, ModelInfo, Status, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from aligndbg._diff import Diff

__all__ = ["clean", "number", "render", "render_text"]

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
    """Three significant digits; `-` for undefined, counts as they are."""
    if value is None or value != value:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e4 and value != 0 else f"{value:.2e}"


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
        line((f"{label}  ", "bold"), (_model(info), ""))
        line(("           " + _coverage(coverage), "dim"))
    for text in _checks(diff):
        line((text, "dim"))
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


def _model(info: ModelInfo) -> str:
    options = "".join(f" {k}={v}" for k, v in info.options.items())
    return clean(f"{info.path}  ({info.backend}, {info.version}{options})")


def _coverage(c: Coverage) -> str:
    return (
        f"{c.compared} compared, {c.unobservable} unobservable, {c.one_sided} one-sided, {c.unmatched} unmatched"
        f" of {c.compared + c.unobservable + c.one_sided + c.unmatched} tensors"
    )


def _checks(diff: Diff) -> list[str]:
    lines = []
    for key, good, bad in (
        ("deterministic", "runs repeat bit for bit", "NOT deterministic"),
        ("observer_effect", "tapping changes no output", "tapping CHANGES outputs"),
    ):
        states = diff.checks.get(key)
        if not isinstance(states, dict):
            continue
        said = []
        for side, state in states.items():
            fine = state is True or state == 0
            said.append(f"{side}: {'not checked' if state is None else good if fine else f'{bad} ({state})'}")
        lines.append("check      " + "; ".join(said))
    return lines


def _where(m: Measurement) -> str:
    return f"{clean(m.pair.reference, 60)} ({m.reference_op}) against {clean(m.pair.candidate, 60)} ({m.candidate_op})"


def _render_faults(diff: Diff, console: Console) -> None:
    from rich.text import Text

    for i, fault in enumerate(diff.faults, 1):
        unit = "LSB" if fault.isolated_unit == "lsb" else "relative L2"
        head = f"fault {i}: {fault.reference_op or '-'} against {fault.candidate_op or '-'}"
        console.print(Text.assemble((head, "bold red"), f"  own error {number(fault.isolated_error)} {unit}"))
        for label, name, region in (
            ("reference", fault.reference, fault.region_reference),
            ("candidate", fault.candidate, fault.region_candidate),
        ):
            nodes = ", ".join(clean(n, 40) for n in region.nodes[:4])
            more = f", ... ({len(region.nodes)})" if len(region.nodes) > 4 else ""
            console.print(Text(f"  {label}  {clean(name or '-', 60)}  [{nodes}{more}]"))
        if fault.cause is not None:
            console.print(Text(f"  {fault.cause.kind}: {fault.cause.summary}"))
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

    quantized = any(m.metrics.lsb_max is not None for m in rows)
    isolated = any(m.isolated is not None for m in rows)
    numbers = ["rel L2", "own"] if isolated else ["rel L2"]
    numbers += ["max abs", "cosine", *(["LSB"] if quantized else [])]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_style="bold")
    for name in ("status", "reference", "op"):
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    ops = max((len(_ops(m)) for m in rows), default=0)
    op_width = min(ops, max(12, width // 5))
    name_width = max(12, width - 9 - op_width - 10 * len(numbers) - 4)
    for m in rows:
        own = m.isolated
        cells = [number(m.metrics.rel_l2)]
        if isolated:
            cells.append("-" if own is None else number(own.lsb_max if own.lsb_max is not None else own.rel_l2))
        cells += [number(m.metrics.max_abs), _cosine(m.metrics.cosine)]
        if quantized:
            cells.append("-" if m.metrics.lsb_max is None else f"{m.metrics.lsb_max:.1f}")
        table.add_row(
            Text(str(m.status), STATUS_STYLE[m.status]),
            Text(clean(m.pair.reference, name_width)),
            Text(clean(_ops(m), op_width)),
            *cells,
        )
    return table


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
            console.print(Text(f"unmatched on the {side}: {clean(u.name, 60)} ({u.op}): {clean(u.reason)}"))
        if len(lost) > 3:
            console.print(Text(f"  and {len(lost) - 3} more (--all lists them)"))


def _render_rest(diff: Diff, console: Console) -> None:
    from rich.text import Text

    for side, items, skipped in (
        ("reference", diff.matching.unmatched_reference, diff.matching.skipped_reference),
        ("candidate", diff.matching.unmatched_candidate, diff.matching.skipped_candidate),
    ):
        for u in items:
            console.print(Text(f"{side} {u.kind}: {clean(u.name)} ({u.op}): {clean(u.reason)}"))
        if skipped:
            console.print(Text(f"{side} skipped: {len(skipped)} (constants, integers, ...; listed in --json)", "dim"))
