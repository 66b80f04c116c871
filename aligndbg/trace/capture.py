"""One run of one side: every value goes to the store, and every fingerprint is made on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np

from aligndbg.core.arrays import bytes_of
from aligndbg.core.clock import Clock
from aligndbg.core.errors import FeedError, UnsupportedError, UsageError, nearest
from aligndbg.core.types import FLOAT_DTYPES, Array, Backend, Graph, Trace
from aligndbg.measure.fingerprint import Fingerprint, fingerprint
from aligndbg.trace.store import Store

__all__ = ["Captured", "capture", "capture_with_prints"]

Observer = Callable[[str, Array], None]


class _Recorded(Protocol):
    def trace(self) -> Trace: ...


def capture(
    backend: Backend,
    feeds: Mapping[str, Array] | None,
    *,
    store: Store | None = None,
    fetch: Sequence[str] | None = None,
    observe: Observer | None = None,
    max_memory: int | None = None,
    overrides: Mapping[str, Array] | None = None,
) -> Trace:
    """The values of one run: the feeds, then every tensor that can be tapped (or those of `fetch`) in execution order.

    They go to `store` (default: a new one that spills past `max_memory` bytes), and `observe(name, array)` sees each
    once it is there, before the next one comes. What cannot be had is in `missing`, with the reason. `overrides` are
    those of `Backend.run`.
    A recorded trace is returned as it is (`fetch` narrows it): feeds that differ from its own raise UsageError,
    overrides UnsupportedError. Otherwise raises what `Backend.run` does.
    """
    if "run" not in backend.capabilities:
        if overrides:
            raise UnsupportedError("a recorded trace cannot be run with overrides", context=backend.info.path)
        return _replay(cast(_Recorded, backend).trace(), feeds, fetch, observe)
    if feeds is None:
        raise FeedError("a model that is run needs feeds", context=backend.info.path)
    feeds = _own(feeds)
    graph = _graph_on(backend, feeds)
    wanted = tuple(dict.fromkeys(_everything(graph) if fetch is None else fetch))
    values = Store(max_memory) if store is None else store

    def keep(name: str, array: Array) -> None:
        values.put(name, array)
        if observe is not None:
            observe(name, array)

    for name in graph.inputs:
        if name in feeds and (fetch is None or name in wanted):
            keep(name, feeds[name])
    for name, array in backend.run(feeds, [name for name in wanted if name not in values], overrides):
        keep(name, array)
        del array  # what was spilled goes before the next comes
    missing = dict(graph.untapped) if fetch is None else {}
    missing |= {name: "the run gave no value" for name in wanted if name not in values and name not in missing}
    known = backend.graph()  # asked again: some backends learn shapes and dtypes by running
    return Trace(backend.info, known, values, feeds, tuple(values), missing)


def _graph_on(backend: Backend, feeds: Mapping[str, Array]) -> Graph:
    """The graph on these feeds, where it depends on them."""
    if backend.graph().by_feeds:
        for _ in backend.run(feeds, ()):
            pass
    return backend.graph()


def _own(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Copies: a trace must still hold what was fed when the caller's buffers have changed."""
    return {name: np.array(array) for name, array in feeds.items()}


def _everything(graph: Graph) -> tuple[str, ...]:
    """All node outputs that can be had, and model outputs that no node computes (a constant, an input)."""
    return *graph.tappable(), *(name for name in graph.outputs if name not in graph.untapped)


def _replay(
    trace: Trace, feeds: Mapping[str, Array] | None, fetch: Sequence[str] | None, observe: Observer | None
) -> Trace:
    if feeds is not None:
        if trace.feeds is None:
            trace = replace(trace, feeds=_own(feeds))
        else:
            _check_same(trace.feeds, feeds, trace.info.path)
    if fetch is not None:
        for name in fetch:
            if name not in trace.values:
                hint = trace.missing.get(name) or nearest(name, trace.order)
                raise UsageError(f"the trace has no value of {name!r}", context=trace.info.path, hint=hint)
        trace = replace(trace, order=tuple(name for name in trace.order if name in set(fetch)))
    if observe is not None:
        for name in trace.order:
            observe(name, trace.values[name])
    return trace


def _check_same(recorded: Mapping[str, Array], given: Mapping[str, Array], path: str) -> None:
    hint = "leave the feeds out: a trace brings its own"
    for name, array in given.items():
        if name not in recorded:
            raise UsageError(f"the trace has no feed {name!r}", context=path, hint=nearest(name, recorded))
        one, other = recorded[name], np.asarray(array)
        if one.shape != other.shape or one.dtype != other.dtype:
            fact = f"{other.dtype}{list(other.shape)} given, {one.dtype}{list(one.shape)} recorded"
            raise UsageError(f"the feed {name!r} conflicts with the trace: {fact}", context=path, hint=hint)
        if not np.array_equal(bytes_of(one), bytes_of(other)):
            raise UsageError(f"the feed {name!r} is not the one that was recorded", context=path, hint=hint)


@dataclass
class Captured:
    """A run of one side, and the fingerprints of its float and quantized tensors."""

    trace: Trace
    prints: dict[str, Fingerprint]


def capture_with_prints(
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
    made: dict[str, Fingerprint] = {}
    with clock.stage(stage, len(backend.graph().tappable()) or None) as step:
        runs = feeds is not None and "run" in backend.capabilities
        graph = _graph_on(backend, feeds) if runs else backend.graph()  # type: ignore[arg-type]

        def observe(name: str, value: Array) -> None:
            info = graph.tensors.get(name)
            quant = info.quant if info else None
            if prints and (quant is not None or str(value.dtype) in FLOAT_DTYPES):
                made[name] = fingerprint(value, quant)
            if arrived is not None:
                arrived(name)
            step()

        trace = capture(backend, feeds, store=store, observe=observe, overrides=overrides)
    return Captured(trace, made)
