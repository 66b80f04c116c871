"""TensorFlow models, each as one frozen graph in a Session, whatever they came as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from aligndbg.backends.base import (
    BaseBackend,
    check_names,
    check_options,
    checked_feeds,
    checked_overrides,
    count,
    tensor_of,
    yes,
)
from aligndbg.backends.tensorflow.file import load
from aligndbg.backends.tensorflow.frozen import first_line
from aligndbg.backends.tensorflow.graph import build_graph, names_of
from aligndbg.backends.tensorflow.session import Plain, Tapped, owned
from aligndbg.core.errors import ModelError
from aligndbg.core.regions import needed
from aligndbg.core.types import Array, Graph, Key, ModelInfo, Overrides

__all__ = ["TensorflowBackend"]


class TensorflowBackend(BaseBackend):
    """A SavedModel folder, a frozen .pb, a .keras or .h5 file, or a live Keras model, tf.Module or function.

    What it computes is frozen: variables become constants, functions are written out where they are called, but bodies
    of While and If stay what they are, and only their results are seen. It runs on the CPU, in one Session;
    Grappler's rewriting is off, so that every tensor is there and is what a plain run computes (`grappler=yes` lets
    runs without overrides be rewritten). Shapes that are dynamic are those of the feeds.

    Raises UsageError for a bad option or what lacks a signature, ModelError for what cannot be read or frozen,
    UnsupportedError for what changes its own variables, MissingDependencyError where a file needs tf_keras.
    """

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "signature": "of a SavedModel or a module: serving_default, __call__, ...",
        "outputs": "of a frozen graph: which tensors, where they are not its ends",
        "grappler": "yes lets TensorFlow rewrite the graph, as it does by itself, in runs without overrides",
        "threads": "number of threads, 1 or more; default 1",
        "trust": "yes lets a Keras file run the code of its Lambda layers",
    }
    capabilities = frozenset({"graph", "run", "override"})

    def __init__(self, target: Any, options: Mapping[str, str]) -> None:
        check_options("tensorflow", self.OPTIONS, options)
        self._grappler, self._threads = yes(options, "grappler"), count(options, "threads", 1, least=1)
        self._path = target if isinstance(target, str) else type(target).__name__
        self._frozen = load(target, options.get("signature", ""), options.get("outputs", ""), yes(options, "trust"))
        self._plain: Plain | None = None
        self._tapped: Tapped | None = None
        import tensorflow as tf

        opened = {"grappler": "yes" if self._grappler else "no", "threads": str(self._threads)}
        self.info = ModelInfo(self._path, "tensorflow", f"tensorflow {tf.__version__}", opened)

    def graph(self) -> Graph:
        """The frozen graph; names are TensorFlow's without `:0`, those of inputs and outputs the signature's."""
        return self._graph

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """Yields inputs, then constants, then computed tensors in execution order. Arguments are checked at once."""
        graph = self.graph()
        check_names(graph, self._tensors, fetch, overrides or {}, self._path)
        changed = checked_overrides(graph, self._tensors, overrides, self._path)
        _, read = needed(graph, fetch, changed)
        given = checked_feeds(graph, feeds, self._path, read | set(fetch))
        return self._run(sorted(set(fetch), key=self._order.__getitem__), given, changed)

    def release(self) -> None:
        """Closes the sessions; the frozen graph stays."""
        for session in (self._plain, self._tapped):
            if session is not None:
                session.close()
        self._plain = self._tapped = None

    @cached_property
    def _operations(self) -> list[Any]:
        return list(self._as_is().graph.get_operations())

    @cached_property
    def _names(self) -> dict[str, str]:
        """TensorFlow's name of a tensor -> ours."""
        return names_of(self._frozen, self._operations)

    @cached_property
    def _tensors(self) -> dict[str, str]:
        return {name: tensor for tensor, name in self._names.items()}

    @cached_property
    def _graph(self) -> Graph:
        return build_graph(self._frozen, self._operations, self._names)

    @cached_property
    def _order(self) -> dict[str, int]:
        graph = self._graph
        made = [o for node in graph.nodes for o in node.outputs]
        stored = [name for name in graph.tensors if name in graph.stored]
        return {name: k for k, name in enumerate(dict.fromkeys([*graph.inputs, *stored, *made, *graph.tensors]))}

    def _run(
        self, plan: Sequence[str], feeds: Mapping[str, Array], overrides: Mapping[Key, Array]
    ) -> Iterator[tuple[str, Array]]:
        known = {name: feeds[name] for name in plan if name in feeds}
        yield from ((name, value.copy()) for name, value in known.items())
        wanted = [name for name in plan if name not in known]
        if not wanted:
            return
        session = self._with_edges() if overrides else self._as_is()
        fed = {self._tensors[name]: value for name, value in feeds.items()} | self._on_edges(overrides)
        try:
            values = session.run([self._tensors[name] for name in wanted], fed)
        except Exception as error:  # TensorFlow's errors have no common class
            if isinstance(error, MemoryError):
                raise
            raise ModelError(f"TensorFlow cannot run it: {first_line(error)}", context=self._path) from error
        arrays = [np.asarray(value) for value in values]
        held = [array for name, array in zip(wanted, arrays, strict=True) if name in self._graph.constants]
        yield from zip(wanted, owned(arrays, (*fed.values(), *held)), strict=True)

    def _on_edges(self, overrides: Mapping[Key, Array]) -> dict[str, Array]:
        """What the placeholders are fed; an override of one reader goes before one of all."""
        fed: dict[str, Array] = {}
        for key in sorted(overrides, key=lambda key: isinstance(key, tuple)):
            node = "" if isinstance(key, str) else key[1]
            for placeholder in self._with_edges().placeholders(self._tensors[tensor_of(key)], node):
                fed[placeholder] = overrides[key]
        return fed

    def _as_is(self) -> Plain:
        if self._plain is None:
            self._plain = Plain(self._frozen.graph_def, self._grappler, self._threads)
        return self._plain

    def _with_edges(self) -> Tapped:
        if self._tapped is None:
            open_ = [tensor for name, tensor in self._tensors.items() if name not in self._graph.untapped]
            graph = self._as_is().graph
            self._tapped = Tapped(self._frozen.graph_def, graph, set(open_), self._threads)
        return self._tapped
