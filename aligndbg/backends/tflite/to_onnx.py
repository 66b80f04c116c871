"""What each TFLite operator is in ONNX: steps around NCHW cores, weights as (out, in, ...), pads as numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aligndbg.backends.tflite import picking
from aligndbg.canonical.emitter import Emitter, Forms, gelu, registry
from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.core.types import Node

__all__ = ["FORMS"]

FORMS: Forms = {}
form = registry(FORMS)


# Convolutions and what has windows.


def same_pads(length: int, window: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: the output is ceil(length / stride); the odd row goes to the end."""
    needed = max((-(-length // stride) - 1) * stride + window - length, 0)
    return needed // 2, needed - needed // 2


def _pads(e: Emitter, node: Node, x: str, kernel: Sequence[int]) -> list[int]:
    a = node.attributes
    if a["padding"] != "SAME":
        return [0, 0, 0, 0]
    dilations = (a.get("dilation_h_factor", 1), a.get("dilation_w_factor", 1))
    height, width = (
        same_pads(length, (k - 1) * d + 1, s)
        for length, k, d, s in zip(e.shape(x)[1:3], kernel, dilations, (a["stride_h"], a["stride_w"]), strict=True)
    )
    return [height[0], width[0], height[1], width[1]]


@form("CONV_2D", "DEPTHWISE_CONV_2D")
def _conv(e: Emitter, node: Node) -> None:
    x, w = node.inputs[:2]
    weight, channels = e.known(w), e.shape(x)[3]
    depthwise = node.op_type == "DEPTHWISE_CONV_2D"
    moved = weight.transpose(3, 0, 1, 2) if depthwise else weight.transpose(0, 3, 1, 2)
    a, kernel = node.attributes, weight.shape[1:3]
    core = e.inner(
        "Conv",
        [e.channels_first(x), e.const(np.ascontiguousarray(moved), weight.dtype), *e.bias(node, 2)],
        kernel_shape=list(kernel),
        strides=[a["stride_h"], a["stride_w"]],
        dilations=[a.get("dilation_h_factor", 1), a.get("dilation_w_factor", 1)],
        pads=_pads(e, node, x, kernel),
        group=channels if depthwise else channels // weight.shape[3],
    )
    e.channels_last(core)


@form("TRANSPOSE_CONV")
def _conv_transpose(e: Emitter, node: Node) -> None:
    _size, w, x = node.inputs[:3]
    weight, a = e.known(w), node.attributes
    strides = (a["stride_h"], a["stride_w"])
    begin, end, extra = [], [], []
    for length, out, k, stride in zip(
        e.shape(x)[1:3], e.shape(node.outputs[0])[1:3], weight.shape[1:3], strides, strict=True
    ):
        full = (length - 1) * stride + k
        cut = max(full - out, 0)
        begin.append(cut // 2)
        end.append(cut - cut // 2)
        extra.append(out - (full - cut))
    core = e.inner(
        "ConvTranspose",
        [
            e.channels_first(x),
            e.const(np.ascontiguousarray(weight.transpose(3, 0, 1, 2)), weight.dtype),
            *e.bias(node, 3),
        ],
        kernel_shape=list(weight.shape[1:3]),
        strides=list(strides),
        pads=begin + end,
        output_padding=extra,
    )
    e.channels_last(core)


@form("MAX_POOL_2D", "AVERAGE_POOL_2D")
def _pool(e: Emitter, node: Node) -> None:
    a, x = node.attributes, node.inputs[0]
    kernel = (a["filter_height"], a["filter_width"])
    core = e.inner(
        "MaxPool" if node.op_type == "MAX_POOL_2D" else "AveragePool",
        [e.channels_first(x)],
        kernel_shape=list(kernel),
        strides=[a["stride_h"], a["stride_w"]],
        pads=_pads(e, node, x, kernel),
    )
    e.channels_last(core)


@form("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize(e: Emitter, node: Node) -> None:
    a, x = node.attributes, node.inputs[0]
    shape = e.shape(x)
    sizes = e.const([shape[0], shape[3], *e.shape(node.outputs[0])[1:3]])
    if a.get("align_corners"):
        coordinates, nearest = "align_corners", "round_prefer_ceil"
    elif a.get("half_pixel_centers"):
        coordinates, nearest = "half_pixel", "round_prefer_ceil"
    else:
        coordinates, nearest = "asymmetric", "floor"
    mode = {"mode": "linear"} if node.op_type == "RESIZE_BILINEAR" else {"mode": "nearest", "nearest_mode": nearest}
    core = e.inner("Resize", [e.channels_first(x), "", "", sizes], coordinate_transformation_mode=coordinates, **mode)
    e.channels_last(core)


# Matrices.


@form("FULLY_CONNECTED")
def _dense(e: Emitter, node: Node) -> None:
    x, w = node.inputs[:2]
    depth = e.shape(w)[-1]
    flat = x if len(e.shape(x)) == 2 and e.shape(x)[1] == depth else e.inner("Reshape", [x, e.const([-1, depth])])
    inputs = [flat, w, *e.bias(node, 2)]
    shape = e.shape(node.outputs[0])
    if len(shape) == 2:
        e.add("Gemm", inputs, transB=1)
    else:
        e.add("Reshape", [e.inner("Gemm", inputs, transB=1), e.const(shape)])


@form("BATCH_MATMUL")
def _matmul(e: Emitter, node: Node) -> None:
    operands = []
    for name, adjoint in zip(node.inputs, ("adj_x", "adj_y"), strict=True):
        rank = len(e.shape(name))
        perm = [*range(rank - 2), rank - 1, rank - 2]
        operands.append(e.inner("Transpose", [name], perm=perm) if node.attributes.get(adjoint) else name)
    e.add("MatMul", operands)


# Elementwise.

_UNARY = {
    "ABS": "Abs", "CEIL": "Ceil", "COS": "Cos", "ELU": "Elu", "EXP": "Exp", "FLOOR": "Floor",
    "HARD_SWISH": "HardSwish", "LOG": "Log", "LOGISTIC": "Sigmoid", "NEG": "Neg", "RELU": "Relu", "ROUND": "Round",
    "SIGN": "Sign", "SIN": "Sin", "SQRT": "Sqrt", "TANH": "Tanh", "QUANTIZE": "Identity", "DEQUANTIZE": "Identity",
}  # fmt: skip
_BINARY = {
    "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "POW": "Pow", "MAXIMUM": "Max", "MINIMUM": "Min",
    "PRELU": "PRelu", "ADD_N": "Sum",
}  # fmt: skip
_CLIPS = {"RELU6": (0.0, 6.0), "RELU_0_TO_1": (0.0, 1.0), "RELU_N1_TO_1": (-1.0, 1.0)}


@form(*_UNARY)
def _unary(e: Emitter, node: Node) -> None:
    e.add(_UNARY[node.op_type], node.inputs[:1])


@form(*_BINARY)
def _binary(e: Emitter, node: Node) -> None:
    e.add(_BINARY[node.op_type], node.inputs)


@form(*_CLIPS)
def _clip(e: Emitter, node: Node) -> None:
    low, high = _CLIPS[node.op_type]
    e.add("Clip", [node.inputs[0], e.const(low, np.float32), e.const(high, np.float32)])


@form("LEAKY_RELU")
def _leaky(e: Emitter, node: Node) -> None:
    e.add("LeakyRelu", node.inputs[:1], alpha=float(node.attributes.get("alpha", 0.0)))


@form("RSQRT")
def _rsqrt(e: Emitter, node: Node) -> None:
    e.add("Reciprocal", [e.inner("Sqrt", node.inputs[:1])])


@form("SQUARE")
def _square(e: Emitter, node: Node) -> None:
    e.add("Mul", [node.inputs[0], node.inputs[0]])


@form("SQUARED_DIFFERENCE")
def _squared_difference(e: Emitter, node: Node) -> None:
    difference = e.inner("Sub", node.inputs)
    e.add("Mul", [difference, difference])


@form("GELU")
def _gelu(e: Emitter, node: Node) -> None:
    gelu(e, node.inputs[0], bool(node.attributes.get("approximate")), np.float32)


@form("SOFTMAX")
def _softmax(e: Emitter, node: Node) -> None:
    beta, x = float(node.attributes.get("beta", 1.0)), node.inputs[0]
    e.add("Softmax", [x if beta == 1 else e.inner("Mul", [x, e.const(beta, np.float32)])], axis=-1)


@form("LOG_SOFTMAX")
def _log_softmax(e: Emitter, node: Node) -> None:
    e.add("LogSoftmax", node.inputs[:1], axis=-1)


@form("CAST")
def _cast(e: Emitter, node: Node) -> None:
    if not str(e.graph.tensors[node.outputs[0]].dtype).startswith("float"):
        raise CannotEvaluateError("a cast to integers")
    e.add("Cast", node.inputs[:1], to=1)


# Reductions.

_REDUCTIONS = {
    "MEAN": "ReduceMean", "SUM": "ReduceSum", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd",
}  # fmt: skip


@form(*_REDUCTIONS)
def _reduce(e: Emitter, node: Node) -> None:
    rank = len(e.shape(node.inputs[0]))
    axes = [int(a) % rank for a in e.known(node.inputs[1]).reshape(-1)]
    op, keep = _REDUCTIONS[node.op_type], int(bool(node.attributes.get("keep_dims")))
    if op == "ReduceSum":  # the one whose axes became an input before opset 18
        e.add(op, [node.inputs[0], e.const(axes)], keepdims=keep)
    else:
        e.add(op, [node.inputs[0]], axes=axes, keepdims=keep)


# Moving values.


@form("PAD", "PADV2", "MIRROR_PAD")
def _pad(e: Emitter, node: Node) -> None:
    pads = e.const(e.known(node.inputs[1]).T.reshape(-1))
    if node.op_type == "MIRROR_PAD":
        if node.attributes.get("mode") != "REFLECT":
            raise CannotEvaluateError("a symmetric pad")
        e.add("Pad", [node.inputs[0], pads], mode="reflect")
        return
    value = float(e.known(node.inputs[2]).reshape(())) if len(node.inputs) > 2 else 0.0
    e.add("Pad", [node.inputs[0], pads, e.const(value, np.float32)])


@form("CONCATENATION")
def _concat(e: Emitter, node: Node) -> None:
    rank = len(e.shape(node.outputs[0]))
    e.add("Concat", node.inputs, axis=int(node.attributes.get("axis", 0)) % rank)


@form("PACK")
def _pack(e: Emitter, node: Node) -> None:
    axis = int(node.attributes.get("axis", 0)) % len(e.shape(node.outputs[0]))
    parts = [e.inner("Unsqueeze", [name, e.const([axis])]) for name in node.inputs]
    e.add("Concat", parts, axis=axis)


@form("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def _reshape(e: Emitter, node: Node) -> None:
    e.add("Reshape", [node.inputs[0], e.const(e.shape(node.outputs[0]))])


@form("TRANSPOSE")
def _transpose(e: Emitter, node: Node) -> None:
    e.add("Transpose", node.inputs[:1], perm=[int(p) for p in e.known(node.inputs[1])])


@form("GATHER")
def _gather(e: Emitter, node: Node) -> None:
    if node.attributes.get("batch_dims"):
        raise CannotEvaluateError("a gather by batch")
    e.known(node.inputs[1])
    e.add("Gather", node.inputs[:2], axis=int(node.attributes.get("axis", 0)))


@form("SLICE")
def _slice(e: Emitter, node: Node) -> None:
    begin, size = (e.known(name).astype(np.int64) for name in node.inputs[1:3])
    end = np.where(size < 0, np.iinfo(np.int64).max, begin + size)
    e.add("Slice", [node.inputs[0], e.const(begin), e.const(end)])


@form("STRIDED_SLICE")
def _strided_slice(e: Emitter, node: Node) -> None:
    a, shape = node.attributes, e.shape(node.inputs[0])
    if a.get("ellipsis_mask") or a.get("new_axis_mask") or a.get("offset"):
        raise CannotEvaluateError("a slice with an ellipsis, a new axis or an offset")
    begin, end, step = (e.known(name).astype(np.int64).copy() for name in node.inputs[1:4])
    for k in range(begin.size):
        if a.get("shrink_axis_mask", 0) >> k & 1:
            begin[k] %= shape[k]
            end[k], step[k] = begin[k] + 1, 1
            continue
        if a.get("begin_mask", 0) >> k & 1:
            begin[k] = 0 if step[k] > 0 else np.iinfo(np.int64).max
        if a.get("end_mask", 0) >> k & 1:
            end[k] = np.iinfo(np.int64).max if step[k] > 0 else np.iinfo(np.int64).min
    inputs = [node.inputs[0], e.const(begin), e.const(end), e.const(np.arange(begin.size)), e.const(step)]
    if a.get("shrink_axis_mask"):
        e.add("Reshape", [e.inner("Slice", inputs), e.const(e.shape(node.outputs[0]))])
    else:
        e.add("Slice", inputs)


@form("SPLIT", "SPLIT_V", "UNPACK")
def _split(e: Emitter, node: Node) -> None:
    if node.op_type == "SPLIT":
        x, axis = node.inputs[1], int(e.known(node.inputs[0]).reshape(()))
    elif node.op_type == "SPLIT_V":
        x, axis = node.inputs[0], int(e.known(node.inputs[2]).reshape(()))
    else:
        x, axis = node.inputs[0], int(node.attributes.get("axis", 0))
    axis %= len(e.shape(x))
    begin = 0
    for name in node.outputs:  # slices, so that one output alone can be asked for
        size = 1 if node.op_type == "UNPACK" else e.shape(name)[axis]
        part = [x, e.const([begin]), e.const([begin + size]), e.const([axis])]
        begin += size
        if node.op_type == "UNPACK":
            e.add("Reshape", [e.inner("Slice", part), e.const(e.shape(name))], name)
        else:
            e.add("Slice", part, name)


FORMS |= picking.FORMS
