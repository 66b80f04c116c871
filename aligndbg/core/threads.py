"""The same work on many items, in threads: numpy lets the interpreter go while it computes."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Submit", "in_threads", "one_blas_thread", "threads"]

MAX_THREADS = 8  # what is read comes from memory: more threads wait for it
Item = TypeVar("Item")
Result = TypeVar("Result")


class Submit(Protocol):
    def __call__(self, work: Callable[[], Result], size: int = 0) -> Future[Result]: ...


@contextmanager
def threads(memory_budget: int | None = None) -> Iterator[Submit]:
    """`submit(work, size)` has work done, in one of a few threads, and gives its future.

    Works run together while their sizes fit into `memory_budget`; a larger one runs alone. At the end what has not
    begun is left out, and what has is waited for.
    """
    from concurrent.futures import ThreadPoolExecutor

    gate = _Gate(math.inf if memory_budget is None else memory_budget)

    def admitted(work: Callable[[], Result], size: int) -> Result:
        with gate.held(size):
            return work()

    def submit(work: Callable[[], Result], size: int = 0) -> Future[Result]:
        return pool.submit(admitted, work, size)

    with ThreadPoolExecutor(min(MAX_THREADS, _cores())) as pool:
        try:
            yield submit
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    size: Callable[[Item], int] = lambda _: 0,
    memory_budget: int | None = None,
) -> Iterator[Result]:
    """`work` of each item, in `threads`, in the items' order. What it raises is raised here."""
    with threads(memory_budget) as submit:
        futures = deque([submit(partial(work, item), size(item)) for item in items])
        while futures:
            yield futures.popleft().result()


class _Gate:
    def __init__(self, memory_budget: float) -> None:
        self._memory_budget, self._held = memory_budget, 0
        self._changed = threading.Condition()

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + size <= self._memory_budget)
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


def one_blas_thread() -> AbstractContextManager[Any]:
    """Our dot products are short: a second BLAS thread only spins, and takes its core from the runtimes.

    Measured on a busy machine of two cores: 85 s with it, 12 s without.
    """
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits
