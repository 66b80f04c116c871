"""A frozen TensorFlow graph that faults are planted into, and what can be planted; it runs in a TensorFlow Session."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
import tensorflow as tf

from plants import Array, NotHere, Plantable, Site
from plants.constants import change_channel, change_vector, round_weights, swapped_axes

__all__ = ["GraphFile"]

Edit = Callable[["GraphFile", Any, np.random.Generator, float, Array], str]
EDITS: dict[str, dict[str, Edit]] = {}  # operator -> kind -> what does it


def edits(kind: str, *ops: str) -> Callable[[Edit], Edit]:
    """Registers what plants a fault of one kind into these operators."""

    def register(edit: Edit) -> Edit:
        for op in ops:
            EDITS.setdefault(op, {})[kind] = edit
        return edit

    return register


class GraphFile:
    """One GraphDef without variables. Tensors are called as in the file: `node`, `node:1`."""

    def __init__(self, graph_def: Any) -> None:
        self.graph_def = graph_def

    @classmethod
    def open(cls, path: Path) -> GraphFile:
        return cls(tf.compat.v1.GraphDef.FromString(path.read_bytes()))

    def save(self, path: Path) -> None:
        path.write_bytes(self.graph_def.SerializeToString())

    @cached_property
    def graph(self) -> Any:
        graph = tf.Graph()
        try:
            with graph.as_default():
                tf.import_graph_def(self.graph_def, name="")
        except ValueError as error:
            raise NotHere(f"TensorFlow refuses the change: {error}") from error
        return graph

    def sites(self) -> list[Site]:
        return [Site(kind, node.op, node.name) for node in self.graph_def.node for kind in EDITS.get(node.op, {})]

    def inputs(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        ops = [op for op in self.graph.get_operations() if op.type == "Placeholder"]
        return {op.name: (tuple(op.outputs[0].shape), np.dtype(op.outputs[0].dtype.as_numpy_dtype)) for op in ops}

    def taken(self, name: str, value: Array) -> Array:
        return value.astype(self.inputs()[name][1])

    def values(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        made = [t.name for op in self.graph.get_operations() if op.type != "Placeholder" for t in op.outputs]
        return {**feeds, **self._run(feeds, [_ours(name) for name in made])}

    def evaluate(self, tensor: str, values: Mapping[str, Array]) -> Array:
        """Whatever `values` has is fed, so that nothing before it runs."""
        known = {_theirs(t.name): t for op in self.graph.get_operations() for t in op.outputs}
        stored = {op.name for op in self.graph.get_operations() if op.type == "Const"}
        below = set(self.reach(tensor))
        fed = {k: v for k, v in values.items() if _theirs(k) in known and k not in below and k not in stored}
        return self._run(fed, [tensor])[tensor]

    def _run(self, feeds: Mapping[str, Array], fetch: list[str]) -> dict[str, Array]:
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        config.graph_options.optimizer_options.opt_level = -1
        try:
            with tf.compat.v1.Session(graph=self.graph, config=config) as session:
                found = session.run([_theirs(n) for n in fetch], {_theirs(n): v for n, v in feeds.items()})
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise NotHere(f"TensorFlow refuses the change: {error}") from error
        return {name: np.array(value) for name, value in zip(fetch, found, strict=True)}

    def planted(self, site: Site, rng: np.random.Generator, amount: float, value: Array) -> tuple[Plantable, str]:
        changed = GraphFile(type(self.graph_def).FromString(self.graph_def.SerializeToString()))
        return changed, EDITS[site.op_type][site.kind](changed, changed.node(site.tensor), rng, amount, value)

    def reach(self, tensor: str) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {tensor: []}
        for op in self.graph.get_operations():
            for name in {_ours(t.name) for t in op.inputs} & out.keys():
                out[name] += [_ours(t.name) for t in op.outputs]
                for t in op.outputs:
                    out.setdefault(_ours(t.name), [])
        return out

    def op_name(self, tensor: str) -> str:
        return str(self.node(tensor).name)

    def node(self, tensor: str) -> Any:
        for node in self.graph_def.node:
            if node.name == tensor.split(":")[0]:
                return node
        raise NotHere(f"nothing writes {tensor}")

    def constant(self, node: Any, slot: int) -> Array:
        """The stored value that an operator reads. Raises NotHere where it is computed or absent."""
        if slot >= len(node.input):
            raise NotHere("absent")
        source = self.node(node.input[slot])
        if source.op == "Identity":  # as a variable was read
            source = self.node(source.input[0])
        if source.op != "Const":
            raise NotHere("not stored")
        found: Array = tf.make_ndarray(source.attr["value"].tensor)
        return found

    def is_weight(self, name: str) -> bool:
        """Whether a tensor is made of constants alone."""
        node = self.node(name)
        return node.op == "Const" or (bool(node.input) and all(self.is_weight(i) for i in node.input))

    def set_constant(self, node: Any, slot: int, value: Array) -> None:
        """Give this operator, and no other, another constant."""
        added = self.graph_def.node.add(name=f"{node.name}/planted_{slot}", op="Const")
        added.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        added.attr["dtype"].type = added.attr["value"].tensor.dtype
        node.input[slot] = added.name

    def shape(self, name: str) -> tuple[int | None, ...]:
        return tuple(self.graph.get_tensor_by_name(_theirs(name)).shape)


def _ours(name: str) -> str:
    return name.removesuffix(":0")


def _theirs(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _without(node: Any, *attributes: str) -> None:
    for key in attributes:
        if key in node.attr:
            del node.attr[key]


# Weights and biases.

_AXIS = {"Conv2D": 3, "DepthwiseConv2dNative": 2, "MatMul": 1}  # of the output channels in the weights


@edits("weight_channel", *_AXIS)
def _weight_channel(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    changed, detail = change_channel(model.constant(node, 1), _AXIS[node.op], rng, amount)
    model.set_constant(node, 1, changed)
    return detail


@edits("scale", *_AXIS)
def _scale(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    weight = model.constant(node, 1)
    model.set_constant(node, 1, (weight * (1 + amount)).astype(weight.dtype))
    return f"weights x {1 + amount:.4g}"


@edits("dtype_rounding", *_AXIS)
def _dtype_rounding(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    changed, detail = round_weights(model.constant(node, 1), rng)
    model.set_constant(node, 1, changed)
    return detail


@edits("bias_channel", "BiasAdd")
def _bias_channel(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, value: Array) -> str:
    changed, detail = change_vector(model.constant(node, 1), rng, amount, value)
    model.set_constant(node, 1, changed)
    return detail


@edits("missing_bias", "BiasAdd")
def _missing_bias(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    model.set_constant(node, 1, np.zeros_like(model.constant(node, 1)))
    return "bias zeroed"


@edits("norm_channel", "FusedBatchNormV3")
def _norm_channel(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, value: Array) -> str:
    slot = int(rng.integers(1, 3))
    changed, detail = change_vector(model.constant(node, slot), rng, amount, value)
    model.set_constant(node, slot, changed)
    return f"{'scale' if slot == 1 else 'offset'} {detail}"


@edits("epsilon", "FusedBatchNormV3")
def _epsilon(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    before = node.attr["epsilon"].f
    node.attr["epsilon"].f = before * float(10 ** rng.uniform(1, 3))
    return f"epsilon {before:.3g} -> {node.attr['epsilon'].f:.3g}"


@edits("constant", "AddV2", "Mul", "Sub", "RealDiv")
def _constant(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    slot = int(rng.integers(2))
    before = model.constant(node, slot)
    if before.dtype != np.float32:
        raise NotHere("no float constant")
    if model.is_weight(node.input[1 - slot]):
        raise NotHere("a weight in the making: what it is a factor or a bias of, this operator does not say")
    # An epsilon is far smaller than what it is added to: there only another power of ten shows.
    factor = 10 ** rng.uniform(1, 4) if np.all(np.abs(before) < 1e-2) and node.op == "AddV2" else 1 + amount
    model.set_constant(node, slot, (before * factor).astype(np.float32))
    return f"constant x {factor:.4g}"


# Windows.


@edits("padding", "Conv2D")
def _padding(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    if node.attr["padding"].s != b"SAME":
        raise NotHere("no SAME padding")
    weight, length = model.constant(node, 1), model.shape(node.input[0])
    pads = [[0, 0]]
    for axis in (1, 2):
        stride, dilation = node.attr["strides"].list.i[axis], ([*node.attr["dilations"].list.i] or [1] * 4)[axis]
        size = length[axis]
        if size is None:
            raise NotHere("a dynamic size")
        needed = (-(-size // stride) - 1) * stride + (weight.shape[axis - 1] - 1) * dilation + 1 - size
        before, after = max(needed, 0) // 2, max(needed, 0) - max(needed, 0) // 2
        moved = [before + 1, after - 1] if after > before else [before - 1, after + 1]
        pads.append(moved if needed > 0 else [0, 0])
    node.attr["padding"].s = b"EXPLICIT"
    node.attr["explicit_paddings"].list.i[:] = [n for pair in [*pads, [0, 0]] for n in pair]
    return f"SAME -> {pads[1:]}"


@edits("pool_mode", "MaxPool", "AvgPool")
def _pool_mode(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    before = node.op
    node.op = {"MaxPool": "AvgPool", "AvgPool": "MaxPool"}[before]
    _without(node, "explicit_paddings")
    return f"{before} -> {node.op}"


@edits("resize_mode", "ResizeBilinear", "ResizeNearestNeighbor")
def _resize_mode(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    before = node.attr["align_corners"].b, node.attr["half_pixel_centers"].b
    others = [m for m in ((False, False), (True, False), (False, True)) if m != before]
    node.attr["align_corners"].b, node.attr["half_pixel_centers"].b = others[rng.integers(len(others))]
    return f"align_corners={node.attr['align_corners'].b} half_pixel_centers={node.attr['half_pixel_centers'].b}"


# Activations, order.

_OTHERS = {
    "Relu": ["Relu6", "Tanh", "Softplus", "Elu"],
    "Relu6": ["Relu", "Tanh", "Softplus"],
    "Elu": ["Relu", "Selu"],
    "Selu": ["Elu"],
    "Sigmoid": ["Tanh"],
    "Tanh": ["Sigmoid"],
}


@edits("activation", *_OTHERS)
def _activation(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    before = node.op
    node.op = _OTHERS[before][rng.integers(len(_OTHERS[before]))]
    return f"{before} -> {node.op}"


@edits("missing_activation", *_OTHERS)
def _missing_activation(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    before = node.op
    node.op = "Identity"
    return f"{before} -> Identity"


@edits("operand_order", "Sub", "RealDiv")
def _operand_order(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    node.input[0], node.input[1] = node.input[1], node.input[0]
    return "operands swapped"


@edits("concat_order", "ConcatV2")
def _concat_order(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    parts = [k for k, name in enumerate(node.input[:-1]) if not name.startswith("^")]
    same = [(i, j) for j in parts for i in parts[:j] if model.shape(node.input[i]) == model.shape(node.input[j])]
    if not same:
        raise NotHere("no two inputs of one shape")
    i, j = same[rng.integers(len(same))]
    node.input[i], node.input[j] = node.input[j], node.input[i]
    return f"inputs {i} and {j} swapped"


@edits("transposed", "Transpose")
def _transposed(model: GraphFile, node: Any, rng: np.random.Generator, amount: float, value: Array) -> str:
    perm = model.constant(node, 1)
    after, detail = swapped_axes(perm.tolist(), value.shape, rng)
    model.set_constant(node, 1, np.array(after, perm.dtype))
    return detail
