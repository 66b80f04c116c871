"""TFLite models on LiteRT (ai-edge-litert): every tensor of the main subgraph, overrides by cutting the file.

Tensors are exposed by making them outputs of the subgraph: then no later value overwrites them (LiteRT reuses the
memory of inner tensors), and memory grows with what is fetched. `experimental_preserve_all_tensors` keeps everything,
and it makes XNNPACK run every operator alone, which changes results: the MEAN of a square, as in a group
normalisation, is one kernel to XNNPACK in the plain run and in the tapped one, but two under preserve-all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np

from aligndbg.backends.segments import Segment, share
from aligndbg.backends.tflite.edit import Rewritten, alone, rewrite
from aligndbg.backends.tflite.file import BROKEN_HINT, Op, TfliteModel, map_file
from aligndbg.backends.tflite.graph import Analysis
from aligndbg.backends.tflite.segments import Step, cut_model, sizes_on, steps
from aligndbg.backends.tflite.session import KERNELS, Runtime, Session, missing_kernel, one_line
from aligndbg.core.errors import FeedError, ModelError, UnsupportedError, UsageError, nearest
from aligndbg.core.process_memory import give_back
from aligndbg.core.types import Array, Graph, ModelInfo, TensorInfo

__all__ = ["TfliteBackend"]


_KEPT_SESSIONS = 2  # a plain and a tapped one, or two cut ones
_LARGE_FILE = 64 << 20  # bytes from which only the last session is kept: each packs its own copy of the weights


class TfliteBackend:
    """A .tflite file on LiteRT; `target` is its path. See `_types.Backend` for what `run` takes and raises.

    Raises ModelError for a file that is missing or damaged, UsageError for a bad option, MissingDependencyError
    without ai-edge-litert. Operators that LiteRT has no kernel for are left out, with all that depends on them.
    """

    OPTIONS: ClassVar[dict[str, str]] = {
        "kernels": "xnn (XNNPACK, as deployed), opt (built-in, optimised) or ref (reference); default xnn",
        "threads": "number of threads, 1 or more; default 1",
    }
    capabilities = frozenset({"graph", "run", "override"})

    def __init__(self, target: str, options: Mapping[str, str]) -> None:
        for name in options:
            if name not in self.OPTIONS:
                raise UsageError(f"unknown tflite option {name!r}", hint=nearest(name, self.OPTIONS))
        kernels, threads = options.get("kernels", "xnn"), options.get("threads", "1")
        if kernels not in KERNELS:
            raise UsageError(f"unknown kernels {kernels!r}", hint=nearest(kernels, KERNELS))
        if not (threads.isascii() and threads.isdecimal() and int(threads) > 0):
            raise UsageError(f"threads={threads} is not a number of threads", hint="threads=1 or more")
        self._runtime = Runtime(kernels, int(threads))
        raw = map_file(target)
        # LiteRT's verifier goes first: its checks are what the Python schema relies on.
        refusal = self._runtime.refusal(target)
        if refusal and missing_kernel(refusal) is None:
            raise ModelError(one_line(refusal), context=target, hint=BROKEN_HINT)
        self._model = TfliteModel(target, raw)
        self._sessions: dict[Any, dict[int, Session]] = {}
        self._seen_bytes: dict[int, int] = {}
        self._bound: int | None = None
        self.info = ModelInfo(
            path=target,
            backend="tflite",
            version=f"ai-edge-litert {version('ai-edge-litert')}",
            options={"kernels": kernels, "threads": threads},
        )

    def graph(self) -> Graph:
        """The main subgraph; values inside bodies (WHILE, IF, ...) are listed in `untapped` only."""
        return self._analysis.graph

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Mapping[str, Array] | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """Yields inputs, then constants, then computed tensors in execution order. Arguments are checked at once.

        With model outputs only and no overrides, the file runs as it is, untapped.
        """
        plan = self._plan(fetch)
        values = self._checked_overrides(overrides or {})
        taps = tuple(i for i in plan if self._is_computed(i))
        given = self._checked_feeds(feeds, self._model.inputs if taps else plan)
        return self._run(plan, taps, given, values)

    def bound(self, nbytes: int) -> None:
        """As `aligndbg.core.types.bound`: segments are no larger. Sessions of others are dropped."""
        if share(nbytes) != share(self._bound):
            self.release()
        self._bound = nbytes

    def release(self) -> None:
        """Drops the sessions: each holds the weights and the tensors of its last run."""
        self._sessions.clear()

    def close(self) -> None:
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

    def _plan(self, fetch: Sequence[str]) -> list[int]:
        for name in fetch:
            if name in self.graph().untapped:
                raise UnsupportedError(self.graph().untapped[name], context=name)
            if name not in self._index:
                raise UsageError(f"no tensor {name!r} in the model", hint=nearest(name, self._index))
        return sorted({self._index[name] for name in fetch}, key=self._order.__getitem__)

    def _checked_feeds(self, feeds: Mapping[str, Array], needed: Sequence[int]) -> dict[int, Array]:
        names = [self._model.keys[i] for i in self._model.inputs]
        for name in feeds:
            if name not in names:
                raise FeedError(f"the model has no input {name!r}", hint=nearest(name, names))
        given: dict[int, Array] = {}
        for i, name in zip(self._model.inputs, names, strict=True):
            info = self._model.infos[i]
            if name in feeds:
                self._analysis.check_feedable(i)
                given[i] = _fitting(feeds[name], info, "input")
            elif i in needed:
                self._analysis.check_feedable(i)
                raise FeedError(f"input {name!r} is not fed", hint=f"it takes {_wants(info)}")
        return given

    def _checked_overrides(self, overrides: Mapping[str, Array]) -> dict[int, Array]:
        values: dict[int, Array] = {}
        for name, value in overrides.items():
            if name in self.graph().untapped:
                raise UnsupportedError(f"cannot be overridden: {self.graph().untapped[name]}", context=name)
            if name not in self._index:
                raise FeedError(f"no tensor {name!r} to override", hint=nearest(name, self._index))
            index = self._index[name]
            self._analysis.check_feedable(index)
            array = _fitting(value, self._model.infos[index], "override of")
            if array.size:  # there is only one value of no elements
                values[index] = array
        return values

    def _run(
        self, plan: Sequence[int], taps: tuple[int, ...], feeds: Mapping[int, Array], overrides: dict[int, Array]
    ) -> Iterator[tuple[str, Array]]:
        yield from self._known([i for i in plan if not self._is_computed(i)], feeds)
        if not taps:
            return
        segments, overridden = self._segments(taps, feeds, overrides), list(overrides)
        key = (self._session_key(taps, feeds, overrides), *segments)
        # Taken out while its values are read: another run begun meanwhile must not overwrite them.
        kept = self._sessions.pop(key, {})
        while not kept and len(self._sessions) >= self._room():  # the oldest goes before the new one takes memory
            del self._sessions[next(iter(self._sessions))]
        todo = steps(self._analysis, segments, taps)
        alive: dict[int, Array] = {}  # computed by one segment and read by a later one
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
        self, taps: Sequence[int], feeds: Mapping[int, Array], overrides: Mapping[int, Array]
    ) -> list[Segment[int]]:
        if not overrides and set(taps) <= set(self._model.outputs):
            return [Segment(self._analysis.runnable)]
        sizes = sizes_on(self._analysis, feeds) | self._seen_bytes
        return cut_model(self._analysis, sizes, share(self._bound), overrides)

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
        self._seen_bytes[index] = value.nbytes
        return value

    def _session(self, step: Step, feeds: Mapping[int, Array], values: Mapping[int, Array]) -> Session:
        """The session of a segment, which reads `values` in place of what the model would have computed."""
        shapes = {i: a.shape for i, a in feeds.items() if list(a.shape) != self._model.file_shape(i)}
        ops, outputs = step.segment.nodes, set(self._model.outputs)
        if len(ops) == len(self._model.ops) and not values and set(step.shown) <= outputs:
            return self._runtime.session(self._model.path, shapes)
        part = self._rewritten(self._analysis, ops, step.shown, values)
        return self._runtime.session(part.content, shapes, part.cuts, part.places)

    def _room(self) -> int:
        return 1 if len(self._model.raw) > _LARGE_FILE else _KEPT_SESSIONS

    def _rewritten(
        self, analysis: Analysis, ops: Collection[int], shown: Sequence[int], values: Mapping[int, Array]
    ) -> Rewritten:
        baked = [i for i in values if analysis.is_constant(i)]
        return rewrite(self._model, shown, overrides=values, baked=baked, kept=frozenset(ops))

    def _session_key(
        self, taps: tuple[int, ...], feeds: Mapping[int, Array], overrides: Mapping[int, Array]
    ) -> tuple[Any, ...]:
        """What a session is built for: values are set later, but those of overridden constants are part of it."""
        cuts = tuple(
            (i, a.shape, hashlib.blake2b(a.tobytes()).digest() if self._analysis.is_constant(i) else b"")
            for i, a in sorted(overrides.items())
        )
        return taps, cuts, tuple((i, a.shape) for i, a in feeds.items())

    def _failure(self, message: str, overridden: Sequence[int]) -> ModelError | UnsupportedError:
        if overridden:
            names = ", ".join(self._model.keys[i] for i in overridden[:3])
            return UnsupportedError(
                f"LiteRT refuses the model with {len(overridden)} tensors overridden ({names}): {one_line(message)}",
                context=self._model.path,
            )
        hint = "try kernels=opt or kernels=ref, or check the input shapes"
        return ModelError(f"LiteRT cannot run it: {one_line(message)}", context=self._model.path, hint=hint)


def _fitting(value: Array, info: TensorInfo, what: str) -> Array:
    """`value` as LiteRT takes it (native, C order); FeedError unless dtype, rank and fixed dimensions agree."""
    array = np.asarray(value)
    fits = info.shape is None or (
        array.ndim == len(info.shape) and all(d in (None, n) for d, n in zip(info.shape, array.shape, strict=True))
    )
    if not fits or array.dtype.name != info.dtype:
        got = f"{array.dtype.name} {_shape(array.shape)}"
        raise FeedError(f"{what} {info.name!r} takes {_wants(info)}, got {got}", hint="give it in that dtype and shape")
    return np.require(array, np.dtype(info.dtype), "C")


def _wants(info: TensorInfo) -> str:
    return f"{info.dtype} {'of any shape' if info.shape is None else _shape(info.shape)}"


def _shape(shape: Sequence[int | str | None]) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in shape) + ("," if len(shape) == 1 else "") + ")"
