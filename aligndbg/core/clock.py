"""Seconds and peak memory by stage, time limits, and the progress shown meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aligndbg.core.errors import UsageError
from aligndbg.core.process_memory import forget_peaks, peak_bytes
from aligndbg.core.types import Backend

__all__ = ["Clock", "Progress"]

Progress = Callable[[str, int, int | None], None]


@dataclass
class Clock:
    """Seconds and peak memory by stage, and the progress shown while a stage runs.

    `limit` is how many seconds pairing may take in all, and comparing. Memory is that of this process and of the
    `sides` that run in one of their own, in bytes; see `core.process_memory`.
    """

    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    sides: tuple[Backend, ...] = ()
    limit: float | None = None

    @contextmanager
    def pairing(self) -> Iterator[Callable[[], None]]:
        """The stage "match", and what it calls now and then: raises UsageError once the limit is passed."""
        with self.stage("match"):
            yield self.watch("match", "pairing the two models' tensors")

    @contextmanager
    def comparing(self, total: int) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
        """The stage "compare": what is called before each pair, with the same limit, and what after it."""
        watch = self.watch("compare", "comparing the paired tensors")
        with self.stage("compare", total) as step:
            yield watch, step

    def watch(self, stage: str, doing: str) -> Callable[[], None]:
        """What a stage that begins now calls now and then: raises UsageError once all its rounds are past the limit."""
        end = None if self.limit is None else time.perf_counter() + self.limit - self.seconds.get(stage, 0.0)

        def tick() -> None:
            if end is not None and time.perf_counter() > end:
                fact = f"{doing} ran past {self.limit:g} s and was stopped"
                raise UsageError(fact, hint="raise --timeout, or compare a smaller part of the models")

        return tick

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if self.progress:
                self.progress(name, done, total)

        start = time.perf_counter()
        forget_peaks(self._pids())
        if self.progress:
            self.progress(name, 0, total)
        try:
            yield step
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            peak = peak_bytes(self._pids())
            if peak is not None:
                self.memory[name] = max(self.memory.get(name, 0), peak)

    def _pids(self) -> list[int]:
        return [os.getpid(), *(pid for side in self.sides if (pid := side.pid))]
