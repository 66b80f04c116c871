"""TFLite models on LiteRT (ai-edge-litert): every tensor of the main subgraph, overrides by cutting the file.

Tensors are exposed by making them outputs of the subgraph: then no later value overwrites them (LiteRT reuses the
memory of inner tensors), and memory grows with what is fetched. `experimental_preserve_all_tensors` keeps everything,
and it makes XNNPACK run every operator alone, which changes results: the MEAN of a square, as in a group
normalisation, is one kernel to XNNPACK in the plain run and in the tapped one, but two under preserve-all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np

from aligndbg.backends.base import (
    BaseBackend,
    Kept,
    check_array,
    check_names,
    check_options,
    checked_feeds,
    choice,
    count,
    digest,
    sessions_kept,
    tensor_of,
)
from aligndbg.backends.segments import Segment, share
from aligndbg.backends.tflite.edit import Cut, Rewritten, alone, rewrite
from aligndbg.backends.tflite.file import BROKEN_HINT, Op, TfliteModel, map_file
from aligndbg.backends.tflite.graph import Analysis
from aligndbg.backends.tflite.segments import Step, cut_model, sizes_on, steps
from aligndbg.backends.tflite.session import KERNELS, Runtime, Session, missing_kernel, one_line
from aligndbg.core.errors import ModelError, UnsupportedError
from aligndbg.core.process_memory import give_back
from aligndbg.core.regions import needed
from aligndbg.core.types import Array, Graph, ModelInfo, Overrides

__all__ = ["TfliteBackend"]


class TfliteBackend(BaseBackend):
    """A .tflite file on LiteRT; `target` is its path. See `core.types.Backend` for what `run` takes and raises.

    Raises ModelError for a file that is missing or damaged, UsageError for a bad option, MissingDependencyError
    without ai-edge-litert. Operators that LiteRT has no kernel for are left out, with all that depends on them.
    """

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "kernels": "xnn (XNNPACK, as deployed), opt (built-in, optimised) or ref (reference); default xnn",
        "threads": "number of threads, 1 or more; default 1",
    }
    capabilities = frozenset({"graph", "run", "override"})

    def __init__(self, target: str, options: Mapping[str, str]) -> None:
        check_options("tflite", self.OPTIONS, options)
        kernels, threads = choice(options, "kernels", "xnn", KERNELS), count(options, "threads", 1, least=1)
        self._runtime = Runtime(kernels, threads)
        raw = map_file(target)
        # LiteRT's verifier goes first: its checks are what the Python schema relies on.
        refusal = self._runtime.refusal(target)
        if refusal and missing_kernel(refusal) is None:
            raise ModelError(one_line(refusal), context=target, hint=BROKEN_HINT)
        self._model = TfliteModel(target, raw)
        self._sessions: Kept[dict[int, Session]] = Kept(sessions_kept(len(raw)))
        self._seen_bytes: dict[int, int] = {}
        self._seen_shapes: dict[int, tuple[int, ...]] = {}  # a file may hold others, which LiteRT does not use
        self.info = ModelInfo(
            path=target,
            backend="tflite",
            version=f"ai-edge-litert {version('ai-edge-litert')}",
            options={"kernels": kernels, "threads": str(threads)},
        )

    def graph(self) -> Graph:
        """The main subgraph; values inside bodies (WHILE, IF, ...) are listed in `untapped` only."""
        return self._analysis.graph

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """Yields inputs, then constants, then computed tensors in execution order. Arguments are checked at once.

        With model outputs only and no overrides, the file runs as it is, untapped.
        """
        graph, changed = self.graph(), overrides or {}
        check_names(graph, self._index, fetch, changed, self._model.path)
        places, read = needed(graph, fetch, changed)
        plan = sorted({self._index[name] for name in fetch}, key=self._order.__getitem__)
        values = self._checked_overrides(changed)
        taps = tuple(i for i in plan if self._is_computed(i))
        ops = tuple(k for k in places if k not in self._analysis.blocked)
        if self._analysis.keeps_state or (not changed and set(taps) <= set(self._model.outputs)):
            ops, read = self._analysis.runnable, set(graph.inputs if taps else read)
        given = self._checked_feeds(feeds, [self._index[name] for name in read])
        return self._run(plan, taps, given, values, ops)

    def release(self) -> None:
        """Drops the sessions: each holds the weights and the tensors of its last run."""
        self._sessions.clear()

    @cached_property
    def _index(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self._model.keys)}

    @cached_property
    def _analysis(self) -> Analysis:
        """Made again until every operator without a kernel is known: LiteRT names one builtin at a time."""
        found: set[tuple[str, int | None]] = set(self._missing_custom())

        def unresolved(op: Op) -> str:
            if not op.custom:
                name = f"operator {op.word} of version {op.version}"
                return f"LiteRT has no kernel for {name}" if (op.word, op.version) in found else ""
            word = "Flex" if op.word.startswith("Flex") else op.word
            return f"LiteRT has no kernel for custom operator {op.word!r}" if (word, None) in found else ""

        while True:
            analysis = Analysis(self._model, unresolved)
            part = self._runnable(analysis) if analysis.blocked else self._model.path
            missing = missing_kernel(self._runtime.refusal(part))
            if missing is None or missing in found:
                return analysis
            found.add(missing)

    def _runnable(self, analysis: Analysis) -> bytes:
        """The model without the operators that cannot run."""
        return self._rewritten(analysis, analysis.runnable, analysis.shown, {}).content

    def _missing_custom(self) -> Iterator[tuple[str, int | None]]:
        """Custom operators are looked up when they are prepared, which in the whole model may be in mid-run."""
        custom = {op.word: (s, op) for s, op in self._model.everywhere() if op.custom}
        for subgraph, op in custom.values():
            missing = missing_kernel(self._runtime.refusal(alone(self._model, subgraph, op), allocate=True))
            if missing is not None:
                yield missing

    def _is_computed(self, index: int) -> bool:
        return index not in self._model.inputs and not self._analysis.is_constant(index)

    @cached_property
    def _order(self) -> dict[int, int]:
        """Tensor index -> its place in what `run` yields."""
        constants = [i for i in range(len(self._model.keys)) if self._analysis.is_constant(i)]
        made = [i for op in self._model.ops for i in op.outputs]
        return {i: place for place, i in enumerate(dict.fromkeys([*self._model.inputs, *constants, *made]))}

    def _checked_feeds(self, feeds: Mapping[str, Array], needed: Sequence[int]) -> dict[int, Array]:
        names = {self._model.keys[i]: i for i in self._model.inputs}
        for name, i in names.items():
            if name in feeds or i in needed:
                self._analysis.check_feedable(i)
        wanted = [self._model.keys[i] for i in needed]
        arrays = checked_feeds(self.graph(), feeds, self._model.path, wanted)
        return {names[name]: self._as_taken(names[name], array) for name, array in arrays.items()}

    def _checked_overrides(self, overrides: Mapping[Any, Array]) -> dict[Cut, Array]:
        values: dict[Cut, Array] = {}
        for key, value in overrides.items():
            name = tensor_of(key)
            index, array = self._index[name], np.asarray(value)
            self._analysis.check_feedable(index)
            info = self._model.infos[index]
            seen = self._seen_shapes.get(index, info.shape)
            info = replace(info, shape=seen) if array.shape == seen else info
            check_array(f"override of {name!r}", info, array, self._model.path)
            if array.size:  # there is only one value of no elements
                cut = index if key == name else (index, self.graph().places()[key[1]])
                values[cut] = self._as_taken(index, array)
        return values

    def _as_taken(self, index: int, array: Array) -> Array:
        """As LiteRT takes it: native, in C order."""
        return np.require(array, np.dtype(self._model.infos[index].dtype), "C")

    def _run(
        self,
        plan: Sequence[int],
        taps: tuple[int, ...],
        feeds: Mapping[int, Array],
        overrides: dict[Cut, Array],
        ops: tuple[int, ...],
    ) -> Iterator[tuple[str, Array]]:
        yield from self._known([i for i in plan if not self._is_computed(i)], feeds)
        if not taps:
            return
        segments, overridden = self._segments(taps, feeds, overrides, ops), list(overrides)
        key = (self._session_key(taps, feeds, overrides), *segments)
        # Taken out while its values are read: another run begun meanwhile must not overwrite them.
        kept = self._sessions.pop(key, {})
        if not kept:
            self._sessions.make_room()
        todo = steps(self._analysis, segments, taps)
        alive: dict[Cut, Array] = {}  # computed by one segment and read by a later one
        for k, step in enumerate(todo):
            values = {i: array for held in (alive, overrides) for i, array in held.items() if i in step.reads}
            fed = {i: array for i, array in feeds.items() if i in step.reads or i in step.shown}
            for held in (alive, overrides):
                for i in held.keys() - step.later:
                    del held[i]
            try:
                session = kept.get(k) or self._session(step, fed, values)
                shapes = session.invoke(fed, values)
            except (ValueError, RuntimeError) as error:
                raise self._failure(str(error), overridden) from error
            for i in step.wanted:  # nothing is held here while the reader has it
                yield self._model.keys[i], self._read(session, i, shapes)
            alive |= {i: self._read(session, i, shapes) for i in step.segment.leaves}
            if len(todo) == 1:  # a session holds the tensors of its last run, too
                kept[k] = session
            del session
            if step.later:
                give_back()
        if kept and not self._analysis.stateful:
            self._sessions[key] = kept

    def _segments(
        self,
        taps: Sequence[int],
        feeds: Mapping[int, Array],
        overrides: Mapping[Cut, Array],
        ops: tuple[int, ...],
    ) -> list[Segment[int]]:
        if not overrides and set(taps) <= set(self._model.outputs):
            return [Segment(ops)]
        sizes = sizes_on(self._analysis, feeds) | self._seen_bytes
        return cut_model(self._analysis, ops, sizes, share(self._bound), overrides)

    def _known(self, wanted: Sequence[int], feeds: Mapping[int, Array]) -> Iterator[tuple[str, Array]]:
        """Inputs and constants: nothing runs but the few operators on constants that numpy does not stand in for."""
        derived = self._derived([i for i in wanted if i not in feeds and not self._analysis.foldable(i)])
        for i in wanted:
            value = feeds.get(i, derived.get(i))
            yield self._model.keys[i], self._analysis.fold(i) if value is None else value.copy()

    def _derived(self, wanted: Sequence[int]) -> dict[int, Array]:
        """Values computed from constants, by the built-in kernels: XNNPACK leaves such tensors unwritten."""
        if not wanted:
            return {}
        needed = self._analysis.needed(wanted)
        part = rewrite(self._model, wanted, kept=needed)
        try:
            session = Runtime("opt", 1).session(part.content, {}, part.cuts, part.places)
            shapes = session.invoke({}, {})
        except (ValueError, RuntimeError) as error:
            raise self._failure(str(error), ()) from error
        return {i: self._read(session, i, shapes) for i in wanted}

    def _read(self, session: Session, index: int, shapes: Mapping[int, tuple[int, ...]]) -> Array:
        info = self._model.infos[index]
        try:
            value = session.read(index, shapes.get(session.place(index), info.static_shape), info.dtype)
        except ValueError as error:
            raise UnsupportedError(f"LiteRT does not hand it out: {one_line(str(error))}", context=info.name) from error
        self._seen_bytes[index], self._seen_shapes[index] = value.nbytes, value.shape
        return value

    def _session(self, step: Step, feeds: Mapping[int, Array], values: Mapping[Cut, Array]) -> Session:
        """The session of a segment, which reads `values` in place of what the model would have computed."""
        shapes = {i: a.shape for i, a in feeds.items() if list(a.shape) != self._model.file_shape(i)}
        ops, outputs = step.segment.nodes, set(self._model.outputs)
        if len(ops) == len(self._model.ops) and not values and set(step.shown) <= outputs:
            return self._runtime.session(self._model.path, shapes)
        part = self._rewritten(self._analysis, ops, step.shown, values)
        return self._runtime.session(part.content, shapes, part.cuts, part.places)

    def _rewritten(
        self, analysis: Analysis, ops: Collection[int], shown: Sequence[int], values: Mapping[Cut, Array]
    ) -> Rewritten:
        baked = [cut for cut in values if analysis.is_constant(_index_of(cut))]
        return rewrite(self._model, shown, overrides=values, baked=baked, kept=frozenset(ops))

    def _session_key(
        self, taps: tuple[int, ...], feeds: Mapping[int, Array], overrides: Mapping[Cut, Array]
    ) -> tuple[Any, ...]:
        """What a session is built for: values are set later, but those of overridden constants are part of it."""
        cuts = tuple(
            (cut, a.shape, digest(a) if self._analysis.is_constant(_index_of(cut)) else b"")
            for cut, a in sorted(overrides.items(), key=lambda item: (_index_of(item[0]), str(item[0])))
        )
        return taps, cuts, tuple((i, a.shape) for i, a in feeds.items())

    def _failure(self, message: str, overridden: Sequence[Cut]) -> ModelError | UnsupportedError:
        if overridden:
            names = ", ".join(self._model.keys[_index_of(cut)] for cut in overridden[:3])
            return UnsupportedError(
                f"LiteRT refuses the model with {len(overridden)} tensors overridden ({names}): {one_line(message)}",
                context=self._model.path,
            )
        hint = "try kernels=opt or kernels=ref, or check the input shapes"
        return ModelError(f"LiteRT cannot run it: {one_line(message)}", context=self._model.path, hint=hint)


def _index_of(cut: Cut) -> int:
    return cut if isinstance(cut, int) else cut[0]
