"""What each TFLite operator is in ONNX: steps around NCHW cores, weights as (out, in, ...), pads as numbers."""

from __future__ import annotations

import numpy as np

from aligndbg.backends.tflite import picking
from aligndbg.canonical import channels_last
from aligndbg.canonical.emitter import Emitter, Forms, gelu, registry
from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.core.types import Node

__all__ = ["FORMS"]

FORMS: Forms = {}
form = registry(FORMS)


# Convolutions and what has windows.


def _strides(node: Node) -> list[int]:
    return [node.attributes["stride_h"], node.attributes["stride_w"]]


@form("CONV_2D", "DEPTHWISE_CONV_2D")
def _conv(e: Emitter, node: Node) -> None:
    x, w = node.inputs[:2]
    a, shape, depthwise = node.attributes, e.shape(w), node.op_type == "DEPTHWISE_CONV_2D"
    channels, dilations = e.shape(x)[3], [a.get("dilation_h_factor", 1), a.get("dilation_w_factor", 1)]
    e.known(w)
    weight = channels_last.moved(e, w, (3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
    channels_last.conv(
        e,
        [x, weight, *e.bias(node, 2)],
        shape[1:3],
        strides=_strides(node),
        dilations=dilations,
        pads=channels_last.window_pads(e, a["padding"], x, shape[1:3], _strides(node), dilations),
        group=channels if depthwise else channels // shape[3],
    )


@form("TRANSPOSE_CONV")
def _conv_transpose(e: Emitter, node: Node) -> None:
    _size, w, x = node.inputs[:3]
    e.known(w)
    inputs = [x, channels_last.moved(e, w, (3, 0, 1, 2)), *e.bias(node, 3)]
    channels_last.conv_transpose(e, node, inputs, e.shape(w)[1:3], _strides(node))


@form("MAX_POOL_2D", "AVERAGE_POOL_2D")
def _pool(e: Emitter, node: Node) -> None:
    a, op = node.attributes, "MaxPool" if node.op_type == "MAX_POOL_2D" else "AveragePool"
    kernel = (a["filter_height"], a["filter_width"])
    channels_last.pool(e, op, node.inputs[0], kernel, _strides(node), a["padding"])


@form("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize(e: Emitter, node: Node) -> None:
    mode = "linear" if node.op_type == "RESIZE_BILINEAR" else "nearest"
    channels_last.resize(e, node, mode, node.attributes)


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


form("BATCH_MATMUL")(channels_last.matmul)


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
    channels_last.reduce(e, node, _REDUCTIONS[node.op_type])


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


form("STRIDED_SLICE")(channels_last.strided_slice)


@form("SPLIT", "SPLIT_V", "UNPACK")
def _split(e: Emitter, node: Node) -> None:
    if node.op_type == "UNPACK":
        channels_last.cut_at(e, node, node.inputs[0], int(node.attributes.get("axis", 0)), each=True)
        return
    x, axis = (node.inputs[1], node.inputs[0]) if node.op_type == "SPLIT" else (node.inputs[0], node.inputs[2])
    channels_last.cut_at(e, node, x, int(e.known(axis).reshape(())))


FORMS |= picking.FORMS
