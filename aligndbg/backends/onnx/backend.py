"""ONNX models on ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    to_ort,
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
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """Yields (name, array) in execution order; see `Backend.run`. Arguments are checked before it returns.

        When only graph outputs are fetched and nothing is overridden, the file runs as it is, without taps.
        """
        graph = self.graph()
        check_names(graph, self._rank, fetch, (), self._path)
        changed = checked_overrides(graph, self._rank, overrides, self._path)
        names = sorted(set(fetch), key=self._rank.__getitem__)
        places, fed = needed(graph, names, changed)
        arrays = self._checked(feeds, fed)
        return self._values(names, arrays, changed, places)

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
        run, stand_ins = self._run_of(heads, feeds, overrides, places)
        given = feeds | {stand_in: overrides.pop(name) for name, stand_in in stand_ins.items()}
        try:
            for name, held, again in run.values(given, self._path):
                yield name, self._array(name, held, again)
        except UnsupportedError as error:
            fed = {stand_in: tensor_of(key) for key, stand_in in stand_ins.items()}
            raise UnsupportedError(error.fact, context=fed.get(error.context, error.context)) from error

    def _array(self, name: str, held: list[Any], again: bool) -> Array:
        array = from_ort(held.pop(), name)  # taken, so that nothing is held here while the reader has it
        self._seen_bytes[name] = array.nbytes
        return array.copy() if again else array  # the reader may write into it

    def _checked(self, feeds: Mapping[str, Array], read: Collection[str]) -> dict[str, Array]:
        graph = self.graph()
        for name in read:
            kind = graph.tensors.get(name, TensorInfo(name)).dtype
            if kind in ("sequence", "optional", "map"):
                raise UnsupportedError(f"input {name!r} is of {kind} type; only tensors can be fed")
        return checked_feeds(graph, feeds, self._path, read)

    def _run_of(
        self, heads: list[str], feeds: Mapping[str, Array], overrides: Mapping[Key, Array], places: list[int]
    ) -> _Run:
        """The run that yields `heads` with these overrides in it. The last few are kept."""
        fed = all(name in feeds for name in self.graph().inputs)
        plain = not overrides and fed and set(heads) <= set(self.graph().outputs)
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
            segments = cut_graph(edited.proto.graph, sizes, share(self._bound), self.graph().constants, self._passable)
        make = partial(self._make, held=edited.held)
        return _Run(SegmentedRun(edited.proto, heads, segments, make, keep=self._runs.most > 1), edited.stand_ins)

    def _sizes(self, feeds: Mapping[str, Array]) -> dict[str, int]:
        """Bytes of each tensor as far as known; of a weight twice, as kernels pack it."""
        return sizes_on(self.graph(), feeds) | self._seen_bytes | self._model.packed_sizes()

    def _passable(self, name: str) -> bool:
        info = self.graph().tensors.get(name)
        return info is not None and info.dtype not in ("", *NOT_TENSORS, *WIDENED)

    def _override_key(self, overrides: Mapping[Key, Array]) -> frozenset[tuple[Key, str, bytes]]:
        """Names and dtypes; for constants the values, too, since they become part of the session."""
        fixed = self._model.fixed()
        return frozenset(
            (key, array.dtype.name, digest(array) if tensor_of(key) in fixed else b"")
            for key, array in overrides.items()
        )

    def _make(self, proto: onnx.ModelProto, *, held: Mapping[str, Array], prepack: bool = True) -> Session:
        """A session of a proto with placeholders, for what the file holds and for `held`."""
        weights = {**self._model.weights, **held}
        there = [item.name for item in proto.graph.initializer if item.name in weights]
        # Aligned, as kernels may want it: what is not is copied, and goes with the session.
        arrays = {name: np.require(weights[name], requirements=("C", "A") if prepack else ("C",)) for name in there}
        try:
            source = proto.SerializeToString()
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
            weights={name: to_ort(array, name) for name, array in arrays.items()},
            data_folder=self._model.data_folder,
            prepack=prepack,
        )
        self._model.forget()
        return Session(made, arrays)

    def _ask_runtime(self, names: list[str]) -> dict[str, TensorInfo]:
        """Types as ORT infers them."""
        try:
            session = self._make(tapped(self._model.proto, names, {}).proto, held={}, prepack=False)
        except ModelError:  # the file can still be listed; running it raises this again
            return {}
        return {
            item.name: TensorInfo(item.name, None if item.shape is None else tuple(item.shape), ort_type(item.type))
            for item in session.ort.get_outputs()
        }

    def _optimized(self) -> OnnxModel:
        """The model that ONNX Runtime makes of ours."""
        self._folder = tempfile.TemporaryDirectory(prefix="aligndbg-")
        saved = str(Path(self._folder.name) / "optimized.onnx")
        self._session_of_file(saved)
        return OnnxModel(saved)

    def _session_of_file(self, save_to: str = "") -> onnxruntime.InferenceSession:
        return make_session(
            self._path,
            name=self._path,
            provider=self._provider,
            threads=self._threads,
            level=self._level,
            save_to=save_to,
        )
