"""torch's operators that pick, place and count in ONNX, and tensors that are made of one number."""

from __future__ import annotations

import math

import numpy as np

from aligndbg.canonical.emitter import Emitter, Forms, registry
from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.core.types import Node

__all__ = ["FORMS"]

FORMS: Forms = {}
form = registry(FORMS)


def _axis(e: Emitter, node: Node) -> int:
    return int(node.attributes.get("axis", 0)) % max(len(e.shape(node.inputs[0])), 1)


@form("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "zeros", "ones", "full")
def _full(e: Emitter, node: Node) -> None:
    word, output = node.op_type, node.outputs[0]
    number = 0 if "zeros" in word else 1 if "ones" in word else node.attributes.get("fill_value", 0)
    one = e.const(number, np.dtype(e.graph.tensors[output].dtype))
    e.add("Expand", [one, e.const(e.shape(output))])


@form("index_add")
def _index_add(e: Emitter, node: Node) -> None:
    """Rows of one index, spread over the other axes, added up."""
    if node.attributes.get("alpha", 1) != 1:
        raise CannotEvaluateError("index_add with a factor")
    x, index, source = node.inputs
    axis, shape = _axis(e, node), e.shape(source)
    column = e.inner("Reshape", [index, e.const([-1 if a == axis else 1 for a in range(len(shape))])])
    e.add("ScatterElements", [x, e.inner("Expand", [column, e.const(shape)]), source], axis=axis, reduction="add")


@form("scatter", "scatter_add", "scatter_reduce")
def _scatter(e: Emitter, node: Node) -> None:
    words = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul"}
    given = str(node.attributes.get("reduce", "sum" if node.op_type == "scatter_add" else ""))
    if len(node.inputs) != 3 or (given and given not in words):
        raise CannotEvaluateError(f"{node.op_type} of a number, or by {given or 'none'}")
    e.add("ScatterElements", node.inputs, axis=_axis(e, node), reduction=words.get(given, "none"))


@form("gather")
def _gather(e: Emitter, node: Node) -> None:
    e.add("GatherElements", node.inputs, axis=_axis(e, node))


@form("index")
def _index(e: Emitter, node: Node) -> None:
    """By one index of whole rows; what a mask or several do is not known from the node."""
    if len(node.inputs) != 2:
        raise CannotEvaluateError("an index of several tensors")
    e.add("Gather", node.inputs, axis=0)


@form("topk")
def _topk(e: Emitter, node: Node) -> None:
    a = node.attributes
    for k, output in enumerate(node.outputs):
        made = e.inner("TopK", [node.inputs[0], e.const([a["k"]])], axis=_axis(e, node), largest=int(a["largest"]))
        step = e.steps[-1]
        names = (made, f"{made}:places")
        e.steps[-1] = type(step)(step.op, step.inputs, names, step.attributes, step.node)
        e.add("Identity", [names[k]], output)


@form("argmax", "argmin")
def _arg(e: Emitter, node: Node) -> None:
    if "axis" not in node.attributes:
        raise CannotEvaluateError(f"{node.op_type} over all axes")
    op = "ArgMax" if node.op_type == "argmax" else "ArgMin"
    e.add(op, node.inputs, axis=_axis(e, node), keepdims=int(bool(node.attributes.get("keepdim"))))


@form("var", "std")
def _spread(e: Emitter, node: Node) -> None:
    """The mean square about the mean; torch divides by one less where nothing is said."""
    a, x, shape = node.attributes, node.inputs[0], e.shape(node.inputs[0])
    axes = list(a["axes"]) if a.get("axes") else [_axis(e, node)] if "axis" in a else list(range(len(shape)))
    count = math.prod(shape[axis] for axis in axes)
    less = a.get("correction", 1 if a.get("unbiased", True) else 0)
    dtype = np.dtype(e.graph.tensors[x].dtype)
    apart = e.inner("Sub", [x, e.inner("ReduceMean", [x], axes=axes, keepdims=1)])
    total = e.inner("ReduceSum", [e.inner("Mul", [apart, apart]), e.const(axes)], keepdims=int(bool(a.get("keepdim"))))
    divided = [total, e.const(count - less, dtype)]
    if node.op_type == "std":
        e.add("Sqrt", [e.inner("Div", divided)])
    else:
        e.add("Div", divided)


@form("floor_divide")
def _floor_divide(e: Emitter, node: Node) -> None:
    """(a - a mod b) / b of integers, floor(a / b) of floats."""
    a, dtype = node.inputs[0], np.dtype(e.graph.tensors[node.inputs[0]].dtype)
    b = node.inputs[1] if len(node.inputs) > 1 else e.const(node.attributes["other"], dtype)
    if dtype.kind == "f":
        e.add("Floor", [e.inner("Div", [a, b])])
    else:
        e.add("Div", [e.inner("Sub", [a, e.inner("Mod", [a, b])]), b])


@form("einsum")
def _einsum(e: Emitter, node: Node) -> None:
    equation = str(node.attributes["equation"])
    count = equation.partition("->")[0].count(",") + 1
    inputs = node.inputs if len(node.inputs) == count else node.inputs * count  # a node lists each tensor once
    e.add("Einsum", inputs, equation=equation)
