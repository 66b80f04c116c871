"""ONNX models on onnx's own reference evaluator: numpy, written to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from aligndbg.backends.base import BaseBackend, check_names, check_options, checked_feeds, checked_overrides
from aligndbg.backends.onnx.edit import tapped
from aligndbg.backends.onnx.file import OnnxModel
from aligndbg.backends.onnx.graph import build_graph
from aligndbg.core.errors import ModelError
from aligndbg.core.regions import needed
from aligndbg.core.types import Array, Graph, Key, ModelInfo, Overrides, TensorInfo


class EvaluatorBackend(BaseBackend):
    """One .onnx file: graph, run and override."""

    OPTIONS: ClassVar[Mapping[str, str]] = {}
    capabilities = frozenset({"graph", "run", "override"})

    def __init__(self, target: str, options: Mapping[str, str]) -> None:
        check_options("evaluator", self.OPTIONS, options)
        import onnx

        self.info = ModelInfo(target, "evaluator", f"onnx {onnx.__version__}")
        self._model, self._proto = OnnxModel(target), onnx.load(target)
        self._graph = build_graph(self._model, lambda names: {name: TensorInfo(name) for name in names})
        produced = (name for node in self._graph.nodes for name in node.outputs if name)
        known = dict.fromkeys((*self._graph.inputs, *self._model.stored(), *produced))
        self._rank = {name: place for place, name in enumerate(known)}

    def graph(self) -> Graph:
        return self._graph

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """As `Backend.run`. Arguments are checked before it returns."""
        graph, path = self._graph, self.info.path
        check_names(graph, self._rank, fetch, (), path)
        changed = checked_overrides(graph, self._rank, overrides, path)
        names = sorted(set(fetch), key=self._rank.__getitem__)
        places, read = needed(graph, names, changed)
        return self._values(names, checked_feeds(graph, feeds, path, read), changed, places)

    def _values(
        self, names: list[str], feeds: dict[str, Array], overrides: dict[Key, Array], places: list[int]
    ) -> Iterator[tuple[str, Array]]:
        from onnx.reference import ReferenceEvaluator

        known = feeds | {name: self._model.constant(name) for name in self._model.stored() if name in names}
        heads = [name for name in names if name not in known]
        if heads:
            edited = tapped(self._proto, heads, overrides, needed=places)
            fed = feeds | {stand_in: overrides[name] for name, stand_in in edited.stand_ins.items()}
            try:
                made: Any = ReferenceEvaluator(edited.proto).run(heads, fed)
            except Exception as error:  # of numpy, for any reason
                raise ModelError(f"it cannot be evaluated: {error}", context=self.info.path) from error
            known |= zip(heads, made, strict=True)
        for name in names:
            yield name, np.array(known[name])
