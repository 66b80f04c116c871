"""torch.export programs as the side of a pair that is left as it is: nothing is planted in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aligndbg.backends.torch_ import TorchBackend
from plants import Array, NotHere, Plantable, Site

__all__ = ["TorchFile"]


class TorchFile:
    """A .pt2 file, seen through aligndbg's own backend."""

    def __init__(self, path: Path) -> None:
        self._backend = TorchBackend(str(path), {"threads": "1"})

    def sites(self) -> list[Site]:
        return []

    def inputs(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        graph = self._backend.graph()
        infos = [graph.tensors[name] for name in graph.inputs]
        return {info.name: (info.static_shape or (), np.dtype(info.dtype)) for info in infos}

    def taken(self, name: str, value: Array) -> Array:
        return value.astype(self.inputs()[name][1])

    def values(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(feeds) | dict(self._backend.run(feeds, self._backend.graph().tappable()))

    def evaluate(self, tensor: str, values: Mapping[str, Array]) -> Array:
        raise NotHere("nothing is planted in a torch program")

    def planted(self, site: Site, rng: np.random.Generator, amount: float, value: Array) -> tuple[Plantable, str]:
        raise NotHere("nothing is planted in a torch program")

    def reach(self, tensor: str) -> dict[str, list[str]]:
        consumers = self._backend.graph().consumers()
        found: dict[str, list[str]] = {}
        todo = [tensor]
        while todo:
            name = todo.pop()
            if name not in found:
                found[name] = [output for node in consumers.get(name, ()) for output in node.outputs]
                todo += found[name]
        return found

    def op_name(self, tensor: str) -> str:
        node = self._backend.graph().producers().get(tensor)
        if node is None:
            raise NotHere(f"no operator writes {tensor}")
        return node.name

    def save(self, path: Path) -> None:
        raise NotHere("nothing is planted in a torch program")
