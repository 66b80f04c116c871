"""The terminal report: what matters first, whole numbers in any width, names that cannot drive the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aligndbg.core.types import Cause, Unmatched, UnmatchedClass
from aligndbg.diff_result import Diff
from aligndbg.report.terminal import render_text


def harmless(text: str) -> bool:
    return all(ch.isprintable() or ch == "\n" for ch in text)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("all_rows", [False, True])
def test_no_line_is_longer_than_the_width(
    aligned: Diff, diverged: Diff, silent: Diff, hostile: Diff, width: int, all_rows: bool
) -> None:
    for diff in (aligned, diverged, silent, hostile):
        text = render_text(diff, all_rows=all_rows, width=width)
        assert max(map(len, text.splitlines())) <= width


def test_the_verdict_comes_first_then_the_fault_then_the_table(diverged: Diff) -> None:
    lines = render_text(diverged, width=80).splitlines()
    assert lines[0].startswith("DIVERGED  1 fault")
    fault = next(i for i, line in enumerate(lines) if line.startswith("fault 1: Add against Add"))
    table = next(i for i, line in enumerate(lines) if "rel L2" in line)
    assert fault < table
    assert lines[fault + 1].startswith("  bias: the candidate's result is the reference's plus 0.5")
    place = next(i for i, line in enumerate(lines) if "shifted" in line)
    assert fault < place < table
    assert lines[place + 1].split() == ["shift"]


def test_an_aligned_run_has_no_fault_and_no_divergence(aligned: Diff) -> None:
    text = render_text(aligned)
    assert text.startswith("ALIGNED")
    assert "fault" not in text
    assert "divergence" not in text
    assert "3 compared, 0 unobservable, 0 one-sided, 0 unmatched of 3" in text


def test_a_divergence_that_is_no_fault_names_the_first_place(diverged: Diff) -> None:
    text = render_text(replace(diverged, faults=()), width=100)
    assert "first divergence: shifted (Add) against shifted (Add)" in text


def test_undefined_values_are_dashes(silent: Diff) -> None:
    row = next(line for line in render_text(silent, all_rows=True).splitlines() if line.split()[:2] == ["unknown", "y"])
    assert row.split()[-1] == "-"
    assert "nan" not in row


def test_causes_and_a_cut_search_are_said(diverged: Diff) -> None:
    cause = Cause("bias", "the candidate adds 0.5 to every value", 0.3, 1e-8)
    told = replace(diverged, faults=(replace(diverged.faults[0], cause=cause),), truncated=True)
    text = render_text(told, width=200)
    assert "bias: the candidate adds 0.5 to every value" in text
    assert "--max-faults" in text


def test_lost_tensors_are_counted_and_listed_on_demand(aligned: Diff) -> None:
    lost = tuple(Unmatched(f"lost{i}", "Op", UnmatchedClass.UNMATCHED, "no value agrees") for i in range(5))
    diff = replace(aligned, matching=replace(aligned.matching, unmatched_candidate=lost))
    short, full = render_text(diff), render_text(diff, all_rows=True)
    assert "unmatched on the candidate: lost0 (Op): no value agrees" in short
    assert "lost4" not in short
    assert "and 2 more (--all" in short
    assert "candidate unmatched: lost4" in full


def test_warnings_are_shown(aligned: Diff) -> None:
    assert "warning: look here" in render_text(replace(aligned, warnings=("look here",)))


def test_names_cannot_drive_the_terminal(hostile: Diff) -> None:
    cause = Cause("bias", "of \x1b[2J")
    diff = replace(hostile, faults=tuple(replace(f, cause=cause) for f in hostile.faults), warnings=("\x1b[5m",))
    for all_rows in (False, True):
        text = render_text(diff, all_rows=all_rows, width=250)
        assert harmless(text)
        assert "[bold red]loud[/]" in text
        assert "\\x1b[31m\\x9b\\x202e\\x0aend" in text
        assert "\\x1b[2JOp" in text


def test_the_report_is_text_in_jupyter_too(
    diverged: Diff, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where rich believes that it is in a notebook, it would print nothing and show each line as an output."""
    plain = str(diverged)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert str(diverged) == plain
    diverged.print()
    assert plain.splitlines()[0] in capsys.readouterr().out


def test_a_cause_is_a_sentence_with_what_to_change(diverged: Diff) -> None:
    details = {
        "change": "pad as the reference does",
        "attributes": [
            {"op": "Conv", "attribute": "pads", "reference": [0, 0, 1, 1], "candidate": [1, 1, 1, 1], "same": False},
            {"op": "Conv", "attribute": "strides", "reference": [2, 2], "candidate": [2, 2], "same": True},
        ],
    }
    cause = Cause("padding", "the candidate pads (1,1), the reference (0,1)", 0.5, 1e-7, details)
    whole = Cause("flip", "the candidate is fed a mirrored image", 1.0, 0.0)
    text = render_text(replace(diverged, faults=(replace(diverged.faults[0], cause=cause),), causes=(whole,)))
    assert "padding: the candidate pads (1,1), the reference (0,1)" in text
    assert "to change: pad as the reference does" in text
    assert "Conv.pads: [0, 0, 1, 1] against [1, 1, 1, 1]" in text
    assert "strides" not in text
    assert text.index("flip: the candidate is fed") < text.index("fault 1")
