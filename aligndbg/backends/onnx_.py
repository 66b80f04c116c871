"""ONNX models on ONNX Runtime."""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from aligndbg._errors import FeedError, ModelError, UnsupportedError, UsageError, nearest
from aligndbg._types import Array, Graph, ModelInfo, TensorInfo
from aligndbg.backends._onnx_graph import build_graph
from aligndbg.backends._onnx_model import OnnxModel
from aligndbg.backends._onnx_rewrite import Tapped, constant_part, tapped
from aligndbg.backends._onnx_session import (
    LEVELS,
    from_ort,
    make_session,
    ort_type,
    resolve_provider,
    run_session,
    runtime,
    to_ort,
)

__all__ = ["OnnxBackend"]

SESSIONS_KEPT = 2
LARGE_FILE = 64 << 20  # bytes of weights from which only the last session is kept: each packs its own copy
PLAIN = "plain"


class _Session(NamedTuple):
    """An ORT session, the inputs that stand for overrides, and arrays whose memory it reads."""

    session: Any
    stand_ins: Mapping[str, str]
    held: Mapping[str, Array]


class OnnxBackend:
    """One .onnx file in ONNX Runtime: graph, run and override.

    With `graph_optimization` above `disable`, the graph is the one ONNX Runtime optimizes to, saved once and then run
    as it is: marking tensors in the original would change what is fused, and so the values.

    Raises UsageError for an unknown option or value, ModelError for a file that cannot be read.
    """

    OPTIONS: ClassVar[dict[str, str]] = {
        "graph_optimization": "disable (default), basic, extended or all: how far ONNX Runtime may rewrite the graph",
        "provider": "cpu (default), cuda, ...: the execution provider, by short or full name",
        "threads": "a number (default 0: as many as ONNX Runtime chooses)",
    }
    capabilities = frozenset({"graph", "run", "override"})

    def __init__(self, target: str, options: Mapping[str, str]) -> None:
        for name in options:
            if name not in self.OPTIONS:
                raise UsageError(f"unknown option {name!r} of an ONNX model", hint=nearest(name, self.OPTIONS))
        self._level = _choice("graph_optimization", options.get("graph_optimization", "disable"), LEVELS)
        self._provider = resolve_provider(options.get("provider", "cpu"))
        self._threads = _count("threads", options.get("threads", "0"))
        opened = {"graph_optimization": self._level, "provider": self._provider, "threads": str(self._threads)}
        self.info = ModelInfo(target, "onnx", f"onnxruntime {runtime().__version__}", opened)
        self._path = target
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._sessions: OrderedDict[Any, _Session] = OrderedDict()
        self._model = OnnxModel(target)
        if self._level != "disable":
            self._model = self._optimized()
        self._weights: dict[str, Any] = {}
        self._graph: Graph | None = None
        self._rank: dict[str, int] = {}

    def graph(self) -> Graph:
        """The main graph in execution order; values inside bodies of If, Loop and Scan are in `untapped`."""
        if self._graph is None:
            self._graph = build_graph(self._model, self._ask_runtime)
            produced = (name for node in self._graph.nodes for name in node.outputs if name)
            names = dict.fromkeys((*self._graph.inputs, *self._model.stored(), *produced))
            self._rank = {name: i for i, name in enumerate(names)}
        return self._graph

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Mapping[str, Array] | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """Yields (name, array) in execution order; see `Backend.run`. Arguments are checked before it returns.

        When only graph outputs are fetched and nothing is overridden, the file runs as it is, without taps.
        """
        graph = self.graph()
        overrides = {name: np.asarray(array) for name, array in (overrides or {}).items()}
        names = sorted(set(fetch), key=lambda name: self._position(name, "fetch"))
        for name in names:
            self._refuse_untapped(name)
        for name, array in overrides.items():
            self._position(name, "override")
            self._refuse_untapped(name)
            _check(f"override of {name!r}", graph.tensors.get(name, TensorInfo(name)), array)
        without_feeds = bool(graph.inputs) and not feeds and all(name in graph.constants for name in names)
        arrays = {} if without_feeds else self._checked_feeds(feeds)
        return self._values(names, arrays, overrides, without_feeds)

    def release(self) -> None:
        """Drops the sessions: each holds the weights, in the order that its kernels want."""
        self._sessions.clear()

    def close(self) -> None:
        """Drops the sessions and the temporary files."""
        self._sessions.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _values(
        self, names: list[str], feeds: dict[str, Array], overrides: dict[str, Array], without_feeds: bool
    ) -> Iterator[tuple[str, Array]]:
        stored = set(self._model.stored())
        heads = [name for name in names if name not in feeds and name not in stored]
        results: list[Any] = []
        if heads:
            made = self._session(heads, overrides, without_feeds)
            given = {stand_in: overrides[name] for name, stand_in in made.stand_ins.items()}
            try:
                results = run_session(made.session, heads, feeds | given, self._path)
            except UnsupportedError as error:
                fed = {stand_in: name for name, stand_in in made.stand_ins.items()}
                raise UnsupportedError(error.fact, context=fed.get(error.context, error.context)) from error
        results.reverse()
        for name in names:
            if name in feeds:
                yield name, np.array(feeds[name])
            elif name in stored:
                yield name, self._model.constant(name)
            else:
                yield name, from_ort(results.pop(), name)  # popped, so that ORT's memory goes as we go

    def _position(self, name: str, what: str) -> int:
        self.graph()
        if name in self._rank:
            return self._rank[name]
        self._refuse_untapped(name)
        raise UsageError(f"cannot {what} {name!r}: there is no such tensor", context=self._path, hint=self._near(name))

    def _near(self, name: str) -> str:
        return nearest(name, self._rank)

    def _refuse_untapped(self, name: str) -> None:
        reason = self.graph().untapped.get(name)
        if reason:
            raise UnsupportedError(f"it cannot be fetched or overridden: it is {reason}", context=name)

    def _checked_feeds(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        graph = self.graph()
        for name in feeds:
            if name not in graph.inputs:
                constant = " (it is a constant: override it instead)" if name in graph.constants else ""
                raise FeedError(f"no input is called {name!r}{constant}", hint=nearest(name, graph.inputs))
        arrays = {}
        for name in graph.inputs:
            info = graph.tensors.get(name, TensorInfo(name))
            if info.dtype in ("sequence", "optional", "map"):
                raise UnsupportedError(f"input {name!r} is of {info.dtype} type; only tensors can be fed")
            if name not in feeds:
                raise FeedError(f"input {name!r} is missing: expected {_spell(info.dtype, info.shape)}")
            arrays[name] = np.asarray(feeds[name])
            _check(f"input {name!r}", info, arrays[name])
        return arrays

    def _session(self, heads: Sequence[str], overrides: Mapping[str, Array], without_feeds: bool) -> _Session:
        """The session that yields `heads` with these overrides in it. The last few are kept."""
        plain = not overrides and not without_feeds and set(heads) <= set(self.graph().outputs)
        key = PLAIN if plain else (frozenset(heads), self._override_key(overrides), without_feeds)
        if key not in self._sessions:
            while len(self._sessions) >= self._room():  # the oldest goes before the new one takes memory
                self._sessions.popitem(last=False)
            if plain:
                made = make_session(
                    self._path, name=self._path, provider=self._provider, threads=self._threads, level=self._level
                )
                self._keep(key, _Session(made, {}, {}))
            else:
                proto = self._model.proto
                base = constant_part(proto, self.graph().constants) if without_feeds else proto
                self._keep(key, self._tapped(tapped(base, heads, overrides, self._model.fixed())))
        self._sessions.move_to_end(key)
        return self._sessions[key]

    def _override_key(self, overrides: Mapping[str, Array]) -> frozenset[tuple[str, str, str]]:
        """Names and dtypes; for constants the values, too, since they become part of the session."""
        fixed = self._model.fixed()
        return frozenset(
            (name, array.dtype.name, _digest(array) if name in fixed else "") for name, array in overrides.items()
        )

    def _room(self) -> int:
        return 1 if self._model.weight_bytes > LARGE_FILE else SESSIONS_KEPT

    def _keep(self, key: Any, session: _Session) -> None:
        self._sessions[key] = session
        while len(self._sessions) > self._room():
            self._sessions.popitem(last=False)

    def _tapped(self, edited: Tapped) -> _Session:
        if not self._weights:
            self._weights = {name: to_ort(array, name) for name, array in self._model.weights.items()}
        there = {item.name for item in edited.proto.graph.initializer}
        weights = {name: weight for name, weight in self._weights.items() if name in there}
        weights |= {name: to_ort(array, name) for name, array in edited.held.items()}
        try:
            source = edited.proto.SerializeToString()
        except Exception as error:  # protobuf's limit of 2 GB; its class differs between implementations
            raise ModelError(
                f"too large without its initializers: {error}",
                context=self._path,
                hint="save large Constant nodes as initializers",
            ) from error
        made = make_session(
            source,
            name=self._path,
            provider=self._provider,
            threads=self._threads,
            weights=weights,
            data_folder=self._model.data_folder,
        )
        return _Session(made, edited.stand_ins, edited.held)

    def _ask_runtime(self, names: list[str]) -> dict[str, TensorInfo]:
        """Types as ORT infers them, from a session that the first capture then uses."""
        try:
            session = self._tapped(tapped(self._model.proto, names, {}))
        except ModelError:  # the file can still be listed; running it raises this again
            return {}
        self._keep((frozenset(names), frozenset(), False), session)
        return {
            item.name: TensorInfo(item.name, None if item.shape is None else tuple(item.shape), ort_type(item.type))
            for item in session.session.get_outputs()
        }

    def _optimized(self) -> OnnxModel:
        """The model that ONNX Runtime makes of ours. The session that made it serves as the untapped one."""
        self._folder = tempfile.TemporaryDirectory(prefix="aligndbg-")
        saved = str(Path(self._folder.name) / "optimized.onnx")
        session = make_session(
            self._path,
            name=self._path,
            provider=self._provider,
            threads=self._threads,
            level=self._level,
            save_to=saved,
        )
        self._keep(PLAIN, _Session(session, {}, {}))
        return OnnxModel(saved)


def _digest(array: Array) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _choice(option: str, value: str, known: Mapping[str, Any]) -> str:
    if value not in known:
        raise UsageError(f"{option}={value!r} is not known", hint=f"one of {', '.join(known)}")
    return value


def _count(option: str, value: str) -> int:
    if not value.isdecimal():
        raise UsageError(f"{option}={value!r} is not a number", hint=f"for example {option}=4")
    return int(value)


def _spell(dtype: str, shape: Sequence[int | str | None] | None) -> str:
    dims = "of any shape" if shape is None else "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
    return f"{dtype or 'any type'} {dims}"


def _check(what: str, info: TensorInfo, array: Array) -> None:
    """Raises FeedError unless the array has the dtype and, where known, the shape of the tensor."""
    dtype = "string" if array.dtype.kind in "OUS" else array.dtype.name
    fits = not info.dtype or dtype == info.dtype
    if info.shape is not None:
        fits = fits and len(info.shape) == array.ndim
        pairs = zip(info.shape, array.shape, strict=False)
        fits = fits and all(size == known for known, size in pairs if isinstance(known, int))
    if not fits:
        expected = _spell(info.dtype, info.shape)
        raise FeedError(f"{what}: expected {expected}, got {_spell(dtype, array.shape)}")
