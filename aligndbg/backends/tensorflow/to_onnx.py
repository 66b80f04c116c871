"""What each TensorFlow operator is in ONNX: steps around NCHW cores, weights as (out, in, ...), pads as numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aligndbg.canonical import channels_last
from aligndbg.canonical.emitter import Emitter, Forms, registry
from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.core.types import Node

__all__ = ["FORMS"]

FORMS: Forms = {}
form = registry(FORMS)
_DTYPES = {"float32": 1, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}  # TensorProto.DataType


def _number(e: Emitter, node: Node, value: float) -> str:
    """A constant of the dtype of what the node reads."""
    return e.const(value, np.dtype(e.graph.tensors[node.inputs[0]].dtype))


def _axis(e: Emitter, name: str, rank: int) -> int:
    return int(e.known(name).reshape(())) % rank


# Convolutions and what has windows.


def _spatial(node: Node, key: str) -> list[int]:
    """Height and width of an attribute that has a number for each axis. Raises for NCHW, which the CPU has not."""
    if node.attributes.get("data_format", "NHWC") != "NHWC":
        raise CannotEvaluateError(f"{node.op_type} in {node.attributes['data_format']}")
    return list(node.attributes.get(key, [1, 1, 1, 1])[1:3])


def _pads(e: Emitter, node: Node, kernel: Sequence[int]) -> list[int]:
    if node.attributes["padding"] == "EXPLICIT":
        _, _, top, bottom, left, right, _, _ = node.attributes["explicit_paddings"]
        return [top, left, bottom, right]
    sizes = kernel, _spatial(node, "strides"), _spatial(node, "dilations")
    return channels_last.window_pads(e, node.attributes["padding"], node.inputs[0], *sizes)


@form("Conv2D", "DepthwiseConv2dNative")
def _conv(e: Emitter, node: Node) -> None:
    x, w = node.inputs[:2]
    height, width, taken, made = e.shape(w)
    channels, depthwise = e.shape(x)[3], node.op_type != "Conv2D"
    if depthwise:
        weight = channels_last.moved(e, w, (2, 3, 0, 1), (taken * made, 1, height, width))
    else:
        weight = channels_last.moved(e, w, (3, 2, 0, 1))
    channels_last.conv(
        e,
        [x, weight],
        (height, width),
        strides=_spatial(node, "strides"),
        dilations=_spatial(node, "dilations"),
        pads=_pads(e, node, (height, width)),
        group=channels if depthwise else channels // taken,
    )


@form("Conv2DBackpropInput")
def _conv_transpose(e: Emitter, node: Node) -> None:
    _size, w, x = node.inputs
    if node.attributes["padding"] == "EXPLICIT" or _spatial(node, "dilations") != [1, 1]:
        raise CannotEvaluateError("a transposed convolution with pads of its own or dilated")
    inputs = [x, channels_last.moved(e, w, (3, 2, 0, 1))]
    channels_last.conv_transpose(e, node, inputs, e.shape(w)[:2], _spatial(node, "strides"))


@form("MaxPool", "AvgPool")
def _pool(e: Emitter, node: Node) -> None:
    if node.attributes["padding"] == "EXPLICIT":
        raise CannotEvaluateError("a pool with pads of its own")
    op = "MaxPool" if node.op_type == "MaxPool" else "AveragePool"
    sizes = _spatial(node, "ksize"), _spatial(node, "strides")
    channels_last.pool(e, op, node.inputs[0], *sizes, node.attributes["padding"])


@form("ResizeBilinear", "ResizeNearestNeighbor")
def _resize(e: Emitter, node: Node) -> None:
    mode = "linear" if node.op_type == "ResizeBilinear" else "nearest"
    channels_last.resize(e, node, mode, node.attributes)


# Matrices.


@form("MatMul")
def _matmul(e: Emitter, node: Node) -> None:
    turned = [int(bool(node.attributes.get(f"transpose_{side}"))) for side in "ab"]
    if any(turned):
        e.add("Gemm", node.inputs, transA=turned[0], transB=turned[1])
    else:
        e.add("MatMul", node.inputs)


form("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")(channels_last.matmul)


@form("Einsum")
def _einsum(e: Emitter, node: Node) -> None:
    e.add("Einsum", node.inputs, equation=node.attributes["equation"])


# Elementwise.

_SAME = {
    "Abs": "Abs", "Acos": "Acos", "Asin": "Asin", "Atan": "Atan", "Ceil": "Ceil", "Cos": "Cos", "Cosh": "Cosh",
    "Elu": "Elu", "Erf": "Erf", "Exp": "Exp", "Floor": "Floor", "Identity": "Identity", "Log": "Log", "Neg": "Neg",
    "Reciprocal": "Reciprocal", "Relu": "Relu", "Rint": "Round", "Round": "Round", "Selu": "Selu",
    "Sigmoid": "Sigmoid", "Sign": "Sign", "Sin": "Sin", "Sinh": "Sinh", "Snapshot": "Identity",
    "Softplus": "Softplus", "Softsign": "Softsign", "Sqrt": "Sqrt", "StopGradient": "Identity", "Tan": "Tan",
    "Tanh": "Tanh",
    "Add": "Add", "AddV2": "Add", "AddN": "Sum", "Div": "Div", "Equal": "Equal", "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual", "Less": "Less", "LessEqual": "LessOrEqual", "LogicalAnd": "And",
    "LogicalNot": "Not", "LogicalOr": "Or", "Maximum": "Max", "Minimum": "Min", "Mul": "Mul", "Pow": "Pow",
    "RealDiv": "Div", "Select": "Where", "SelectV2": "Where", "Sub": "Sub",
}  # fmt: skip


@form(*_SAME)
def _same(e: Emitter, node: Node) -> None:
    e.add(_SAME[node.op_type], node.inputs)


@form("IdentityN")
def _copies(e: Emitter, node: Node) -> None:
    """As Keras's silu writes, to give a gradient of its own."""
    for source, output in zip(node.inputs, node.outputs, strict=True):
        e.add("Identity", [source], output)


@form("BiasAdd")
def _bias(e: Emitter, node: Node) -> None:
    _spatial(node, "")
    e.add("Add", node.inputs)


@form("Relu6")
def _relu6(e: Emitter, node: Node) -> None:
    e.add("Clip", [node.inputs[0], _number(e, node, 0), _number(e, node, 6)])


@form("ClipByValue")
def _clip(e: Emitter, node: Node) -> None:
    e.add("Clip", node.inputs)


@form("LeakyRelu")
def _leaky(e: Emitter, node: Node) -> None:
    e.add("LeakyRelu", node.inputs, alpha=float(node.attributes.get("alpha", 0.2)))


@form("Rsqrt")
def _rsqrt(e: Emitter, node: Node) -> None:
    e.add("Reciprocal", [e.inner("Sqrt", node.inputs)])


@form("Square")
def _square(e: Emitter, node: Node) -> None:
    e.add("Mul", [node.inputs[0], node.inputs[0]])


@form("SquaredDifference")
def _squared_difference(e: Emitter, node: Node) -> None:
    difference = e.inner("Sub", node.inputs)
    e.add("Mul", [difference, difference])


@form("Softmax", "LogSoftmax")
def _softmax(e: Emitter, node: Node) -> None:
    e.add(node.op_type, node.inputs, axis=-1)


@form("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def _norm(e: Emitter, node: Node) -> None:
    if node.attributes.get("is_training"):
        raise CannotEvaluateError("a normalization that is training")
    _spatial(node, "")
    inputs = [e.channels_first(node.inputs[0]), *node.inputs[1:]]
    e.channels_last(e.inner("BatchNormalization", inputs, epsilon=float(node.attributes["epsilon"])))


@form("Cast")
def _cast(e: Emitter, node: Node) -> None:
    to = _DTYPES.get(str(node.attributes["DstT"]))
    if to is None:
        raise CannotEvaluateError(f"a cast to {node.attributes['DstT']}")
    e.add("Cast", node.inputs, to=to)


# Reductions.

_REDUCTIONS = {"Mean": "ReduceMean", "Sum": "ReduceSum", "Max": "ReduceMax", "Min": "ReduceMin", "Prod": "ReduceProd"}


@form(*_REDUCTIONS)
def _reduce(e: Emitter, node: Node) -> None:
    channels_last.reduce(e, node, _REDUCTIONS[node.op_type])


@form("ArgMax", "ArgMin")
def _arg(e: Emitter, node: Node) -> None:
    e.add(node.op_type, node.inputs[:1], axis=_axis(e, node.inputs[1], len(e.shape(node.inputs[0]))), keepdims=0)


@form("Cumsum")
def _cumsum(e: Emitter, node: Node) -> None:
    flags: dict[str, Any] = {key: int(bool(node.attributes.get(key))) for key in ("exclusive", "reverse")}
    e.add("CumSum", [node.inputs[0], e.const(_axis(e, node.inputs[1], len(e.shape(node.inputs[0]))))], **flags)


form("TopKV2")(channels_last.topk)


# Moving values.


@form("Reshape", "Squeeze", "ExpandDims")
def _reshape(e: Emitter, node: Node) -> None:
    e.add("Reshape", [node.inputs[0], e.const(e.shape(node.outputs[0]))])


@form("Transpose")
def _transpose(e: Emitter, node: Node) -> None:
    e.add("Transpose", node.inputs[:1], perm=[int(p) for p in e.known(node.inputs[1])])


@form("Pad", "PadV2", "MirrorPad")
def _pad(e: Emitter, node: Node) -> None:
    pads, x = e.const(e.known(node.inputs[1]).T.reshape(-1)), node.inputs[0]
    if node.op_type == "MirrorPad":
        if node.attributes.get("mode") != "REFLECT":
            raise CannotEvaluateError("a symmetric pad")
        e.add("Pad", [x, pads], mode="reflect")
        return
    value = float(e.known(node.inputs[2]).reshape(())) if len(node.inputs) > 2 else 0.0
    e.add("Pad", [x, pads, _number(e, node, value)])


@form("ConcatV2")
def _concat(e: Emitter, node: Node) -> None:
    e.add("Concat", node.inputs[:-1], axis=_axis(e, node.inputs[-1], len(e.shape(node.outputs[0]))))


@form("Pack")
def _pack(e: Emitter, node: Node) -> None:
    axis = int(node.attributes.get("axis", 0)) % len(e.shape(node.outputs[0]))
    e.add("Concat", [e.inner("Unsqueeze", [name, e.const([axis])]) for name in node.inputs], axis=axis)


@form("Unpack")
def _unpack(e: Emitter, node: Node) -> None:
    channels_last.cut_at(e, node, node.inputs[0], int(node.attributes.get("axis", 0)), each=True)


@form("Split", "SplitV")
def _split(e: Emitter, node: Node) -> None:
    x, axis = (node.inputs[1], node.inputs[0]) if node.op_type == "Split" else (node.inputs[0], node.inputs[2])
    channels_last.cut_at(e, node, x, int(e.known(axis).reshape(())))


@form("GatherV2")
def _gather(e: Emitter, node: Node) -> None:
    if node.attributes.get("batch_dims"):
        raise CannotEvaluateError("a gather by batch")
    e.add("Gather", node.inputs[:2], axis=_axis(e, node.inputs[2], len(e.shape(node.inputs[0]))))


def _with_int64(op: str) -> Callable[[Emitter, Node], None]:
    """An operator whose second input is of int64 in ONNX."""

    def made(e: Emitter, node: Node) -> None:
        e.add(op, [node.inputs[0], e.inner("Cast", [node.inputs[1]], to=7)])

    return made


form("GatherNd")(_with_int64("GatherND"))
form("Tile")(_with_int64("Tile"))
form("BroadcastTo")(_with_int64("Expand"))


@form("Slice")
def _slice(e: Emitter, node: Node) -> None:
    begin, size = (e.known(name).astype(np.int64) for name in node.inputs[1:3])
    e.add("Slice", [node.inputs[0], e.const(begin), e.const(np.where(size < 0, np.iinfo(np.int64).max, begin + size))])


form("StridedSlice")(channels_last.strided_slice)
form("ReverseV2")(channels_last.reverse)


@form("DepthToSpace", "SpaceToDepth")
def _blocks(e: Emitter, node: Node) -> None:
    """TensorFlow's order of channels is that of DCR."""
    _spatial(node, "")
    more = {"mode": "DCR"} if node.op_type == "DepthToSpace" else {}
    core = e.inner(
        node.op_type, [e.channels_first(node.inputs[0])], blocksize=int(node.attributes["block_size"]), **more
    )
    e.channels_last(core)
