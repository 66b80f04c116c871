"""The clock of explaining: seconds that this thread worked. What it waits for on a loaded machine is not counted, so
that the same causes come out there."""

from __future__ import annotations

import time

__all__ = ["RAISED_BY", "OutOfTimeError", "worked"]

RAISED_BY = "--explain-time"


class OutOfTimeError(Exception):
    """The time for explaining is spent."""


def worked() -> float:
    """Seconds of work of this thread, since some moment."""
    return time.thread_time()
