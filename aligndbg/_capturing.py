"""One timed run of one side, with fingerprints; and the prints of its weights."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

from aligndbg._errors import UsageError
from aligndbg._memory import forget_peaks, peak_bytes
from aligndbg._types import FLOAT_DTYPES, Array, Backend, Trace
from aligndbg.match import Weights
from aligndbg.match.weights import WeightPrint, weight_print
from aligndbg.metrics import Fingerprint, fingerprint
from aligndbg.store import Store
from aligndbg.tracing import capture as capture_trace

__all__ = ["Captured", "Clock", "Progress", "capture", "weight_reader"]

SMALLEST_WEIGHT = 16  # elements; fewer have no fingerprint worth the name
Progress = Callable[[str, int, int | None], None]


@dataclass
class Clock:
    """Seconds and peak memory by stage, and the progress shown while a stage runs.

    `limit` is how many seconds pairing may take in all, and comparing. Memory is that of this process and of the
    `sides` that run in one of their own, in bytes; see `_memory`.
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
        return [os.getpid(), *(pid for side in self.sides if (pid := getattr(side, "pid", None)))]


@dataclass
class Captured:
    """A run of one side, and the fingerprints of its float and quantized tensors."""

    trace: Trace
    prints: dict[str, Fingerprint]


def capture(
    backend: Backend,
    feeds: Mapping[str, Array] | None,
    store: Store,
    clock: Clock,
    stage: str,
    prints: bool = True,
    overrides: Mapping[str, Array] | None = None,
    arrived: Callable[[str], None] | None = None,
) -> Captured:
    """One run with everything fetched; fingerprints are made as values stream by, and `arrived` is told their names."""
    graph = backend.graph()
    made: dict[str, Fingerprint] = {}
    with clock.stage(stage, len(graph.tappable()) or None) as step:

        def observe(name: str, value: Array) -> None:
            info = graph.tensors.get(name)
            quant = info.quant if info else None
            if prints and (quant is not None or str(value.dtype) in FLOAT_DTYPES):
                made[name] = fingerprint(value, quant)
            if arrived is not None:
                arrived(name)
            step()

        trace = capture_trace(backend, feeds, store=store, observe=observe, overrides=overrides)
    return Captured(trace, made)


def weight_reader(reference: Backend, candidate: Backend) -> Weights:
    """Prints of both sides' weights, read only if structure has to pair something."""

    @lru_cache(maxsize=1)
    def read() -> tuple[dict[str, WeightPrint], dict[str, WeightPrint]]:
        return _weight_prints(reference), _weight_prints(candidate)

    return read


def _weight_prints(backend: Backend) -> dict[str, WeightPrint]:
    if "run" not in backend.capabilities:
        return {}  # a trace keeps no weights
    tensors = backend.graph().tensors
    wanted = []
    for name in sorted({i for node in backend.graph().nodes for i in node.inputs} & backend.graph().constants):
        info = tensors.get(name)
        shape = info.static_shape if info else None
        if info is None or shape is None or len(shape) < 2 or math.prod(shape) < SMALLEST_WEIGHT:
            continue
        if info.dtype in FLOAT_DTYPES or info.quant is not None:
            wanted.append(name)
    out = {}
    for name, value in backend.run({}, wanted) if wanted else ():
        quant = tensors[name].quant
        out[name] = weight_print(quant.dequantize(value) if quant else value, quant is not None)
    return out
