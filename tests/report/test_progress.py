"""Progress on stderr: stages, counts and rates where someone sees them, nothing anywhere else."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

import aligndbg
from aligndbg import MemoryBackend
from aligndbg.report.progress import progress_bars


def terminal(width: int = 100) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width, force_terminal=True, color_system=None, legacy_windows=False), out


def test_stages_counts_and_rates_are_drawn() -> None:
    console, out = terminal()
    with progress_bars(console) as show:
        assert show is not None
        show("load", 0, None)
        show("compare", 0, 40)
        for done in range(1, 41):
            show("compare", done, 40)
    drawn = out.getvalue()
    assert "load" in drawn
    assert "compare" in drawn
    assert "40/40 tensors" in drawn
    assert "/s" in drawn


def test_a_stage_that_comes_again_starts_again() -> None:
    console, out = terminal()
    with progress_bars(console) as show:
        assert show is not None
        for _ in range(2):
            show("isolate", 0, 2)
            show("isolate", 2, 2)
            show("match", 0, None)
    last = out.getvalue().split("isolate")[-1]
    assert "2/2 tensors" in last


def test_nothing_is_written_where_stderr_is_no_terminal(
    capsys: pytest.CaptureFixture[str], make_network: Callable[..., MemoryBackend]
) -> None:
    assert not sys.stderr.isatty()
    aligndbg.diff(make_network(), make_network(), progress=True)
    assert capsys.readouterr().err == ""
