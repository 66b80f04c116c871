"""A frozen graph as our Graph: the names, shapes and attributes of its operators; what can be tapped, and what not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from aligndbg.backends.tensorflow.frozen import END, Frozen
from aligndbg.backends.tensorflow.ops import attributes, canonical
from aligndbg.core.types import Graph, Node, TensorInfo

__all__ = ["build_graph", "names_of"]

_NO_NODES = frozenset({"Const", "NoOp", "Placeholder"})
_UNTAPPED = {
    "string": "text",
    "resource": "a handle of a resource, no value",
    "variant": "a list or a dataset, no array",
}
_TYPED = ("DstT", "dtype", "out_type", "output_type", "T")  # which attribute says what an operator gives
_LOOPS = frozenset({"Enter", "RefEnter"})  # of TensorFlow 1: what follows runs many times
_BRANCHES = frozenset({"Switch", "RefSwitch"})


def names_of(frozen: Frozen, operations: list[Any]) -> dict[str, str]:
    """TensorFlow's name of each tensor -> ours: `node`, `node:1`; inputs and outputs as their users call them."""
    found = {t.name: t.name.removesuffix(":0") for op in operations for t in op.outputs}
    makers = {t.name: op for op in operations for t in op.outputs}
    taken = set(found.values())
    ends = {tensor: name for name, tensor in frozen.outputs.items() if END.fullmatch(makers[tensor].name)}
    for tensor, name in [*((tensor, name) for name, tensor in frozen.inputs.items()), *ends.items()]:
        if name not in taken:
            taken.add(name)
            found[tensor] = name
    return found


def build_graph(frozen: Frozen, operations: list[Any], names: Mapping[str, str]) -> Graph:
    """`operations` are those of the imported graph, in the order in which they can run."""
    inside = {info.name: (info, node) for info, node in _inside(frozen.graph_def)}
    untapped = dict(_untapped(operations, names)) | {name: f"inside {node}" for name, (_, node) in inside.items()}
    computed = [op for op in operations if op.type not in _NO_NODES]
    tensors = [_info(t, names[t.name]) for op in operations for t in op.outputs]
    tensors += [info for info, _ in inside.values()]
    return Graph(
        nodes=tuple(_node(op, names, _scope(op.name, frozen)) for op in computed),
        tensors={info.name: info for info in tensors},
        inputs=tuple(names[tensor] for tensor in frozen.inputs.values()),
        outputs=tuple(dict.fromkeys(names[tensor] for tensor in frozen.outputs.values())),
        constants=frozenset(names[t] for t in _constants(operations) if names[t] not in untapped),
        untapped=untapped,
        inner={name: node for name, (_, node) in inside.items()},
    )


def _constants(operations: list[Any]) -> set[str]:
    """Tensors that are stored, or made of such alone."""
    found: set[str] = set()
    for op in operations:
        derived = op.inputs and not op.op_def.is_stateful and all(t.name in found for t in op.inputs)
        if op.type == "Const" or derived:
            found.update(t.name for t in op.outputs)
    return found


def _untapped(operations: list[Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Values that are no arrays, and those of TensorFlow 1's loops and branches, which a run may leave undone."""
    inside: dict[str, str] = {}
    for op in operations:
        reason = next((inside[t.name] for t in op.inputs if t.name in inside), "")
        if op.type in _LOOPS:
            reason = "inside a loop"
        elif op.type in _BRANCHES:
            reason = reason or "inside a branch"
        elif op.type in ("Exit", "RefExit") or (op.type in ("Merge", "RefMerge") and reason != "inside a loop"):
            reason = ""
        for t in op.outputs:
            if reason:
                inside[t.name] = reason
            kind = _UNTAPPED.get(t.dtype.name.removesuffix("_ref")) or (
                "" if _as_array(t.dtype) else "no dtype of numpy"
            )
            if kind or reason:
                yield names[t.name], kind or reason


def _inside(graph_def: Any) -> Iterator[tuple[TensorInfo, str]]:
    """The values in bodies of While and If, as `node/branch/name`, with the node."""
    from tensorflow.dtypes import as_dtype

    bodies = {function.signature.name: function for function in graph_def.library.function}
    for node in graph_def.node:
        called = {key: bodies[v.func.name] for key, v in node.attr.items() if v.func.name in bodies}
        for key, body in called.items():
            for inner in body.node_def:
                kind = next((inner.attr[k].type for k in _TYPED if k in inner.attr), 0)
                if kind and inner.op != "Const":
                    yield TensorInfo(f"{node.name}/{key}/{inner.name}", None, as_dtype(kind).name), node.name


def _as_array(dtype: Any) -> bool:
    return not (dtype.is_quantized or dtype.name.endswith("_ref"))


def _info(tensor: Any, name: str) -> TensorInfo:
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorInfo(name, shape, tensor.dtype.name.removesuffix("_ref"))


def _node(op: Any, names: Mapping[str, str], scope: str) -> Node:
    return Node(
        op.type,
        op.name,
        tuple(names[t.name] for t in op.inputs),
        tuple(names[t.name] for t in op.outputs),
        attributes(op),
        scope,
        canonical(op.type),
    )


def _scope(name: str, frozen: Frozen) -> str:
    """The Keras layer that wrote an operator, the innermost that the name tells: `conv1 (Conv2D)`; else the line."""
    for part in reversed(name.split("/")[:-1]):
        for layer in (part, re.sub(r"_\d+$", "", part)):  # Keras counts the calls of a layer
            if layer in frozen.layers:
                return f"{layer} ({frozen.layers[layer]})"
    return frozen.lines.get(name, "")
