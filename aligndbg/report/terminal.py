"""Diff -> terminal: the verdict, the faults and their causes, the worst pairs, the coverage; all rows on demand."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aligndbg.core.types import Cause, Coverage, ModelInfo, Status, Verdict
from aligndbg.measure.results import Measurement
from aligndbg.report.causes import causes_of_tensors, told
from aligndbg.report.effects import all_corrected, effect_of
from aligndbg.report.table import TableView, chosen_rows, pairs_table
from aligndbg.report.words import UNITS, clean, number
from aligndbg.result import Result

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["render", "render_text", "stdout_console"]

VERDICT_STYLE = {Verdict.ALIGNED: "bold green", Verdict.DIVERGED: "bold red", Verdict.INCONCLUSIVE: "bold yellow"}
WORST = 5


@contextmanager
def stdout_console() -> Iterator[Console]:
    """A console on stdout. A reader that goes away early (head, less) ends the text, and changes no result.

    As wide as the terminal, or $COLUMNS, or 80 where stdout is no terminal: then the text is the same anywhere. In
    Jupyter too: rich would show each line as an output of its own.
    """
    from rich.console import Console

    class Quitting(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich calls this while it handles the error, and would exit with 1, our "diverged"

    columns = os.environ.get("COLUMNS", "")
    width = None if sys.stdout.isatty() else int(columns) if columns.isdecimal() and int(columns) else 80
    try:
        yield Quitting(highlight=False, width=width, force_jupyter=False)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def render_text(diff: Result, *, all_rows: bool = False, width: int = 100, view: TableView | None = None) -> str:
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, legacy_windows=False, force_jupyter=False)
    render(diff, console, all_rows=all_rows, view=view)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def render(diff: Result, console: Console, *, all_rows: bool = False, view: TableView | None = None) -> None:
    """Print the report on a rich console, to its width: what is wrong and why, then the pairs, then what was run.

    A `view` that chooses anything shows every pair it keeps.
    """
    line = _printer(console)
    line((str(diff.verdict).upper(), VERDICT_STYLE[diff.verdict]), (f"  {clean(diff.verdict_reason)}", ""))
    for cause in diff.causes:
        _render_cause(cause, console, ("the whole pair  ", "bold"))
    for warning in diff.warnings:
        line(("warning: ", "yellow"), (clean(warning), ""))
    _render_faults(diff, console)
    first = diff.first_divergence
    if first is not None and not diff.faults:
        line(("first divergence: ", "bold"), (_where(first), ""))
        line((f"  {clean(first.reason)}", ""))
    _render_pairs(diff, console, all_rows, view or TableView())
    for label, info, coverage in (
        ("reference", diff.reference, diff.matching.coverage_reference),
        ("candidate", diff.candidate, diff.matching.coverage_candidate),
    ):
        line((f"{label}  ", "bold"), (_model(info, console.width - 11, all_rows), ""))
        line(("           " + _coverage(coverage), "dim"))
    for text in _checks(diff):
        line(("checks     " + text, "dim"))
    if all_rows:
        for text in _costs(diff):
            line((text, "dim"))
        _render_rest(diff, console)
    else:
        _render_unmatched(diff, console)


def _costs(diff: Result) -> Iterator[str]:
    """What each stage took; the memory is that of all processes."""
    if diff.timing:
        yield "seconds    " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in diff.timing.items())
    if diff.memory:
        yield "peak MB    " + ", ".join(f"{stage} {size / 1e6:.0f}" for stage, size in diff.memory.items())


def _printer(console: Console, hanging: int = 0) -> Callable[..., None]:
    """Prints parts, each with its style, as one line; text that is too long goes on below, `hanging` further in."""
    from rich.text import Text

    def line(*parts: tuple[str, str]) -> None:
        text = Text.assemble(*parts)
        if not hanging:
            console.print(text, soft_wrap=False)
            return
        for k, row in enumerate(text.wrap(console, console.width - hanging)):
            row.rstrip()
            console.print(Text.assemble(" " * (hanging if k else 0), row))

    return line


def _model(info: ModelInfo, width: int, options: bool) -> str:
    version = clean(info.version)
    if options:
        version += "".join(f", {clean(k)}={clean(v)}" for k, v in info.options.items())
        return f"{clean(info.path)}  ({version})"
    return f"{clean(info.path, max(20, width - len(version) - 4))}  ({version})"


def _coverage(c: Coverage) -> str:
    return (
        f"{c.compared} compared, {c.unobservable} unobservable, {c.one_sided} one-sided, {c.unmatched} unmatched"
        f" of {c.compared + c.unobservable + c.one_sided + c.unmatched}"
    )


def _checks(diff: Result) -> list[str]:
    """One line where all is well; else one for each finding."""
    said: dict[str, list[str]] = {}
    repeats, moved = diff.checks.get("deterministic") or {}, diff.checks.get("observer_effect") or {}
    unmoved = {side: None if effect is None else effect == 0 for side, effect in moved.items()}
    for key, states, good, bad in (
        ("deterministic", repeats, "runs repeat bit for bit", "runs do NOT repeat"),
        ("observer_effect", unmoved, "tapping changes no output", "tapping CHANGES the outputs"),
    ):
        for side, fine in states.items():
            text = f"not checked: {key}" if fine is None else good if fine else bad
            said.setdefault(text, []).append(side)
    probed = diff.checks.get("probed")
    if probed is not None:
        why = f": {probed['why_not']}" if probed["why_not"] else ""
        said[f"{probed['regions']} regions probed on {probed['runs']} random inputs of their own{why}"] = ["", ""]
    return ["; ".join(t if len(sides) == 2 else f"{t} ({sides[0]})" for t, sides in said.items())] if said else []


def _where(m: Measurement) -> str:
    ours = f"{clean(m.pair.reference, 60)} ({clean(m.reference_op)})"
    return f"{ours} against {clean(m.pair.candidate, 60)} ({clean(m.candidate_op)})"


def _render_faults(diff: Result, console: Console) -> None:
    line = _printer(console)
    room = console.width - 13
    for i, fault in enumerate(diff.faults, 1):
        unit = UNITS.get(fault.isolated_unit, UNITS["rel_l2"])
        head = f"fault {i}: {clean(fault.reference_op or 'nothing')} against {clean(fault.candidate_op or 'nothing')}"
        line((head, "bold red"), (f"  own error {number(fault.isolated_error)} {unit}", ""))
        if fault.cause is not None:
            _render_cause(fault.cause, console)
        if said := effect_of(fault, diff):
            line((f"  {said}", ""))
        for label, name, region, scope in (
            ("reference", fault.reference, fault.region_reference, fault.reference_scope),
            ("candidate", fault.candidate, fault.region_candidate, fault.candidate_scope),
        ):
            line((f"  {label}  {clean(name or '-', room)}", ""))
            if region.nodes:
                more = f", … ({len(region.nodes)})" if len(region.nodes) > 4 else ""
                line(("             " + clean(", ".join(region.nodes[:4]) + more, room), "dim"))
            if scope:
                line((f"             in {clean(scope, room)}", ""))
    if said := all_corrected(diff):
        line((said, "bold"))
    if diff.truncated:
        line(("more faults may follow: the search stopped at --max-faults", "yellow"))


def _render_cause(cause: Cause, console: Console, head: tuple[str, str] = ("  ", "")) -> None:
    """The sentence, what to change, and the attributes that differ; `head`, with its style, is put before."""
    line = _printer(console, hanging=4)
    said = told(cause)
    line(head, (f"{said.kind}: ", "bold" if said.is_known else "dim"), (said.summary, ""))
    if said.change:
        line(("  to change: ", "dim"), (said.change, ""))
    for name, ours, theirs in said.attributes:
        line((f"  {name}: {ours} against {theirs}", "dim"))


def _render_pairs(diff: Result, console: Console, all_rows: bool, view: TableView) -> None:
    line = _printer(console)
    rows = chosen_rows(diff, view)
    if all_rows or view.is_set:
        counted = f"all {len(rows)}" if len(rows) == len(diff.pairs) else f"{len(rows)} of {len(diff.pairs)}"
        order = f"by {view.sort}" if view.sort else "in execution order"
        title = f"{counted} pairs, {order}"
    else:
        keep = {m.pair.reference for m in (*diff.worst(WORST), *(m for m in diff.pairs if m.status is Status.FAULT))}
        rows = [(k, m) for k, m in rows if m.pair.reference in keep | diff.outputs]
        shown = "faults, outputs" if diff.faults else "outputs"
        title = f"{shown} and the {min(WORST, len(diff.pairs))} worst of {len(diff.pairs)} pairs (--all: every one)"
    if not diff.pairs:
        return
    line()
    line((title, "bold"))
    if rows:
        blocks = console.encoding.lower().startswith("utf")
        legend = f"{'█' if blocks else '#'} own error, {'░' if blocks else '.'} accumulated; relative L2, logarithmic"
        console.print(pairs_table(rows, view, console.width, causes_of_tensors(diff), blocks=blocks))
        if not view.columns or "bar" in view.columns:
            line((legend, "dim"))
    line()


def _render_unmatched(diff: Result, console: Console) -> None:
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


def _render_rest(diff: Result, console: Console) -> None:
    from rich.text import Text

    for side, items, skipped in (
        ("reference", diff.matching.unmatched_reference, diff.matching.skipped_reference),
        ("candidate", diff.matching.unmatched_candidate, diff.matching.skipped_candidate),
    ):
        for u in items:
            console.print(Text(f"{side} {u.kind}: {clean(u.name)} ({clean(u.op)}): {clean(u.reason)}"))
        if skipped:
            console.print(Text(f"{side} skipped: {len(skipped)} (constants, integers, ...; listed in --json)", "dim"))
