"""An ONNX file on its way into TensorRT: the graph as both know it, overrides, and what engine they ask for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aligndbg.backends.base import digest, tensor_of
from aligndbg.backends.onnx.edit import Tapped, tapped
from aligndbg.backends.onnx.file import OnnxModel
from aligndbg.backends.onnx.graph import build_graph
from aligndbg.backends.tensorrt.build import Network, Settings, sizes_of
from aligndbg.backends.tensorrt.library import Library, dtype_name, unreadable
from aligndbg.core.errors import ModelError
from aligndbg.core.types import Array, Graph, Node, Overrides, TensorInfo

if TYPE_CHECKING:
    import onnx

__all__ = ["OnnxSource"]


MOST_KINDS = 3
ABSENT = "absent from TensorRT's network: folded, or renamed by its parser"
UNREAD = "left out by TensorRT: no output needs it"
ON_HOST = "a shape, which TensorRT computes on the host"
FOLDED = "computed from constants alone, when the engine is built"
REFUSED = "TensorRT refuses to mark it for debugging: strategy=outputs may show it"
NOT_ASKED = "strategy=none shows outputs only"


class OnnxSource:
    """Reads the file once; each engine is parsed from its bytes, rewritten where something is overridden."""

    def __init__(self, path: str, library: Library, log: Any, settings: Settings) -> None:
        self._path, self._library, self._log, self._settings = path, library, log, settings
        self._model = OnnxModel(path)
        self._graph: Graph | None = None
        self._dynamic = False

    def constant(self, name: str) -> Array:
        return self._model.constant(name)

    def graph(self) -> Graph:
        """The ONNX graph; `op_type` names the TensorRT layers that a node became, `canonical` is ONNX's word."""
        if self._graph is None:
            parsed = self.parsed({})
            base = build_graph(self._model, lambda names: _types(parsed, names))
            self._dynamic = parsed.dynamic
            stored = frozenset(self._model.stored()) & base.constants
            untapped = self._untapped(base, parsed, stored)
            self._graph = replace(
                base,
                nodes=tuple(_named(node, parsed.layers.get(node.name, ())) for node in base.nodes),
                tensors={**base.tensors, **{name: self._typed(base, parsed, name) for name in _computed(base)}},
                constants=stored,
                untapped=untapped,
            )
        return self._graph

    @property
    def dynamic(self) -> bool:
        """What an engine is built for depends on the feeds."""
        self.graph()
        return self._dynamic

    def parsed(self, overrides: Overrides) -> Network:
        """A new network, without marks; overridden tensors are inputs of it."""
        edited = self._edited(overrides)
        folder = self._model.data_folder or os.path.dirname(os.path.abspath(self._path))
        model = self._filled(edited).SerializeToString()
        return Network(self._library, self._log, model, os.path.join(folder, "model.onnx"), self._settings)

    def mark(self, parsed: Network, taps: Iterable[str], overrides: Overrides) -> None:
        """Exposes the taps. What an override leaves without a reader has to be an output, or it would not be built."""
        loose = [name for name in overrides if name in parsed.tensors]
        parsed.mark(loose, "outputs")
        refused = parsed.mark([name for name in taps if name not in overrides], self._settings.strategy)
        if refused:
            fact = f"TensorRT refuses to mark {refused[0]!r} once something is overridden"
            raise ModelError(fact, context=self._path)

    def stand_ins(self, overrides: Overrides) -> dict[str, Array]:
        """The network inputs that stand for overridden tensors, with their values."""
        return {stand_in: overrides[name] for name, stand_in in self._edited(overrides).stand_ins.items()}

    def key(self, feeds: Mapping[str, Array], marked: bool, overrides: Overrides) -> Any:
        """What an engine depends on: marks, overridden names (and values, of constants), dynamic sizes."""
        fixed = self._model.fixed()
        changed = frozenset(
            (key, array.shape, digest(array) if tensor_of(key) in fixed else b"") for key, array in overrides.items()
        )
        sizes = tuple((name, array.shape, _shape_value(array)) for name, array in sorted(feeds.items()))
        return marked, changed, sizes if self.dynamic else ()

    def _edited(self, overrides: Overrides) -> Tapped:
        if not overrides:
            return Tapped(self._model.proto, {}, {})
        edited = tapped(self._model.proto, (), overrides, self._model.fixed())
        shapes = {stand_in: overrides[name].shape for name, stand_in in edited.stand_ins.items()}
        for item in edited.proto.graph.input:
            if item.name in shapes:  # TensorRT wants the rank of each input
                item.type.tensor_type.shape.SetInParent()
                for size in shapes[item.name]:
                    item.type.tensor_type.shape.dim.add().dim_value = size
        return edited

    def _filled(self, edited: Tapped) -> onnx.ModelProto:
        """A copy with the weights that are held in memory back in their place."""
        copy = type(edited.proto)()
        copy.CopyFrom(edited.proto)
        for item in copy.graph.initializer:
            weight = edited.held.get(item.name, self._model.weights.get(item.name))
            if weight is not None:
                del item.external_data[:]
                item.ClearField("data_location")
                item.raw_data = np.ascontiguousarray(weight).tobytes()
        return copy

    def _untapped(self, base: Graph, parsed: Network, stored: frozenset[str]) -> dict[str, str]:
        found = dict(base.untapped)
        found |= dict.fromkeys(base.constants - stored, FOLDED)
        for name in _computed(base):
            tensor = parsed.tensors.get(name)
            if name in found or name in base.constants:
                continue
            if tensor is None:
                found[name] = ABSENT
            elif name not in parsed.outputs and not tensor.is_execution_tensor:
                found[name] = ON_HOST if tensor.is_shape_tensor else UNREAD
            elif name not in parsed.outputs and self._settings.strategy == "none":
                found[name] = NOT_ASKED
        rest = [name for name in _computed(base) if name not in found and name not in base.constants]
        found |= unreadable({name: parsed.tensors[name].dtype for name in rest})
        if self._settings.strategy == "debug":
            found |= dict.fromkeys(parsed.mark([name for name in rest if name not in found], "debug"), REFUSED)
        return found

    def _typed(self, base: Graph, parsed: Network, name: str) -> TensorInfo:
        """The file's description, with TensorRT's dtype, and its sizes where the file has none."""
        told, tensor = base.tensors.get(name, TensorInfo(name)), parsed.tensors.get(name)
        if tensor is None:
            return told
        chosen = self._settings.mixed and name not in parsed.outputs  # then only a run tells
        shape = sizes_of(tensor.shape) if told.shape is None else told.shape
        return TensorInfo(name, shape, "" if chosen else dtype_name(tensor.dtype), told.quant)


def _computed(graph: Graph) -> list[str]:
    return [name for node in graph.nodes for name in node.outputs if name]


def _named(node: Node, layers: Iterable[str]) -> Node:
    """With the TensorRT layers that it became as its op; an LSTM's loop of twenty says less than ONNX's word."""
    kinds = tuple(dict.fromkeys(layers))
    return replace(node, op_type="+".join(kinds)) if 0 < len(kinds) <= MOST_KINDS else node


def _types(parsed: Network, names: list[str]) -> dict[str, TensorInfo]:
    known = {name: parsed.tensors[name] for name in names if name in parsed.tensors}
    return {name: TensorInfo(name, sizes_of(tensor.shape), dtype_name(tensor.dtype)) for name, tensor in known.items()}


def _shape_value(array: Array) -> tuple[int, ...]:
    """The values of a feed that may be a shape: they are part of the engine's profile."""
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > 64:
        return ()
    return tuple(int(value) for value in array.reshape(-1))
