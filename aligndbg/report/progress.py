"""Progress on stderr, where that is a terminal: one line a stage, with its count, rate, time and time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task, TaskID

__all__ = ["progress_bars"]

# A stage that has made no step yet (a runtime yields its first value when it has computed the last) is expected to
# take as long as the stages that ran the same models before it.
EXPECTED_AS = {
    "run candidate": ("run reference",),
    "checks": ("run reference", "run candidate"),
    "isolate": ("run candidate",),
}


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

    class Left(ProgressColumn):
        """`about 12 s left`: at the rate of the steps so far, or as long as the stages that it is EXPECTED_AS took."""

        def render(self, task: Task) -> Text:
            return Text("" if task.finished else _left(_seconds_left(task, bars.tasks)), style="dim")

    columns = (SpinnerColumn(finished_text="·"), TextColumn("{task.description:<14}"), BarColumn(24))
    with Progress(*columns, TimeElapsedColumn(), Count(), Left(), console=console, transient=True) as bars:
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


def _seconds_left(task: Task, tasks: Iterable[Task]) -> float | None:
    """The less of the two: the rate is far too low right after the wait for the first value."""
    took = {other.description: other.finished_time for other in tasks if other.finished_time is not None}
    like = [took[name] for name in EXPECTED_AS.get(task.description, ()) if name in took]
    over = sum(like) - (task.elapsed or 0.0)
    known = [seconds for seconds in (task.time_remaining, over) if seconds is not None and seconds > 0]
    return min(known, default=None)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = max(1, round(seconds))
    return f"about {whole} s left" if whole < 120 else f"about {round(whole / 60)} min left"


def _count(done: float, total: float | None, speed: float | None) -> str:
    if total is None or total <= 1:
        return ""  # a stage without steps
    rate = f"  {speed:,.0f}/s" if speed else ""
    return f"{done:.0f}/{total:.0f} tensors{rate}"
