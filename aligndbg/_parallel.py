"""The same work on many items, in threads: numpy lets the interpreter go while it computes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["in_threads"]

MAX_THREADS = 8  # what is read comes from memory: more threads wait for it
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    size: Callable[[Item], int] = lambda _: 0,
    room: int | None = None,
) -> Iterator[Result]:
    """`work` of each item, in the items' order. What it raises is raised here, and what has not begun is left out.

    Items are worked on together while their sizes fit into `room`; a larger one is worked on alone.
    """
    from concurrent.futures import ThreadPoolExecutor

    gate = _Gate(room)

    def admitted(item: Item) -> Result:
        with gate.held(size(item)):
            return work(item)

    with ThreadPoolExecutor(min(MAX_THREADS, _cores())) as pool:
        try:
            yield from pool.map(work if room is None else admitted, items)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Gate:
    def __init__(self, room: int | None) -> None:
        self._room, self._held = room, 0
        self._changed = threading.Condition()

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + size <= (self._room or 0))
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
