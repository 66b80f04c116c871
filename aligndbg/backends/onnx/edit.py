"""Edits of an ONNX proto, each on a copy: output heads, overrides, and the part that needs no feeds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aligndbg.backends.onnx.file import LARGE, attribute_graphs, defined_names, is_packed, make_placeholder, outer_names
from aligndbg.core.types import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["Tapped", "constant_part", "tapped"]


class Tapped(NamedTuple):
    """`stand_ins`: for each override that is to be fed, its graph input. `held`: large new weights, by name."""

    proto: onnx.ModelProto
    stand_ins: dict[str, str]
    held: dict[str, Array]


def tapped(
    proto: onnx.ModelProto, heads: Iterable[str], overrides: Mapping[str, Array], fixed: Collection[str] = ()
) -> Tapped:
    """A copy that also outputs `heads`, and whose consumers of each override read something else instead.

    For a computed value that is a new graph input, typed as the array. For a `fixed` constant it is a new
    initializer: kernels prepare constant weights, and fed ones give other last bits. What produces a value, and the
    graph's outputs, keep their name: the model's own value is still there to be fetched.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    there = {output.name for output in graph.output}
    for name in heads:
        if name not in there:
            graph.output.add().name = name  # ORT infers the type
            there.add(name)
    read = _read(graph)
    fresh = _fresh_names(graph, [name for name in overrides if name in read])
    held = {}
    for name, stand_in in fresh.items():
        array = overrides[name]
        if name in fixed:
            held.update(_add_initializer(graph, stand_in, array))
        else:
            element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(stand_in, element, None))
    if fresh:
        _rename_reads(graph.node, fresh)
    _drop_unread(graph)
    return Tapped(copy, {name: stand_in for name, stand_in in fresh.items() if name not in fixed}, held)


def _add_initializer(graph: onnx.GraphProto, name: str, array: Array) -> dict[str, Array]:
    """Adds a constant; returns it by name where it is too large for the proto."""
    import onnx

    element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    if array.nbytes < LARGE or is_packed(element):
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return {}
    make_placeholder(graph.initializer.add(name=name, dims=array.shape, data_type=element))
    return {name: np.array(array, order="C")}


def _read(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in (*node.input, *outer_names(node))}


def constant_part(proto: onnx.ModelProto, constants: Collection[str]) -> onnx.ModelProto:
    """A copy with only the nodes whose outputs are constants: it runs without feeds."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    kept = [node for node in proto.graph.node if any(name in constants for name in node.output)]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.input[:]
    del graph.output[:]
    return copy


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Drops initializers that nothing reads: ORT drops them too, and then refuses to be given their values."""
    unread = {tensor.name for tensor in graph.initializer} - _read(graph) - {output.name for output in graph.output}
    for items in (graph.initializer, graph.input):
        kept = [item for item in items if item.name not in unread]
        if len(kept) < len(items):
            copies = [type(item).FromString(item.SerializeToString()) for item in kept]
            del items[:]
            items.extend(copies)


def _fresh_names(graph: onnx.GraphProto, names: Iterable[str]) -> dict[str, str]:
    taken = _all_names(graph)
    fresh = {}
    for name in names:
        candidate = f"{name}::in"
        while candidate in taken:
            candidate += "_"
        taken.add(candidate)
        fresh[name] = candidate
    return fresh


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names = defined_names(graph)
    for node in graph.node:
        for body in attribute_graphs(node):
            names |= _all_names(body)
    return names


def _rename_reads(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Renames what nodes read, inside bodies too, where an inner value of the same name does not hide it."""
    for node in nodes:
        for i, name in enumerate(node.input):
            if name in names:
                node.input[i] = names[name]
        for body in attribute_graphs(node):
            own = defined_names(body)
            outer = {name: fresh for name, fresh in names.items() if name not in own}
            if outer:
                _rename_reads(body.node, outer)
