"""Progress on stderr, where that is a terminal: one line a stage, with its count, rate and time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task, TaskID

__all__ = ["progress_bars"]


@contextmanager
def progress_bars(console: Console | None = None) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A callback for `diff(progress=...)` that draws on `console` (stderr); None where no one would see it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    if console is None:
        console = Console(stderr=True)
        if not sys.stderr.isatty():
            yield None
            return

    class Count(ProgressColumn):
        """`12/98 tensors`, and how many a second."""

        def render(self, task: Task) -> Text:
            return Text(_count(task.completed, task.total, task.finished_speed or task.speed), style="dim")

    columns = (SpinnerColumn(finished_text="·"), TextColumn("{task.description:<14}"), BarColumn(24))
    with Progress(*columns, TimeElapsedColumn(), Count(), console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if not done:  # a stage begins: what ran before it is over
                for other in bars.tasks:
                    if other.description != stage and not other.finished:
                        bars.update(other.id, total=other.completed or 1, completed=other.completed or 1)
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            elif not done:
                bars.reset(tasks[stage], total=total)
            bars.update(tasks[stage], completed=done, total=None if total is None else max(done, total))

        yield show


def _count(done: float, total: float | None, speed: float | None) -> str:
    if total is None or total <= 1:
        return ""  # a stage without steps
    rate = f"  {speed:,.0f}/s" if speed else ""
    return f"{done:.0f}/{total:.0f} tensors{rate}"
