"""A trace file as a backend: its values are read, nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from aligndbg.backends.base import BaseBackend
from aligndbg.core.errors import UnsupportedError
from aligndbg.core.types import Array, Graph, ModelInfo, Overrides, Trace
from aligndbg.trace.reader import read_trace

__all__ = ["RecordedBackend"]


class RecordedBackend(BaseBackend):
    """An .npz or .safetensors file of tensors by name, ours or anyone's. Raises what `read_trace` does."""

    OPTIONS: ClassVar[Mapping[str, str]] = {}

    def __init__(self, target: str, options: Mapping[str, str]) -> None:
        self._trace = read_trace(target)
        origin = self._trace.info
        version = origin.version if origin.backend == "recorded" else f"{origin.backend} {origin.version}".strip()
        self.info = ModelInfo(target, "recorded", version, origin.options)
        self.capabilities: frozenset[str] = frozenset({"graph"} if self._trace.graph.nodes else ())

    def trace(self) -> Trace:
        return self._trace

    def graph(self) -> Graph:
        """The recorded graph; without nodes where the file knows none."""
        return self._trace.graph

    def run(
        self, feeds: Mapping[str, Array], fetch: Sequence[str], overrides: Overrides | None = None
    ) -> Iterator[tuple[str, Array]]:
        raise UnsupportedError(
            "a recorded trace cannot be run",
            context=self.info.path,
            hint="give the model file itself where its layers have to be run again",
        )
