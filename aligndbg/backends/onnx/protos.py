"""Walks through an ONNX graph and its bodies, and what is mended in one when it is read."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = [
    "all_names",
    "attribute_graphs",
    "defined_names",
    "forget_negative_sizes",
    "graphs",
    "name_nodes",
    "nested_tensors",
    "outer_names",
    "rename_reads",
    "sort_nodes",
]


def attribute_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of If, Loop, Scan and the like."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every body in it."""
    yield graph
    for node in graph.node:
        for body in attribute_graphs(node):
            yield from graphs(body)


def nested_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors in attributes and in bodies: all but the main graph's initializers."""

    def of(nodes: Any) -> Iterator[onnx.TensorProto]:
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
            for body in attribute_graphs(node):
                yield from body.initializer
                yield from of(body.node)

    yield from of(proto.graph.node)
    for function in proto.functions:
        yield from of(function.node)


def defined_names(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph gives values to, which hide the outer ones."""
    names = {item.name for item in (*graph.input, *graph.initializer)}
    names.update(item.values.name for item in graph.sparse_initializer)
    names.update(name for node in graph.node for name in node.output if name)
    return names


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Names of the values in a graph and in all its bodies."""
    names = defined_names(graph)
    for node in graph.node:
        for body in attribute_graphs(node):
            names |= all_names(body)
    return names


def outer_names(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names that the node's bodies read from outside, each once."""
    found: dict[str, None] = {}
    for body in attribute_graphs(node):
        own = defined_names(body)
        for inner in body.node:
            for name in (*inner.input, *outer_names(inner)):
                if name and name not in own:
                    found.setdefault(name)
    return tuple(found)


def rename_reads(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Renames what nodes read, inside bodies too, where an inner value of the same name does not hide it."""
    for node in nodes:
        for i, name in enumerate(node.input):
            if name in names:
                node.input[i] = names[name]
        for body in attribute_graphs(node):
            own = defined_names(body)
            outer = {name: fresh for name, fresh in names.items() if name not in own}
            if outer:
                rename_reads(body.node, outer)


def sort_nodes(graph: onnx.GraphProto) -> bool:
    """Topological order, stable: ORT takes files that are not sorted, our readers do not. False for a cycle."""
    reads = [{name for name in (*node.input, *outer_names(node)) if name} for node in graph.node]
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    waits = [{producer[name] for name in names if name in producer} for names in reads]
    if all(max(before, default=-1) < i for i, before in enumerate(waits)):
        return True
    readers: dict[int, list[int]] = {}
    for i, before in enumerate(waits):
        for j in before:
            readers.setdefault(j, []).append(i)
    ready = [i for i, before in enumerate(waits) if not before]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in readers.get(i, ()):
            waits[j].discard(i)
            if not waits[j]:
                heapq.heappush(ready, j)
    if len(order) != len(graph.node):
        return False
    nodes = [graph.node[i] for i in order]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return True


def name_nodes(graph: onnx.GraphProto) -> None:
    """A name of its own for each node, by its first output where it has none: ORT's errors name it, too."""
    taken = {node.name for node in graph.node}
    for node in graph.node:
        if not node.name:
            name = next((name for name in node.output if name), node.op_type)
            while name in taken:  # ORT refuses two nodes of one name
                name += "_"
            taken.add(name)
            node.name = name


def forget_negative_sizes(graph: onnx.GraphProto) -> None:
    """Old exporters write -1 for a size that is not known, and ORT takes it so; shape inference would multiply it."""
    for item in (*graph.input, *graph.output, *graph.value_info):
        for size in item.type.tensor_type.shape.dim if item.type.HasField("tensor_type") else ():
            if size.dim_value < 0:
                size.ClearField("dim_value")
