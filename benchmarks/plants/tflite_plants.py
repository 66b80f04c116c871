"""The faults that can be planted into TFLite operators."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from plants import Array, NotHere
from plants.constants import change_channel, change_vector, round_weights, swapped_axes
from plants.tflite_file import TfliteFile, edits, names

__all__ = ["TfliteFile"]

# Weights and biases.

# operator -> (slot of the weights, axis of its output channels, slot of the bias)
_WEIGHTED = {
    "CONV_2D": (1, 0, 2),
    "DEPTHWISE_CONV_2D": (1, 3, 2),
    "FULLY_CONNECTED": (1, 0, 2),
    "TRANSPOSE_CONV": (1, 0, 3),
}


@edits("weight_channel", *_WEIGHTED)
def _weight_channel(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    slot, axis, _bias = _WEIGHTED[model.word(op)]
    weight = model.constant(op, slot)
    if weight.dtype == np.int8:
        wide, detail = change_channel(weight.astype(np.float64), axis, rng, max(amount, 0.02))
        changed = np.clip(np.round(wide), -127, 127).astype(np.int8)
    else:
        changed, detail = change_channel(weight, axis, rng, amount)
    model.set_constant(op, slot, changed)
    return detail


@edits("scale", *_WEIGHTED)
def _scale(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    slot = _WEIGHTED[model.word(op)][0]
    weight = model.constant(op, slot)
    if weight.dtype == np.int8:
        quant = model.graph.tensors[model.own(op, slot)].quantization
        quant.scale = (np.asarray(quant.scale) * (1 + amount)).astype(np.float32)
    else:
        model.set_constant(op, slot, (weight * (1 + amount)).astype(weight.dtype))
    return f"weights x {1 + amount:.4g}"


@edits("bias_channel", *_WEIGHTED)
def _bias_channel(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, value: Array) -> str:
    slot = _WEIGHTED[model.word(op)][2]
    bias = model.constant(op, slot)
    if bias.dtype == np.int32:
        channel = int(rng.integers(bias.size))
        steps = float(10 ** rng.uniform(0.4, 2)) * rng.choice([-1, 1])  # of the output
        out_scale = float(model.graph.tensors[op.outputs[0]].quantization.scale[0])
        scales = np.asarray(model.graph.tensors[op.inputs[slot]].quantization.scale)
        moved = int(bias[channel]) + int(steps * out_scale / scales[channel % scales.size])
        if abs(moved) >= 2**31:
            raise NotHere("a channel of next to no weight")
        changed = bias.copy()
        changed[channel] = moved
        detail = f"[{channel}] {steps:+.3g} steps"
    else:
        changed, detail = change_vector(bias, rng, amount, value)
    model.set_constant(op, slot, changed)
    return detail


@edits("missing_bias", *_WEIGHTED)
def _missing_bias(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    slot = _WEIGHTED[model.word(op)][2]
    model.set_constant(op, slot, np.zeros_like(model.constant(op, slot)))
    return "bias zeroed"


@edits("dtype_rounding", *_WEIGHTED)
def _dtype_rounding(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    slot = _WEIGHTED[model.word(op)][0]
    weight = model.constant(op, slot)
    if weight.dtype != np.float32:
        raise NotHere("no float weights")
    changed, detail = round_weights(weight, rng)
    model.set_constant(op, slot, changed)
    return detail


# Padding.


@edits("padding", "PAD", "CONV_2D", "DEPTHWISE_CONV_2D")
def _padding(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    if model.word(op) == "PAD":
        before = model.constant(op, 1)
        model.set_constant(op, 1, _shifted(before))
    else:
        before = _explicit_pads(model, op)
        _insert_pad(model, op, _shifted(before))
    return f"pads {before.tolist()} -> {_shifted(before).tolist()}"


def _shifted(pads: Array) -> Array:
    """One row or column of padding moved from the larger side to the other, on every padded axis."""
    out = pads.copy()
    for row in out:
        if row.any():
            larger = int(row[1] > row[0])
            row[larger] -= 1
            row[1 - larger] += 1
    if np.array_equal(out, pads):
        raise NotHere("nothing is padded, or only evenly swapped")
    return out


def _explicit_pads(model: TfliteFile, op: Any) -> Array:
    """What SAME means here, as PAD wants it: (4, 2)."""
    options = op.builtinOptions
    if options.padding != schema.Padding.SAME:
        raise NotHere("no SAME padding")
    kernel = model.shape(op.inputs[1])
    spatial = (
        (kernel[1], options.strideH, options.dilationHFactor),
        (kernel[2], options.strideW, options.dilationWFactor),
    )
    pads = np.zeros((4, 2), np.int32)
    for axis, (size, stride, dilation) in enumerate(spatial, start=1):
        length = model.shape(op.inputs[0])[axis]
        needed = (-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length
        pads[axis] = max(needed, 0) // 2, max(needed, 0) - max(needed, 0) // 2
    return pads


def _insert_pad(model: TfliteFile, op: Any, pads: Array) -> None:
    """Let PAD do the padding, and the operator none."""
    source = copy.deepcopy(model.graph.tensors[op.inputs[0]])
    source.shape = [int(d + p.sum()) for d, p in zip(model.shape(op.inputs[0]), pads, strict=True)]
    source.shapeSignature, source.buffer = None, 0
    source.name += b"_padded"
    padded = model.tensor(source)
    table = schema.TensorT()
    table.name, table.shape, table.type = b"paddings", list(pads.shape), schema.TensorType.INT32
    table.buffer = model.buffer(pads)
    pad = schema.OperatorT()
    pad.opcodeIndex = model.opcode("PAD")
    pad.inputs, pad.outputs = [int(op.inputs[0]), model.tensor(table)], [padded]
    pad.builtinOptionsType, pad.builtinOptions = schema.BuiltinOptions.PadOptions, schema.PadOptionsT()
    model.graph.operators.insert(model.graph.operators.index(op), pad)
    op.inputs = [padded, *(int(i) for i in op.inputs[1:])]
    op.builtinOptions.padding = schema.Padding.VALID


# Activations.

_FUSES = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MUL", "SUB", "TRANSPOSE_CONV")


def _fuse(op: Any, rng: np.random.Generator, among: tuple[str, ...], wants: Callable[[str], bool]) -> str:
    options = op.builtinOptions
    if options is None or not hasattr(options, "fusedActivationFunction"):
        raise NotHere("nothing can be fused here")
    before = names("ActivationFunctionType")[options.fusedActivationFunction]
    if not wants(before):
        raise NotHere(f"fused: {before}")
    after = [a for a in among if a != before]
    chosen = after[rng.integers(len(after))]
    options.fusedActivationFunction = getattr(schema.ActivationFunctionType, chosen)
    return f"{before} -> {chosen}"


@edits("missing_activation", *_FUSES)
def _missing_activation(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    return _fuse(op, rng, ("NONE",), lambda a: a != "NONE")


@edits("extra_activation", *_FUSES)
def _extra_activation(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    return _fuse(op, rng, ("RELU", "RELU6", "RELU_N1_TO_1"), lambda a: a == "NONE")


@edits("activation", *_FUSES)
def _activation(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    return _fuse(op, rng, ("RELU", "RELU6", "RELU_N1_TO_1"), lambda a: a != "NONE")


_OTHERS: dict[str, list[tuple[str, Any]]] = {
    "LEAKY_RELU": [("RELU", None), ("LEAKY_RELU", 0.05)],
    "HARD_SWISH": [("RELU", None), ("RELU6", None)],
    "LOGISTIC": [("TANH", None), ("RELU_0_TO_1", None)],
    "TANH": [("LOGISTIC", None), ("RELU_N1_TO_1", None)],
    "RELU": [("RELU6", None), ("LEAKY_RELU", 0.1), ("TANH", None)],
    "RELU6": [("RELU", None), ("LEAKY_RELU", 0.1)],
    "RELU_0_TO_1": [("LOGISTIC", None), ("RELU", None)],
}


@edits("activation", *_OTHERS)
def _other_activation(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    before = model.word(op)
    if model.dtype(op.outputs[0]) != np.float32:
        raise NotHere("its output range was chosen for another function")
    word, alpha = _OTHERS[before][rng.integers(len(_OTHERS[before]))]
    op.opcodeIndex = model.opcode(word)
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.NONE, None
    if alpha is not None:
        op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.LeakyReluOptions, schema.LeakyReluOptionsT()
        op.builtinOptions.alpha = alpha
    return f"{before} -> {word}" + (f" alpha={alpha}" if alpha is not None else "")


# Other constants, axes, order, modes.


@edits("constant", "ADD", "MUL", "SUB", "DIV")
def _constant(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    slot = int(rng.integers(2))
    before = model.constant(op, slot)
    if before.dtype != np.float32:
        raise NotHere("no float constant")
    # An epsilon is far smaller than what it is added to: there only another power of ten shows.
    factor = 10 ** rng.uniform(1, 4) if np.all(np.abs(before) < 1e-2) and model.word(op) == "ADD" else 1 + amount
    model.set_constant(op, slot, (before * factor).astype(np.float32))
    return f"constant x {factor:.4g}"


@edits("softmax_beta", "SOFTMAX")
def _softmax_beta(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    op.builtinOptions.beta *= 1 + amount
    return f"beta {op.builtinOptions.beta:.4g}"


@edits("operand_order", "SUB", "DIV")
def _operand_order(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    op.inputs = [int(i) for i in op.inputs[::-1]]
    return "operands swapped"


@edits("concat_order", "CONCATENATION")
def _concat_order(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    inputs = [int(i) for i in op.inputs]
    same = [(i, j) for j in range(len(inputs)) for i in range(j) if model.shape(inputs[i]) == model.shape(inputs[j])]
    if not same:
        raise NotHere("no two inputs of one shape")
    i, j = same[rng.integers(len(same))]
    inputs[i], inputs[j] = inputs[j], inputs[i]
    op.inputs = inputs
    return f"inputs {i} and {j} swapped"


@edits("resize_mode", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize_mode(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    options = op.builtinOptions
    before = (options.alignCorners, options.halfPixelCenters)
    others = [m for m in ((False, False), (True, False), (False, True)) if m != before]
    options.alignCorners, options.halfPixelCenters = others[rng.integers(len(others))]
    return f"align_corners={options.alignCorners} half_pixel_centers={options.halfPixelCenters}"


@edits("pool_mode", "MAX_POOL_2D", "AVERAGE_POOL_2D")
def _pool_mode(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, _: Array) -> str:
    before = model.word(op)
    after = {"MAX_POOL_2D": "AVERAGE_POOL_2D", "AVERAGE_POOL_2D": "MAX_POOL_2D"}[before]
    op.opcodeIndex = model.opcode(after)
    return f"{before} -> {after}"


@edits("transposed", "TRANSPOSE")
def _transposed(model: TfliteFile, op: Any, rng: np.random.Generator, amount: float, value: Array) -> str:
    perm = model.constant(op, 1)
    after, detail = swapped_axes(perm.tolist(), value.shape, rng)
    model.set_constant(op, 1, np.array(after, perm.dtype))
    return detail
