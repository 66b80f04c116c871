"""Edits of an ONNX proto, each on a copy: output heads, overrides, and the part that computes something."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aligndbg.backends.onnx.file import LARGE, is_packed, make_placeholder
from aligndbg.backends.onnx.protos import all_names, outer_names, rename_reads
from aligndbg.core.types import Array, Key

if TYPE_CHECKING:
    import onnx

__all__ = ["Tapped", "tapped"]


class Tapped(NamedTuple):
    """`stand_ins`: for each override that is to be fed, its graph input. `held`: large new weights, by name."""

    proto: onnx.ModelProto
    stand_ins: dict[Key, str]
    held: dict[str, Array]


def tapped(
    proto: onnx.ModelProto,
    heads: Sequence[str],
    overrides: Mapping[Key, Array],
    fixed: Collection[str] = (),
    needed: Sequence[int] | None = None,
) -> Tapped:
    """A copy that also outputs `heads`, and in which what reads an override reads something else instead.

    For a computed value that is a new graph input, typed as the array. For a `fixed` constant it is a new
    initializer: kernels prepare constant weights, and fed ones give other last bits. What produces a value, and the
    graph's outputs, keep their name: the model's own value is still there to be fetched. With `needed`, the places of
    some of the nodes, the copy holds no others, and outputs `heads` alone.
    """
    import onnx

    if needed is None or len(needed) == len(proto.graph.node):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
    else:
        copy = _part(proto, needed, heads)
    graph = copy.graph
    there = {output.name for output in graph.output}
    for name in heads:
        if name not in there:
            graph.output.add().name = name  # ORT infers the type
            there.add(name)
    read = _read(graph)
    nodes = {node.name: node for node in graph.node}
    used = [key for key in overrides if (key in read if isinstance(key, str) else key[1] in nodes)]
    fresh = _fresh_names(graph, used)
    held = {}
    for key, stand_in in fresh.items():
        array = overrides[key]
        if (key if isinstance(key, str) else key[0]) in fixed:
            held.update(_add_initializer(graph, stand_in, array))
        else:
            element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(stand_in, element, None))
    for key, stand_in in fresh.items():
        if isinstance(key, tuple):  # before the others, which then find it renamed
            rename_reads([nodes[key[1]]], {key[0]: stand_in})
    rename_reads(graph.node, {key: stand_in for key, stand_in in fresh.items() if isinstance(key, str)})
    _drop_unread(graph, {key for key in fresh if isinstance(key, str)})
    fed = {item.name for item in graph.input}
    return Tapped(copy, {key: stand_in for key, stand_in in fresh.items() if stand_in in fed}, held)


def _part(proto: onnx.ModelProto, needed: Sequence[int], heads: Sequence[str]) -> onnx.ModelProto:
    """A model of some of the nodes, with what they read of weights and inputs; it outputs `heads` alone."""
    import onnx

    out = onnx.ModelProto(ir_version=proto.ir_version)
    out.opset_import.extend(proto.opset_import)
    out.functions.extend(proto.functions)
    graph, whole = out.graph, proto.graph
    graph.name = whole.name or "part"
    graph.node.extend(whole.node[i] for i in needed)
    read = _read(graph)
    made = {name for node in graph.node for name in node.output}
    graph.initializer.extend(item for item in whole.initializer if item.name in read)
    graph.sparse_initializer.extend(item for item in whole.sparse_initializer if item.values.name in read)
    graph.input.extend(item for item in whole.input if item.name in read)
    graph.value_info.extend(item for item in whole.value_info if item.name in made)
    graph.output.extend(item for item in whole.output if item.name in heads)
    return out


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


def _drop_unread(graph: onnx.GraphProto, overridden: Collection[str]) -> None:
    """Drops initializers that nothing reads: ORT drops them too, and then refuses to be given their values; and inputs
    that were overridden, which would have to be fed."""
    given = {*(tensor.name for tensor in graph.initializer), *overridden}
    unread = given - _read(graph) - {output.name for output in graph.output}
    for items in (graph.initializer, graph.input):
        kept = [item for item in items if item.name not in unread]
        if len(kept) < len(items):
            copies = [type(item).FromString(item.SerializeToString()) for item in kept]
            del items[:]
            items.extend(copies)


def _fresh_names(graph: onnx.GraphProto, keys: Iterable[Key]) -> dict[Key, str]:
    taken = all_names(graph)
    fresh: dict[Key, str] = {}
    for key in keys:
        candidate = f"{key if isinstance(key, str) else '::'.join(key)}::in"
        while candidate in taken:
            candidate += "_"
        taken.add(candidate)
        fresh[key] = candidate
    return fresh
