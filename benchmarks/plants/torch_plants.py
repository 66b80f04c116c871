"""The faults that can be planted into the operators of a torch.export program."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from plants import Array, NotHere
from plants.constants import change_channel, change_vector, round_weights, swapped_axes
from plants.torch_file import TorchFile, edits, word

__all__ = ["TorchFile"]

aten = torch.ops.aten


def _argument(node: Any, slot: int) -> Any:
    """What an operator is given at `slot`, or takes where nothing is given."""
    return node.args[slot] if slot < len(node.args) else node.target._schema.arguments[slot].default_value


def _become(node: Any, target: Any, *more: Any) -> str:
    """The node under another operator, reading its first tensor only."""
    before = word(node)
    node.target, node.args, node.kwargs = target, (node.args[0], *more), {}
    return f"{before} -> {word(node)}" + "".join(f" {value:.3g}" for value in more if isinstance(value, float))


# Weights and biases.

_CONVS = ("conv1d", "conv2d", "conv_transpose2d")
_WEIGHTED = (*_CONVS, "linear")


@edits("weight_channel", *_WEIGHTED)
def _weight_channel(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    axis = 1 if word(node) == "conv_transpose2d" else 0
    changed, detail = change_channel(model.constant(node, 1), axis, rng, amount)
    model.set_constant(node, 1, changed)
    return detail


@edits("scale", *_WEIGHTED)
def _scale(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    weight = model.constant(node, 1)
    model.set_constant(node, 1, (weight * (1 + amount)).astype(weight.dtype))
    return f"weights x {1 + amount:.4g}"


@edits("dtype_rounding", *_WEIGHTED)
def _dtype_rounding(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    changed, detail = round_weights(model.constant(node, 1), rng)
    model.set_constant(node, 1, changed)
    return detail


@edits("bias_channel", *_WEIGHTED)
def _bias_channel(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, value: Array) -> str:
    changed, detail = change_vector(model.constant(node, 2), rng, amount, value)
    model.set_constant(node, 2, changed)
    return detail


@edits("missing_bias", *_WEIGHTED)
def _missing_bias(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    model.constant(node, 2)
    model.set_argument(node, 2, None)
    return "bias dropped"


# Padding: as F.pad before a convolution that then pads nothing itself.


@edits("padding", "conv2d")
def _padding(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    return _shift_pads(model, node, [0, 1])


@edits("stride_offset", "conv2d")
def _stride_offset(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    strided = [axis for axis, stride in enumerate(_argument(node, 3)) if stride > 1]
    if not strided:
        raise NotHere("no stride")
    return _shift_pads(model, node, [strided[rng.integers(len(strided))]])


def _shift_pads(model: TorchFile, node: Any, axes: list[int]) -> str:
    pads = _argument(node, 4)
    if isinstance(pads, str) or not any(pads[axis] for axis in axes):
        raise NotHere("nothing is padded")
    around = [[size, size] for size in pads]
    for axis in axes:
        moved = int(pads[axis] > 0)
        around[axis] = [pads[axis] - moved, pads[axis] + moved]
    given = [size for pair in reversed(around) for size in pair]  # F.pad counts from the last axis
    with model.graph.inserting_before(node):
        padded = model.graph.call_function(aten.pad.default, (node.args[0], given))
    padded.meta = dict(node.args[0].meta)
    node.replace_input_with(node.args[0], padded)
    model.set_argument(node, 4, [0, 0])
    return f"pads {list(pads)} -> {around}"


# Activations.

_OTHERS: dict[str, list[tuple[Any, tuple[float, ...]]]] = {
    "relu": [
        (aten.leaky_relu.default, (0.1,)),
        (aten.tanh.default, ()),
        (aten.softplus.default, ()),
        (aten.elu.default, ()),
        (aten.relu6.default, ()),
    ],
    "leaky_relu": [(aten.relu.default, ()), (aten.elu.default, ())],
    "silu": [(aten.hardswish.default, ()), (aten.relu.default, ()), (aten.mish.default, ()), (aten.gelu.default, ())],
    "gelu": [(aten.relu.default, ()), (aten.silu.default, ())],
    "sigmoid": [(aten.hardsigmoid.default, ()), (aten.tanh.default, ())],
    "tanh": [(aten.sigmoid.default, ()), (aten.relu.default, ())],
    "hardswish": [(aten.relu.default, ()), (aten.silu.default, ())],
}


@edits("activation", *_OTHERS)
def _activation(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    options = _OTHERS[word(node)]
    target, more = options[rng.integers(len(options))]
    return _become(node, target, *more)


@edits("missing_activation", *_OTHERS)
def _missing_activation(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    source, before, name = node.args[0], word(node), node.name
    if source.op == "placeholder" or not word(source) or len(source.users) > 1:
        return f"{_become(node, aten.clone.default)} -> Identity"
    node.replace_all_uses_with(source)
    model.graph.erase_node(node)
    source.name = name
    return f"{before} removed"


@edits("extra_activation", *_WEIGHTED, "batch_norm", "add", "matmul")
def _extra_activation(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    if any(word(user) in ("relu", "hardtanh", "relu6", "clamp", "hardsigmoid") for user in node.users):
        raise NotHere("already has one")
    target = (aten.relu.default, aten.tanh.default, aten.leaky_relu.default)[rng.integers(3)]
    model.wrap(node, target)
    return f"{target._schema.name.partition('::')[2]} added"


# Normalization and other constants.

_EPSILON = {"batch_norm": 7, "group_norm": 4, "layer_norm": 4, "instance_norm": 7}


@edits("epsilon", *_EPSILON)
def _epsilon(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    slot = _EPSILON[word(node)]
    before, after = _argument(node, slot), float(10 ** rng.uniform(-5, 0))
    model.set_argument(node, slot, after)
    return f"epsilon {before:.3g} -> {after:.3g}"


_VECTORS = {"batch_norm": (1, 2, 3, 4), "group_norm": (2, 3), "layer_norm": (2, 3), "instance_norm": (1, 2)}


@edits("norm_channel", *_VECTORS)
def _norm_channel(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, value: Array) -> str:
    slots = _VECTORS[word(node)]
    slot = slots[rng.integers(len(slots))]
    before = model.constant(node, slot)
    if slot == slots[1]:  # the bias
        changed, detail = change_vector(before, rng, amount, value)
    else:
        changed, detail = change_channel(before, 0, rng, amount)
    model.set_constant(node, slot, changed)
    return f"argument {slot}: {detail}"


@edits("constant", "add", "mul", "sub", "div")
def _constant(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    slot = int(rng.integers(2))
    if isinstance(node.args[slot], int | float):
        model.set_argument(node, slot, node.args[slot] * (1 + amount))
    else:
        before = model.constant(node, slot)
        if not np.issubdtype(before.dtype, np.floating):
            raise NotHere("no float constant")
        model.set_constant(node, slot, (before * (1 + amount)).astype(before.dtype))
    return f"constant x {1 + amount:.4g}"


# Axes, order, modes.


@edits("axis", "softmax", "log_softmax")
def _axis(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, value: Array) -> str:
    before = node.args[1] % max(value.ndim, 1)
    others = [k for k in range(value.ndim) if k != before and value.shape[k] > 1]
    if not others:
        raise NotHere("no other axis")
    after = others[rng.integers(len(others))]
    model.set_argument(node, 1, after)
    return f"dim {before} -> {after}"


@edits("operand_order", "sub", "div")
def _operand_order(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    first, second, *rest = node.args
    if not isinstance(second, torch.fx.Node):
        raise NotHere("the second operand is no tensor")
    node.args = (second, first, *rest)
    return "operands swapped"


@edits("concat_order", "cat", "stack")
def _concat_order(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    given = list(node.args[0])
    if len(given) < 2:
        raise NotHere("one input")
    i, j = sorted(int(k) for k in rng.choice(len(given), 2, replace=False))
    given[i], given[j] = given[j], given[i]
    model.set_argument(node, 0, given)
    return f"inputs {i} and {j} swapped"


@edits("resize_mode", "upsample_nearest2d", "upsample_bilinear2d")
def _resize_mode(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    if not str(node.target).endswith(".vec"):
        raise NotHere("another overload")
    before, size, scales = word(node), node.args[1], node.args[-1]
    if before == "upsample_nearest2d":
        return _become(node, aten.upsample_bilinear2d.vec, size, False, scales)
    if rng.random() < 0.5:
        return _become(node, aten.upsample_nearest2d.vec, size, scales)
    model.set_argument(node, 2, not node.args[2])
    return f"align_corners {node.args[2]}"


@edits("pool_mode", "max_pool2d", "avg_pool2d")
def _pool_mode(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    window = (_argument(node, slot) for slot in (1, 2, 3))
    return _become(node, aten.avg_pool2d.default if word(node) == "max_pool2d" else aten.max_pool2d.default, *window)


@edits("transposed", "permute")
def _transposed(model: TorchFile, node: Any, rng: np.random.Generator, amount: float, value: Array) -> str:
    after, detail = swapped_axes(list(node.args[1]), value.shape, rng)
    model.set_argument(node, 1, after)
    return detail
