"""Operators that TensorFlow and TFLite share: ONNX's own around NCHW cores, pads as numbers, slices without masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aligndbg.canonical.emitter import Emitter
from aligndbg.canonical.evaluate import CannotEvaluateError, Step
from aligndbg.core.types import Node

__all__ = [
    "conv", "conv_transpose", "cut_at", "matmul", "moved", "pool", "reduce", "resize", "reverse", "same_pads",
    "strided_slice", "topk", "window_pads",
]  # fmt: skip

_ENDS = np.iinfo(np.int64)


def same_pads(length: int, window: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: the output is ceil(length / stride); the odd row goes to the end."""
    needed = max((-(-length // stride) - 1) * stride + window - length, 0)
    return needed // 2, needed - needed // 2


def window_pads(
    e: Emitter, padding: str, x: str, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int] = (1, 1)
) -> list[int]:
    """ONNX's pads of an NHWC tensor `x` for SAME or VALID."""
    if padding != "SAME":
        return [0, 0, 0, 0]
    sizes = e.shape(x)[1:3]
    spread = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    height, width = (same_pads(*each) for each in zip(sizes, spread, strides, strict=True))
    return [height[0], width[0], height[1], width[1]]


def moved(e: Emitter, name: str, perm: Sequence[int], shape: Sequence[int] = ()) -> str:
    """A weight with its axes in another order, and then in another shape: a constant where it is one."""
    value = e.value(name)
    if value is not None:
        turned = np.ascontiguousarray(value.transpose(perm))
        return e.const(turned.reshape(shape) if shape else turned, value.dtype)
    made = e.inner("Transpose", [name], perm=list(perm))
    return e.inner("Reshape", [made, e.const(shape)]) if shape else made


def conv(e: Emitter, inputs: Sequence[str], kernel: Sequence[int], **attributes: Any) -> None:
    """The node's output, from an NHWC tensor, a weight of (out, in, height, width) and a bias."""
    core = e.inner("Conv", [e.channels_first(inputs[0]), *inputs[1:]], kernel_shape=list(kernel), **attributes)
    e.channels_last(core)


def conv_transpose(
    e: Emitter, node: Node, inputs: Sequence[str], kernel: Sequence[int], strides: Sequence[int]
) -> None:
    """Likewise; the weight is (in, out, height, width). What is cut off is told by the size of the output."""
    begin, end, extra = [], [], []
    sizes = zip(e.shape(inputs[0])[1:3], e.shape(node.outputs[0])[1:3], kernel, strides, strict=True)
    for length, out, k, stride in sizes:
        full = (length - 1) * stride + k
        cut = max(full - out, 0)
        begin.append(cut // 2)
        end.append(cut - cut // 2)
        extra.append(out - (full - cut))
    core = e.inner(
        "ConvTranspose",
        [e.channels_first(inputs[0]), *inputs[1:]],
        kernel_shape=list(kernel),
        strides=list(strides),
        pads=begin + end,
        output_padding=extra,
    )
    e.channels_last(core)


def pool(e: Emitter, op: str, x: str, kernel: Sequence[int], strides: Sequence[int], padding: str) -> None:
    pads = window_pads(e, padding, x, kernel, strides)
    core = e.inner(op, [e.channels_first(x)], kernel_shape=list(kernel), strides=list(strides), pads=pads)
    e.channels_last(core)


def resize(e: Emitter, node: Node, mode: str, attributes: Mapping[str, Any]) -> None:
    """To the size of the output; `mode` is ONNX's word."""
    x = node.inputs[0]
    shape = e.shape(x)
    sizes = e.const([shape[0], shape[3], *e.shape(node.outputs[0])[1:3]])
    if attributes.get("align_corners"):
        coordinates, nearest = "align_corners", "round_prefer_ceil"
    elif attributes.get("half_pixel_centers"):
        coordinates, nearest = "half_pixel", "round_prefer_ceil"
    else:
        coordinates, nearest = "asymmetric", "floor"
    more = {"nearest_mode": nearest} if mode == "nearest" else {}
    settings = {"coordinate_transformation_mode": coordinates, "mode": mode, **more}
    e.channels_last(e.inner("Resize", [e.channels_first(x), "", "", sizes], **settings))


def matmul(e: Emitter, node: Node) -> None:
    """Of batches; `adj_x` and `adj_y` turn an operand."""
    operands = []
    for name, adjoint in zip(node.inputs, ("adj_x", "adj_y"), strict=True):
        rank = len(e.shape(name))
        perm = [*range(rank - 2), rank - 1, rank - 2]
        operands.append(e.inner("Transpose", [name], perm=perm) if node.attributes.get(adjoint) else name)
    e.add("MatMul", operands)


def reduce(e: Emitter, node: Node, op: str) -> None:
    """Over the axes that the second input holds."""
    rank = len(e.shape(node.inputs[0]))
    axes = [int(a) % rank for a in e.known(node.inputs[1]).reshape(-1)]
    keep = int(bool(node.attributes.get("keep_dims")))
    if op == "ReduceSum":  # the one whose axes became an input before opset 18
        e.add(op, [node.inputs[0], e.const(axes)], keepdims=keep)
    else:
        e.add(op, [node.inputs[0]], axes=axes, keepdims=keep)


def strided_slice(e: Emitter, node: Node) -> None:
    """Begin, end and step are inputs, what they leave to the shape is in masks; axes that go or come are a reshape."""
    a, shape = node.attributes, e.shape(node.inputs[0])
    if a.get("offset"):
        raise CannotEvaluateError("a slice whose end is an offset")
    given = [e.known(name).astype(np.int64).reshape(-1) for name in node.inputs[1:4]]
    begin, end, step, axes = list[int](), list[int](), list[int](), list[int]()
    axis = 0
    for k, (first, last, by) in enumerate(zip(*given, strict=True)):
        bit = {mask: bool(a.get(mask, 0) >> k & 1) for mask in _MASKS}
        if bit["ellipsis_mask"]:
            after = sum(not a.get("new_axis_mask", 0) >> j & 1 for j in range(k + 1, given[0].size))
            axis = len(shape) - after
            continue
        if bit["new_axis_mask"]:
            continue
        if bit["shrink_axis_mask"]:
            first = int(first) % shape[axis]
            last, by = first + 1, 1
        else:
            first = (0 if by > 0 else _ENDS.max) if bit["begin_mask"] else first
            last = (_ENDS.max if by > 0 else _ENDS.min) if bit["end_mask"] else last
        for found, value in ((begin, first), (end, last), (step, by), (axes, axis)):
            found.append(int(value))
        axis += 1
    inputs = [node.inputs[0], *(e.const(numbers) for numbers in (begin, end, axes, step))]
    if a.get("shrink_axis_mask") or a.get("new_axis_mask"):
        e.add("Reshape", [e.inner("Slice", inputs), e.const(e.shape(node.outputs[0]))])
    else:
        e.add("Slice", inputs)


_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


def cut_at(e: Emitter, node: Node, x: str, axis: int, *, each: bool = False) -> None:
    """The node's outputs one after another along an axis; `each` is one place of it, the axis gone."""
    axis %= len(e.shape(x))
    begin = 0
    for name in node.outputs:  # slices, so that one output alone can be asked for
        size = 1 if each else e.shape(name)[axis]
        part = [x, e.const([begin]), e.const([begin + size]), e.const([axis])]
        begin += size
        if each:
            e.add("Reshape", [e.inner("Slice", part), e.const(e.shape(name))], name)
        else:
            e.add("Slice", part, name)


def topk(e: Emitter, node: Node) -> None:
    count = e.const([int(e.known(node.inputs[1]).reshape(()))])
    for k, output in enumerate(node.outputs):
        made = e.inner("TopK", [node.inputs[0], count])
        names, step = (made, f"{made}:places"), e.steps[-1]
        e.steps[-1] = Step(step.op, step.inputs, names, step.attributes, step.node)
        e.add("Identity", [names[k]], output)


def reverse(e: Emitter, node: Node) -> None:
    axes = [int(a) % len(e.shape(node.inputs[0])) for a in e.known(node.inputs[1]).reshape(-1)]
    ends = [[-1] * len(axes), [_ENDS.min] * len(axes), axes, [-1] * len(axes)]
    e.add("Slice", [node.inputs[0], *(e.const(end) for end in ends)])
