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


def test_the_time_left_is_told_before_the_first_step_where_a_like_stage_ran() -> None:
    now = [0.0]
    console, out = terminal(140)
    console.get_time = lambda: now[0]  # type: ignore[method-assign]
    with progress_bars(console) as show:
        assert show is not None
        show("run reference", 0, 10)
        now[0] = 30.0
        show("run reference", 10, 10)
        show("run candidate", 0, 12)
        now[0] = 40.0
    assert "about 20 s left" in out.getvalue()


def test_the_time_left_follows_the_steps_once_there_are_some() -> None:
    now = [0.0]
    console, out = terminal(140)
    console.get_time = lambda: now[0]  # type: ignore[method-assign]
    with progress_bars(console) as show:
        assert show is not None
        show("run reference", 0, 1000)
        for done in range(1, 11):
            now[0] += 1.0
            show("run reference", done, 1000)
    assert "about 16 min left" in out.getvalue()  # 990 steps at one a second


def test_nothing_is_written_where_stderr_is_no_terminal(
    capsys: pytest.CaptureFixture[str], make_network: Callable[..., MemoryBackend]
) -> None:
    assert not sys.stderr.isatty()
    aligndbg.diff(make_network(), make_network(), progress=True)
    assert capsys.readouterr().err == ""
