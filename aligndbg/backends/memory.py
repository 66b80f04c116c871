"""A network of Python functions, in process: for tests, for experiments, for a runtime without a backend of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aligndbg.backends.base import BaseBackend, check_array, check_names, checked_feeds, checked_overrides
from aligndbg.core.errors import ModelError, UsageError, nearest
from aligndbg.core.regions import needed
from aligndbg.core.types import Array, Graph, Key, ModelInfo, Node, Overrides, Quant, TensorInfo

__all__ = ["MemoryBackend", "MemoryNode"]


Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class MemoryNode:
    """One operator: `fn` takes one array for each of `inputs` (None for "") and gives an array, or one for each output.

    The arrays that `fn` is given are read-only.
    """

    op_type: str
    fn: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    canonical: str = ""
    scope: str = ""


class MemoryBackend(BaseBackend):
    """A model of MemoryNodes in execution order, with every capability.

    `inputs` gives each input's shape (float32), or a TensorInfo for another dtype; a dimension of None or a symbol is
    free. `tensors` may say the same of any other tensor; shapes and dtypes not said are known after the first run.
    `untapped` names tensors that `run` then refuses, with the reason. Raises UsageError for a graph that is not one.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, Shape | TensorInfo],
        nodes: Sequence[MemoryNode],
        outputs: Sequence[str],
        constants: Mapping[str, Array] | None = None,
        tensors: Mapping[str, Shape | TensorInfo] | None = None,
        quant: Mapping[str, Quant] | None = None,
        untapped: Mapping[str, str] | None = None,
        name: str = "memory",
    ) -> None:
        self.info = ModelInfo(name, "memory", f"numpy {np.__version__}")
        self.capabilities = frozenset({"graph", "run", "override"})
        self._functions = [node.fn for node in nodes]
        self._constants = {key: np.array(value) for key, value in (constants or {}).items()}
        self._quant = dict(quant or {})
        self._inputs, self._outputs, self._untapped = tuple(inputs), tuple(outputs), dict(untapped or {})
        self._nodes = tuple(
            Node(
                node.op_type,
                node.name or f"{node.op_type}_{position}",
                tuple(node.inputs),
                tuple(node.outputs),
                dict(node.attributes),
                node.scope,
                node.canonical,
            )
            for position, node in enumerate(nodes)
        )
        self._tensors: dict[str, TensorInfo] = {}
        for key, value in {**(tensors or {}), **inputs}.items():
            info = value if isinstance(value, TensorInfo) else TensorInfo(key, tuple(value), "float32")
            self._tensors[key] = TensorInfo(key, info.shape, info.dtype, self._quant.get(key, info.quant))
        for key, constant in self._constants.items():
            self._tensors[key] = TensorInfo(key, constant.shape, constant.dtype.name, self._quant.get(key))
        self._check_graph()

    def _check_graph(self) -> None:
        names = [node.name for node in self._nodes]
        if len(set(names)) < len(names):
            raise UsageError("two nodes have the same name", context=self.info.path)
        known = {*self._inputs, *self._constants}
        for node in self._nodes:
            for name in node.inputs:
                if name and name not in known:
                    hint = nearest(name, known)
                    raise UsageError(f"{node.name!r} reads {name!r}, not known before it", hint=hint)
            for name in filter(None, node.outputs):
                if name in known:
                    raise UsageError(f"{node.name!r} writes {name!r}, which exists already")
                known.add(name)
                self._tensors.setdefault(name, TensorInfo(name, quant=self._quant.get(name)))
        for name in (*self._outputs, *self._untapped, *self._quant):
            if name not in known:
                raise UsageError(f"there is no tensor {name!r}", context=self.info.path, hint=nearest(name, known))

    def graph(self) -> Graph:
        return Graph(
            self._nodes,
            dict(self._tensors),
            self._inputs,
            self._outputs,
            frozenset(self._constants),
            dict(self._untapped),
        )

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """As Backend.run; arguments are checked at once, the nodes run as the values are read."""
        wanted = dict.fromkeys(fetch)
        graph = self.graph()
        check_names(graph, self._tensors, wanted, (), self.info.path)
        changed = checked_overrides(graph, self._tensors, overrides, self.info.path)
        places, read = needed(graph, wanted, changed)
        return self._run(checked_feeds(graph, feeds, self.info.path, read), wanted, changed, places)

    def _run(
        self,
        feeds: Mapping[str, Array],
        wanted: Mapping[str, None],
        overrides: Mapping[Key, Array],
        places: Sequence[int],
    ) -> Iterator[tuple[str, Array]]:
        seen: dict[str, Array] = {}  # what consumers read

        def shown(name: str, own: Array) -> Iterator[tuple[str, Array]]:
            fits = TensorInfo(name, own.shape, own.dtype.name)
            keys: list[Key] = [name, *((name, node.name) for node in readers.get(name, ()))]
            for key in keys:
                if key in overrides:
                    check_array(f"override of {name!r}", fits, overrides[key], self.info.path)
            seen[name] = own
            if name in wanted:
                yield name, own.copy()

        def read(name: str, node: Node) -> Array:
            value = next((overrides[k] for k in ((name, node.name), name) if k in overrides), None)
            view: Array = (seen[name] if value is None else value).view()
            view.flags.writeable = False
            return view

        readers = self.graph().consumers()
        for name, own in (self._constants | dict(feeds)).items():
            yield from shown(name, own)
        for node, function in ((self._nodes[k], self._functions[k]) for k in places):
            values = self._call(node, function, [read(name, node) if name else None for name in node.inputs])
            for name, own in zip(node.outputs, values, strict=True):
                if name:
                    self._learn(name, own)
                    yield from shown(name, own)

    def _call(self, node: Node, function: Callable[..., Any], arguments: list[Array | None]) -> list[Array]:
        try:
            with np.errstate(all="ignore"):  # Inf and NaN are found where they begin, not told by numpy
                result = function(*arguments)
        except Exception as error:
            raise ModelError(f"{type(error).__name__}: {error}", context=f"{self.info.path}: {node.name}") from error
        values = [np.asarray(value) for value in (result if isinstance(result, tuple | list) else (result,))]
        if len(values) != len(node.outputs):
            fact = f"gave {len(values)} values for {len(node.outputs)} outputs"
            raise ModelError(fact, context=f"{self.info.path}: {node.name}")
        return values

    def _learn(self, name: str, value: Array) -> None:
        info = self._tensors[name]
        self._tensors[name] = TensorInfo(
            name, value.shape if info.shape is None else info.shape, info.dtype or value.dtype.name, info.quant
        )
