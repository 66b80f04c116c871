"""One inference in segments: sessions of a few nodes each, one after the other, so that little is held at a time.

Values are those of one session to the last bit: ONNX Runtime, told not to optimize, computes each node by itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from aligndbg.backends.onnx.graph import NOT_TENSORS
from aligndbg.backends.onnx.protos import outer_names
from aligndbg.backends.onnx.session import Session, run_session
from aligndbg.backends.segments import Segment, cut
from aligndbg.core.process_memory import give_back
from aligndbg.core.types import Array, Graph

if TYPE_CHECKING:
    import onnx

__all__ = ["SegmentedRun", "cut_graph", "sizes_on", "whole"]


def whole(graph: onnx.GraphProto) -> Segment[str]:
    """All nodes in one."""
    return Segment(tuple(range(len(graph.node))))


def cut_graph(
    graph: onnx.GraphProto,
    sizes: Mapping[str, int],
    limit: int,
    constants: frozenset[str],
    passable: Callable[[str], bool],
) -> list[Segment[str]]:
    """Segments of a graph in topological order; see `aligndbg.backends.segments.cut`."""
    reads = [tuple(dict.fromkeys(n for n in (*node.input, *outer_names(node)) if n)) for node in graph.node]
    makes = [tuple(name for name in node.output if name) for node in graph.node]
    return cut(reads, makes, sizes, limit, constants, passable)


def sizes_on(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Bytes of each tensor whose shape is known once the graph's inputs have the sizes of `feeds`."""
    known: dict[int | str | None, int] = {}
    for name in graph.inputs:
        dims = graph.tensors[name].shape if name in graph.tensors else None
        known |= dict(zip(dims or (), feeds[name].shape if name in feeds else (), strict=False))
    out = {}
    for name, info in graph.tensors.items():
        if info.shape is not None and info.dtype not in ("", *NOT_TENSORS):
            sizes = [dim if isinstance(dim, int) else known.get(dim, -1) for dim in info.shape]
            if -1 not in sizes:
                out[name] = math.prod(sizes) * _itemsize(info.dtype)
    return out


def _itemsize(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else 1


class SegmentedRun:
    """`proto` cut into `segments`, which yields `heads` in order. `make` makes a part's session; `keep` keeps it."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        heads: Sequence[str],
        segments: Sequence[Segment[str]],
        make: Callable[[onnx.ModelProto], Session],
        *,
        keep: bool,
    ) -> None:
        self._proto, self._segments, self._make = proto, segments, make
        self._kept: list[Session | None] | None = [None] * len(segments) if keep or len(segments) == 1 else None
        left = set(heads)
        self._heads: list[list[str]] = []
        self._read: list[set[str]] = []
        for segment in segments:
            nodes = [proto.graph.node[i] for i in segment.nodes]
            self._heads.append([name for node in nodes for name in node.output if name in left])
            left.difference_update(self._heads[-1])
            self._read.append({n for node in nodes for n in (*node.input, *outer_names(node))})
        self._last = {name: k for k, names in enumerate(self._read) for name in names}

    def values(self, feeds: dict[str, Array], path: str) -> Iterator[tuple[str, list[Any], bool]]:
        """(name, [OrtValue], whether a later segment reads it) of each head, in the nodes' order. See `run_session`.

        Arrays instead of OrtValues where a feed is of strings. Takes from `feeds` what is not read any more.
        """
        alive: dict[str, Any] = {}
        for k, (segment, heads) in enumerate(zip(self._segments, self._heads, strict=True)):
            names = list(dict.fromkeys((*heads, *segment.leaves)))
            results = self._results(k, names, feeds | alive, path) if names else []
            for held in (feeds, alive):
                for name in [name for name in held if self._last.get(name, -1) <= k]:
                    del held[name]
            alive |= {name: value for name, value in zip(names, results, strict=True) if name in segment.leaves}
            results.reverse()
            for name in heads:
                yield name, [results.pop()], name in alive  # popped, so that ORT's memory goes as we go
            results.clear()

    def _results(self, k: int, names: list[str], given: dict[str, Any], path: str) -> list[Any]:
        if k:
            give_back()  # what the last segment freed
        session = self._session(k, given)
        taken = {item.name for item in session.ort.get_inputs()}
        return run_session(session.ort, names, {name: value for name, value in given.items() if name in taken}, path)

    def _session(self, k: int, alive: Mapping[str, Any]) -> Session:
        known = self._kept[k] if self._kept is not None else None
        if known is not None:
            return known
        types = {name: alive[name].element_type() for name in self._segments[k].takes}
        made = self._make(self._proto if len(self._segments) == 1 else self._part(k, types))
        if self._kept is not None:
            self._kept[k] = made
        return made

    def _part(self, k: int, types: Mapping[str, int]) -> onnx.ModelProto:
        """The model of one segment: what it takes are inputs of these element types, what it leaves are outputs."""
        import onnx

        segment, read = self._segments[k], self._read[k]
        out = onnx.ModelProto(ir_version=self._proto.ir_version)
        out.opset_import.extend(self._proto.opset_import)
        graph = out.graph
        graph.name = self._proto.graph.name or "segment"
        graph.node.extend(self._proto.graph.node[i] for i in segment.nodes)
        known = self._by_name
        graph.initializer.extend(known.initializers[name] for name in sorted(read & known.initializers.keys()))
        graph.sparse_initializer.extend(known.sparse[name] for name in sorted(read & known.sparse.keys()))
        graph.input.extend(known.inputs[name] for name in sorted(read & known.inputs.keys()))
        graph.input.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in types.items())
        for name in dict.fromkeys((*self._heads[k], *segment.leaves)):
            graph.output.add().name = name
        produced = {name for node in graph.node for name in node.output}
        graph.value_info.extend(known.described[name] for name in sorted(produced & known.described.keys()))
        return out

    @cached_property
    def _by_name(self) -> _ByName:
        graph = self._proto.graph
        return _ByName(
            {item.name: item for item in graph.initializer},
            {item.values.name: item for item in graph.sparse_initializer},
            {item.name: item for item in graph.input},
            {item.name: item for item in graph.value_info},
        )


class _ByName(NamedTuple):
    """A graph's items by name."""

    initializers: Mapping[str, Any]
    sparse: Mapping[str, Any]
    inputs: Mapping[str, Any]
    described: Mapping[str, Any]
