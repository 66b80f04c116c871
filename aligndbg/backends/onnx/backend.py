"""ONNX models on ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from aligndbg.backends.base import (
    BaseBackend,
    Kept,
    check_names,
    check_options,
    checked_feeds,
    checked_overrides,
    choice,
    count,
    digest,
    sessions_kept,
    tensor_of,
)
from aligndbg.backends.onnx.branches import PathOfRun
from aligndbg.backends.onnx.edit import tapped
from aligndbg.backends.onnx.file import OnnxModel
from aligndbg.backends.onnx.graph import NOT_TENSORS, build_graph
from aligndbg.backends.onnx.segments import SegmentedRun, cut_graph, sizes_on, whole
from aligndbg.backends.onnx.session import (
    CPU,
    LEVELS,
    Session,
    from_ort,
    make_session,
    ort_type,
    resolve_provider,
    runtime,
    session_of,
)
from aligndbg.backends.segments import share
from aligndbg.core.errors import ModelError, UnsupportedError
from aligndbg.core.regions import needed
from aligndbg.core.types import Array, Graph, Key, ModelInfo, Overrides, TensorInfo

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = ["OnnxBackend"]


WIDENED = ("float16", "bfloat16")  # on a CPU ORT keeps these as float32 between nodes: a cut would round them


class _Run(NamedTuple):
    """A run with its sessions, and the inputs that stand for overrides."""

    run: SegmentedRun
    stand_ins: Mapping[Key, str]


class OnnxBackend(BaseBackend):
    """One .onnx file in ONNX Runtime: graph, run and override.

    With `graph_optimization` above `disable`, the graph is the one ONNX Runtime optimizes to, saved once and then run
    as it is: marking tensors in the original would change what is fused, and so the values.

    Raises UsageError for an unknown option or value, ModelError for a file that cannot be read.
    """

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "graph_optimization": "disable (default), basic, extended or all: how far ONNX Runtime may rewrite the graph",
        "provider": "cpu (default), cuda, ...: the execution provider, by short or full name",
        "threads": "a number (default 0: as many as ONNX Runtime chooses)",
    }
    capabilities = frozenset({"graph", "run", "override"})

    def __init__(self, target: str, options: Mapping[str, str]) -> None:
        check_options("onnx", self.OPTIONS, options)
        self._level = choice(options, "graph_optimization", "disable", LEVELS)
        self._provider = resolve_provider(options.get("provider", "cpu"))
        self._threads = count(options, "threads", 0)
        opened = {"graph_optimization": self._level, "provider": self._provider, "threads": str(self._threads)}
        self.info = ModelInfo(target, "onnx", f"onnxruntime {runtime().__version__}", opened)
        self._path = target
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._seen_bytes: dict[str, int] = {}
        self._model = OnnxModel(target)
        if self._level != "disable":
            self._model = self._optimized()
        self._runs: Kept[_Run] = Kept(sessions_kept(self._model.weight_bytes))
        self._path_of_run = PathOfRun(self._model)
        self._graph: Graph | None = None
        self._shown: Graph | None = None  # with what was seen in runs
        self._rank: dict[str, int] = {}
        self._seen_shapes: dict[str, tuple[int, ...]] = {}  # of tensors whose rank the file leaves open

    def graph(self) -> Graph:
        """The main graph in execution order; values inside bodies are in `untapped`.

        It is that of the last run: an If is replaced by the branch taken, a rank that the file leaves open is known.
        """
        graph = self._described()
        if self._shown is None:
            seen = {name: replace(graph.tensors[name], shape=shape) for name, shape in self._seen_shapes.items()}
            notes = (*graph.notes, *self._path_of_run.notes())
            tensors = {**graph.tensors, **seen}
            self._shown = replace(graph, tensors=tensors, notes=notes, by_feeds=self._path_of_run.by_feeds)
        return self._shown

    def _use(self, model: OnnxModel) -> None:
        self._model, self._graph, self._shown = model, None, None
        self._runs.clear()
        self._seen_shapes.clear()

    def _described(self) -> Graph:
        """The graph as the file, and the branches taken, describe it."""
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
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """Yields (name, array) in execution order; see `Backend.run`. Arguments are checked before it returns.

        When only graph outputs are fetched and nothing is overridden, the file runs as it is, without taps. Overrides
        do not change which branches are taken: the feeds do.
        """
        if self._path_of_run.asks(feeds):
            self._follow(feeds)
        return self._checked_run(feeds, fetch, overrides)

    def _checked_run(
        self, feeds: Mapping[str, Array], fetch: Iterable[str], overrides: Overrides | None = None
    ) -> Iterator[tuple[str, Array]]:
        graph = self._described()
        check_names(graph, self._rank, fetch, (), self._path)
        changed = checked_overrides(graph, self._rank, overrides, self._path)
        names = sorted(set(fetch), key=self._rank.__getitem__)
        places, fed = needed(graph, names, changed)
        return self._values(names, self._checked(feeds, fed), changed, places)

    def _follow(self, feeds: Mapping[str, Array]) -> None:
        """Enters the branches that these feeds take."""
        path = self._path_of_run
        for model in path.follow(lambda n: dict(self._checked_run(feeds, n)), lambda: self._asked(()) is not None):
            self._use(model)

    def release(self) -> None:
        """Drops the sessions: each holds the weights, in the order that its kernels want."""
        self._runs.clear()

    def close(self) -> None:
        """Drops the sessions and the temporary files."""
        self.release()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _values(
        self, names: list[str], feeds: dict[str, Array], overrides: dict[Key, Array], places: list[int]
    ) -> Iterator[tuple[str, Array]]:
        stored = set(self._model.stored())
        heads = [name for name in names if name not in feeds and name not in stored]
        for name in names:
            if name in feeds:
                yield name, np.array(feeds[name])
            elif name in stored:
                yield name, self._model.constant(name)
        if not heads:
            return
        learns = not overrides
        run, stand_ins = self._run_of(heads, feeds, overrides, places)
        given = feeds | {stand_in: overrides.pop(name) for name, stand_in in stand_ins.items()}
        try:
            for name, held, again in run.values(given, self._path):
                array = self._array(name, held, again)
                if learns:
                    self._learn(name, array.shape)
                yield name, array
                del array  # before the next is made
        except UnsupportedError as error:
            fed = {stand_in: tensor_of(key) for key, stand_in in stand_ins.items()}
            raise UnsupportedError(error.fact, context=fed.get(error.context, error.context)) from error

    def _learn(self, name: str, shape: tuple[int, ...]) -> None:
        info = self._described().tensors.get(name)
        if info is not None and info.shape is None and self._seen_shapes.get(name) != shape:
            self._seen_shapes[name] = shape
            self._shown = None

    def _array(self, name: str, held: list[Any], again: bool) -> Array:
        array = from_ort(held.pop(), name)  # taken, so that nothing is held here while the reader has it
        self._seen_bytes[name] = array.nbytes
        return array.copy() if again else array  # the reader may write into it

    def _checked(self, feeds: Mapping[str, Array], read: Collection[str]) -> dict[str, Array]:
        graph = self._described()
        for name in read:
            kind = graph.tensors.get(name, TensorInfo(name)).dtype
            if kind in ("sequence", "optional", "map"):
                raise UnsupportedError(f"input {name!r} is of {kind} type; only tensors can be fed")
        return checked_feeds(graph, feeds, self._path, read)

    def _run_of(
        self, heads: list[str], feeds: Mapping[str, Array], overrides: Mapping[Key, Array], places: list[int]
    ) -> _Run:
        """The run that yields `heads` with these overrides in it. The last few are kept."""
        fed = all(name in feeds for name in self._described().inputs)
        plain = not overrides and fed and set(heads) <= set(self._described().outputs)
        sizes = self._sizes(feeds)
        large = sum(sizes.get(name, 0) for name in heads) // share(self._bound)  # it was cut for as much
        key = (plain, tuple(heads), self._override_key(overrides), large)
        return self._runs.get_or_make(
            key, lambda: self._plain(heads) if plain else self._tapped(heads, feeds, overrides, places)
        )

    def _plain(self, heads: list[str]) -> _Run:
        def make(_: onnx.ModelProto) -> Session:
            return Session(self._session_of_file(), {})

        return _Run(SegmentedRun(self._model.proto, heads, [whole(self._model.proto.graph)], make, keep=True), {})

    def _tapped(
        self, heads: list[str], feeds: Mapping[str, Array], overrides: Mapping[Key, Array], places: list[int]
    ) -> _Run:
        edited = tapped(self._model.proto, heads, overrides, self._model.fixed(), places)
        segments = [whole(edited.proto.graph)]
        texts = any(array.dtype.kind in "OUS" for array in feeds.values())
        if self._provider == CPU and not texts:
            sizes = self._sizes(feeds) | {name: overrides[key].nbytes for key, name in edited.stand_ins.items()}
            segments = cut_graph(
                edited.proto.graph, sizes, share(self._bound), self._described().constants, self._passable
            )
        make = partial(self._make, held=edited.held)
        return _Run(SegmentedRun(edited.proto, heads, segments, make, keep=self._runs.most > 1), edited.stand_ins)

    def _sizes(self, feeds: Mapping[str, Array]) -> dict[str, int]:
        """Bytes of each tensor as far as known; of a weight twice, as kernels pack it."""
        return sizes_on(self._described(), feeds) | self._seen_bytes | self._model.packed_sizes()

    def _passable(self, name: str) -> bool:
        info = self._described().tensors.get(name)
        return info is not None and info.dtype not in ("", *NOT_TENSORS, *WIDENED)

    def _override_key(self, overrides: Mapping[Key, Array]) -> frozenset[tuple[Key, str, bytes]]:
        """Names and dtypes; for constants the values, too, since they become part of the session."""
        fixed = self._model.fixed()
        return frozenset(
            (key, array.dtype.name, digest(array) if tensor_of(key) in fixed else b"")
            for key, array in overrides.items()
        )

    def _make(self, proto: onnx.ModelProto, *, held: Mapping[str, Array], prepack: bool = True) -> Session:
        return session_of(
            self._model,
            proto,
            name=self._path,
            held=held,
            provider=self._provider,
            threads=self._threads,
            prepack=prepack,
        )

    def _ask_runtime(self, names: list[str]) -> dict[str, TensorInfo]:
        """Types as ORT infers them."""
        session = self._asked(names)
        return {  # of an unknown rank ORT says the same as of none
            item.name: TensorInfo(item.name, tuple(item.shape) if item.shape else None, ort_type(item.type))
            for item in (session.ort.get_outputs() if session is not None else ())
        }

    def _asked(self, names: Sequence[str]) -> Session | None:
        """A session to ask for types; None where ORT refuses: the file can still be listed, and running it says why."""
        try:
            return self._make(tapped(self._model.proto, names, {}).proto, held={}, prepack=False)
        except ModelError:
            return None

    def _optimized(self) -> OnnxModel:
        """The model that ONNX Runtime makes of ours."""
        self._folder = tempfile.TemporaryDirectory(prefix="aligndbg-")
        saved = str(Path(self._folder.name) / "optimized.onnx")
        self._session_of_file(saved)
        return OnnxModel(saved)

    def _session_of_file(self, save_to: str = "") -> onnxruntime.InferenceSession:
        opened = partial(make_session, self._path, name=self._path, provider=self._provider, threads=self._threads)
        return opened(level=self._level, save_to=save_to)
