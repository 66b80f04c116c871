"""TensorRT and TensorRT-RTX: engines built from an ONNX file, and finished engine files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aligndbg.backends.base import BaseBackend, Kept, check_names, check_options, checked_feeds, checked_overrides
from aligndbg.backends.tensorrt.build import OPTIONS, Settings, build
from aligndbg.backends.tensorrt.file import (
    deserialize,
    engine_graph,
    engine_layers,
    fused_layers,
    read_plan,
    with_engine_layers,
)
from aligndbg.backends.tensorrt.from_onnx import OnnxSource
from aligndbg.backends.tensorrt.library import find_library, make_log
from aligndbg.backends.tensorrt.session import execute, require_device
from aligndbg.core.errors import ModelError, UnsupportedError, UsageError
from aligndbg.core.types import Array, Graph, Key, ModelInfo, Overrides

__all__ = ["TensorrtBackend"]


ENGINES_KEPT = 4
PLANS = (".engine", ".plan")
MARKED_FAILS = "does it build with ?strategy=outputs, or with none?"
UNMARKED_FAILS = "this is the engine without marks, to compare with: --no-checks does without it"


class TensorrtBackend(BaseBackend):
    """`trt:a.onnx` (built here, every tensor exposed) or an .engine/.plan file (outputs, and what it was marked for).

    Raises UsageError for an option that this version of TensorRT does not know, MissingDependencyError without a
    TensorRT, ModelError for a file that it refuses, and, at `run`, where there is no GPU.
    """

    OPTIONS = OPTIONS

    def __init__(self, target: str, options: Mapping[str, str]) -> None:
        check_options("trt", self.OPTIONS, options)
        finished = target.lower().endswith(PLANS)
        plan = read_plan(target) if finished else None
        if plan is not None and set(options) - {"library"}:
            raise UsageError("a finished engine takes no build options", hint="give trt:model.onnx to build one")
        self._library = find_library(options.get("library", plan.kind if plan else "auto"))
        self._settings = Settings.parse(options, self._library)
        self._log = make_log(self._library)
        self._plan = plan
        self._source = None if plan else OnnxSource(target, self._library, self._log, self._settings)
        self._engines: Kept[Any] = Kept(ENGINES_KEPT)
        self._graph: Graph | None = None
        shown = {} if finished else {"strategy": self._settings.strategy, "precision": self._settings.precision}
        self.info = ModelInfo(target, "trt", self._library.text, {**shown, **options})
        self.capabilities = frozenset({"graph", "run"} | ({"override"} if self._overridable else set()))

    @property
    def _unfused(self) -> bool:
        return self._settings.strategy == "unfused"

    @property
    def _overridable(self) -> bool:
        return self._source is not None and not self._unfused

    def graph(self) -> Graph:
        """Of an ONNX file: its nodes, each with the TensorRT layers that it became. Of an engine: what it tells."""
        if self._graph is None:
            if self._unfused and self._source is not None and self._source.dynamic:
                fact = "strategy=unfused needs static sizes: its tensors are known only once the engine is built"
                raise UnsupportedError(fact, context=self.info.path, hint="use strategy=debug, or fix the sizes")
            if self._source is None or self._unfused:
                self._graph = engine_graph(self._library.trt, self._engine({}, True, {}), unfused=self._unfused)
            else:
                self._graph = self._source.graph()
        return self._graph

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """Yields (name, array) in execution order; see `Backend.run`. Arguments are checked before it returns.

        Outputs alone come from an engine without marks. The first run with marks compares its outputs with that one's:
        the largest difference is the option `observer_effect` of `info`.
        """
        graph = self.graph()
        if overrides and not self._overridable:
            raise UnsupportedError("a finished engine cannot be overridden", hint="give trt:model.onnx to build one")
        rank = {name: i for i, name in enumerate(self._known(graph))}
        check_names(graph, rank, fetch, (), self.info.path)
        changed = checked_overrides(graph, rank, overrides, self.info.path)
        names = sorted(set(fetch), key=rank.__getitem__)
        given: dict[str, Array] = {}
        if feeds or not all(name in graph.constants for name in names):
            given = checked_feeds(graph, feeds, self.info.path)
        return self._values(graph, names, given, changed)

    def close(self) -> None:
        """Drops the engines."""
        self._engines.clear()

    def _values(
        self, graph: Graph, names: list[str], feeds: dict[str, Array], overrides: dict[Key, Array]
    ) -> Iterator[tuple[str, Array]]:
        heads = [name for name in names if name not in feeds and name not in graph.constants]
        computed = self._compute(graph, heads, feeds, overrides) if heads else {}
        for name in names:
            if name in feeds:
                yield name, np.array(feeds[name])
            elif name in graph.constants:
                assert self._source is not None  # an engine has no constants
                yield name, self._source.constant(name)
            elif name in computed:
                yield name, computed.pop(name)
            elif not self._unfused:
                raise ModelError(f"TensorRT gave no value of {name!r}, or more than one", context=self.info.path)

    def _compute(
        self, graph: Graph, heads: list[str], feeds: dict[str, Array], overrides: dict[Key, Array]
    ) -> dict[str, Array]:
        taps = [name for name in heads if name not in graph.outputs]
        marked = bool(taps or overrides)
        found = self._execute(feeds, taps, overrides, marked=marked)
        if marked and not overrides and "observer_effect" not in self.info.options and self._source is not None:
            self._learn(graph, feeds, found)
        return {name: found[name] for name in heads if name in found}

    def _execute(
        self, feeds: dict[str, Array], taps: list[str], overrides: dict[Key, Array], *, marked: bool
    ) -> dict[str, Array]:
        engine = self._engine(feeds, marked, overrides)
        given = feeds
        if self._source is not None:
            given = feeds | self._source.stand_ins(overrides)
        debug = taps if self._settings.strategy == "debug" else []
        debug = [name for name in debug if name not in overrides]  # those are outputs of their engine
        unfused = self._unfused and marked
        return execute(self._library.trt, self._log, engine, given, debug, unfused=unfused)

    def _engine(self, feeds: Mapping[str, Array], marked: bool, overrides: Overrides) -> Any:
        """The engine for these shapes, marks and overrides; the last few are kept, since building takes long."""
        key = () if self._source is None else self._source.key(feeds, marked, overrides)
        return self._engines.get_or_make(key, lambda: self._loaded(feeds, marked, overrides))[0]

    def _loaded(self, feeds: Mapping[str, Array], marked: bool, overrides: Overrides) -> Any:
        require_device()  # a build takes long, and could not be loaded
        if self._source is None:
            assert self._plan is not None
            data, built_with = self._plan.data, self._plan.text
        else:
            data, built_with = self._build(feeds, marked, overrides), self._library.text
        return deserialize(self._library.trt, self._log, data, self._library.text, built_with)

    def _build(self, feeds: Mapping[str, Array], marked: bool, overrides: Overrides) -> Any:
        assert self._source is not None
        parsed = self._source.parsed(overrides)
        if marked:
            taps = [] if self._unfused else self._source.graph().tappable()
            self._source.mark(parsed, taps, overrides)
        hint = "" if self._settings.strategy == "none" else MARKED_FAILS if marked else UNMARKED_FAILS
        return build(parsed, self._settings, dict(feeds) | self._source.stand_ins(overrides), hint)

    def _learn(self, graph: Graph, feeds: dict[str, Array], found: Mapping[str, Array]) -> None:
        """What only a run tells: the observer effect, the fused layers, the dtypes that TensorRT chose."""
        try:
            plain = self._execute(feeds, [], {}, marked=False)
        except ModelError as error:  # met on real models: with marks it builds, without it does not
            self._note("observer_effect", f"unknown, the unmarked engine fails: {error.fact}")
            return
        self._note("observer_effect", f"{max((_apart(plain[name], found[name]) for name in plain), default=0.0):.3g}")
        if self._unfused:
            return
        engine = self._engine(feeds, False, {})
        tensors = dict(graph.tensors)
        for name, array in found.items():
            if name in tensors and not tensors[name].dtype:
                tensors[name] = replace(tensors[name], dtype=array.dtype.name)
        layers = fused_layers(engine_layers(self._library.trt, engine))
        self._graph = replace(with_engine_layers(graph, layers), tensors=tensors)

    def _note(self, name: str, value: str) -> None:
        self.info = replace(self.info, options={**self.info.options, name: value})

    def _known(self, graph: Graph) -> dict[str, None]:
        produced = (name for node in graph.nodes for name in node.outputs if name)
        return dict.fromkeys((*graph.inputs, *sorted(graph.constants), *produced))


def _apart(one: Array, other: Array) -> float:
    """0.0 where equal (NaN equals NaN), else the largest absolute difference; inf where shape or finiteness differ."""
    if one.shape != other.shape:
        return float("inf")
    a, b = one.astype(np.float64), other.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    worst = float(np.max(np.abs(a - b)[~same]))
    return worst if worst == worst else float("inf")
