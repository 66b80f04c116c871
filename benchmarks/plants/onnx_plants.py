"""The faults that can be planted into ONNX operators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from plants import Array, NotHere
from plants.constants import change_channel, change_vector, round_weights, swapped_axes
from plants.onnx_file import OnnxFile, edits

__all__ = ["OnnxFile"]


def _attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _become(node: onnx.NodeProto, op_type: str, **attributes: Any) -> str:
    """The node under another operator, reading its first input only."""
    before = node.op_type
    node.op_type = op_type
    del node.input[1:]
    del node.attribute[:]
    node.attribute.extend([helper.make_attribute(k, v) for k, v in attributes.items()])
    return f"{before} -> {op_type}" + "".join(f" {k}={v:.3g}" for k, v in attributes.items())


# Weights and biases.

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU")


def _channel_axis(node: onnx.NodeProto, rank: int) -> int:
    if node.op_type in ("LSTM", "GRU", "ConvTranspose"):
        return 1
    if node.op_type == "Conv" or (node.op_type == "Gemm" and _attribute(node, "transB", 0)):
        return 0
    return rank - 1


@edits("weight_channel", *_WEIGHTED)
def _weight_channel(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    weight = model.constant(node, 1)
    changed, detail = change_channel(weight, _channel_axis(node, weight.ndim), rng, amount)
    model.set_constant(node, 1, changed)
    return detail


@edits("scale", *_WEIGHTED)
def _scale(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    weight = model.constant(node, 1)
    model.set_constant(node, 1, (weight * (1 + amount)).astype(weight.dtype))
    return f"weights x {1 + amount:.4g}"


@edits("bias_channel", "Conv", "ConvTranspose", "Gemm")
def _bias_channel(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, value: Array) -> str:
    changed, detail = change_vector(model.constant(node, 2), rng, amount, value)
    model.set_constant(node, 2, changed)
    return detail


@edits("missing_bias", "Conv", "ConvTranspose", "Gemm")
def _missing_bias(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    model.constant(node, 2)
    del node.input[2:]
    return "bias dropped"


@edits("dtype_rounding", *_WEIGHTED)
def _dtype_rounding(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    weight = model.constant(node, 1)
    changed, detail = round_weights(weight, rng)
    model.set_constant(node, 1, changed)
    return detail


# Padding.


@edits("padding", "Conv", "MaxPool", "AveragePool")
def _padding(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    return _shift_pads(node, range(len(_attribute(node, "pads", ())) // 2))


@edits("padding", "Pad")
def _explicit_padding(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    pads = model.constant(node, 1)
    after = _shifted(pads.tolist(), range(pads.size // 2))
    model.set_constant(node, 1, np.array(after, pads.dtype))
    return f"pads {pads.tolist()} -> {after}"


@edits("stride_offset", "Conv", "MaxPool", "AveragePool")
def _stride_offset(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    strided = [k for k, stride in enumerate(_attribute(node, "strides", ())) if stride > 1]
    if not strided:
        raise NotHere("no stride")
    return _shift_pads(node, [strided[rng.integers(len(strided))]])


def _shift_pads(node: onnx.NodeProto, axes: Iterable[int]) -> str:
    before = list(_attribute(node, "pads", ()))
    after = _shifted(before, axes)
    _set_attribute(node, "pads", after)
    return f"pads {before} -> {after}"


def _shifted(before: list[int], axes: Iterable[int]) -> list[int]:
    """One row of padding moved from the larger side to the other, on each axis."""
    after, half = list(before), len(before) // 2
    for axis in axes if before else ():
        begin, end = (axis, axis + half) if before[axis] >= before[axis + half] else (axis + half, axis)
        if after[begin]:
            after[begin] -= 1
            after[end] += 1
    if after == before:
        raise NotHere("nothing is padded")
    return after


# Activations.


@edits("missing_activation", "Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Gelu", "Erf")
def _missing_activation(
    model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array
) -> str:
    source, before = node.input[0], node.op_type
    outputs = {o.name for o in model.graph.output}
    index = model.producers().get(source)
    if index is None or len(model.readers(source)) > 1 or source in outputs:
        return _become(node, "Identity")
    producer = model.graph.node[index]
    producer.output[list(producer.output).index(source)] = node.output[0]
    model.graph.node.remove(node)
    return f"{before} removed"


@edits("extra_activation", "Conv", "Gemm", "Add", "BatchNormalization", "MatMul", "ConvTranspose")
def _extra_activation(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    name = node.output[0]
    if any(r.op_type in ("Relu", "Clip", "HardSigmoid") for r in model.readers(name)):
        raise NotHere("already has one")
    inner = model.fresh(name)
    op = ("Relu", "Tanh", "LeakyRelu")[rng.integers(3)]
    node.output[0] = inner
    extra = helper.make_node(op, [inner], [name], name=model.fresh(node.name or op))
    model.graph.node.insert(model.producers()[inner] + 1, extra)
    return f"{op} added"


_OTHERS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "Relu": [("LeakyRelu", {"alpha": 0.1}), ("Tanh", {}), ("Softplus", {}), ("Elu", {}), ("HardSigmoid", {})],
    "LeakyRelu": [("Relu", {}), ("Elu", {})],
    "Clip": [("Relu", {}), ("HardSigmoid", {}), ("Identity", {})],
    "HardSwish": [("Relu", {}), ("LeakyRelu", {"alpha": 0.05}), ("Mish", {})],
    "HardSigmoid": [("Sigmoid", {}), ("HardSigmoid", {"alpha": 0.2, "beta": 0.5})],
    "Sigmoid": [
        ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        ("Tanh", {}),
    ],
    "Tanh": [("Softsign", {}), ("Sigmoid", {}), ("Relu", {})],
    "Erf": [("Tanh", {})],
}


@edits("activation", *_OTHERS)
def _activation(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    options = _OTHERS[node.op_type]
    op, attributes = options[rng.integers(len(options))]
    return _become(node, op, **attributes)


# Normalization and other constants.


@edits("epsilon", "BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")
def _epsilon(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    before = _attribute(node, "epsilon", 1e-5)
    after = float(10 ** rng.uniform(-5, 0))
    _set_attribute(node, "epsilon", after)
    return f"epsilon {before:.3g} -> {after:.3g}"


@edits("norm_channel", "BatchNormalization", "InstanceNormalization", "LayerNormalization")
def _norm_channel(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, value: Array) -> str:
    slot = int(rng.integers(1, len(node.input)))
    before = model.constant(node, slot)
    if slot == 2:  # the bias
        changed, detail = change_vector(before, rng, amount, value)
    else:
        changed, detail = change_channel(before, 0, rng, amount)
    model.set_constant(node, slot, changed)
    return f"input {slot}: {detail}"


@edits("constant", "Add", "Mul", "Sub", "Div", "PRelu", "Pow", "Clip")
def _constant(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    slot = int(rng.integers(len(node.input)))
    before = model.constant(node, slot)
    if not np.issubdtype(before.dtype, np.floating):
        raise NotHere("no float constant")
    model.set_constant(node, slot, (before * (1 + amount)).astype(before.dtype))
    return f"constant x {1 + amount:.4g}"


# Axes, order, modes.


@edits("axis", "Softmax", "LogSoftmax")
def _axis(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, value: Array) -> str:
    before = _attribute(node, "axis", -1) % max(value.ndim, 1)
    others = [k for k in range(value.ndim) if k != before and value.shape[k] > 1]
    if not others:
        raise NotHere("no other axis")
    after = others[rng.integers(len(others))]
    _set_attribute(node, "axis", after)
    return f"axis {before} -> {after}"


@edits("operand_order", "Sub", "Div", "Pow")
def _operand_order(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    node.input[0], node.input[1] = node.input[1], node.input[0]
    return "operands swapped"


@edits("concat_order", "Concat")
def _concat_order(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    if len(node.input) < 2:
        raise NotHere("one input")
    i, j = sorted(int(k) for k in rng.choice(len(node.input), 2, replace=False))
    node.input[i], node.input[j] = node.input[j], node.input[i]
    return f"inputs {i} and {j} swapped"


@edits("resize_mode", "Resize")
def _resize_mode(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    if _attribute(node, "mode", b"nearest") == b"nearest":
        name, options = "nearest_mode", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
    else:
        name, options = "coordinate_transformation_mode", ["half_pixel", "asymmetric", "align_corners"]
    if rng.random() < 0.5:
        name, options = "coordinate_transformation_mode", ["half_pixel", "asymmetric", "align_corners"]
    after = options[rng.integers(len(options))]
    _set_attribute(node, name, after)
    return f"{name} {after}"


@edits("pool_mode", "MaxPool", "AveragePool", "GlobalAveragePool")
def _pool_mode(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, _: Array) -> str:
    before = node.op_type
    if before == "AveragePool" and rng.random() < 0.5:
        after = 1 - _attribute(node, "count_include_pad", 0)
        _set_attribute(node, "count_include_pad", after)
        return f"count_include_pad {after}"
    node.op_type = {"MaxPool": "AveragePool", "AveragePool": "MaxPool", "GlobalAveragePool": "GlobalMaxPool"}[before]
    kept = [a for a in node.attribute if a.name not in ("storage_order", "count_include_pad")]
    del node.attribute[:]
    node.attribute.extend(kept)
    return f"{before} -> {node.op_type}"


@edits("transposed", "Transpose")
def _transposed(model: OnnxFile, node: onnx.NodeProto, rng: np.random.Generator, amount: float, value: Array) -> str:
    after, detail = swapped_axes(list(_attribute(node, "perm", ())), value.shape, rng)
    _set_attribute(node, "perm", after)
    return detail
