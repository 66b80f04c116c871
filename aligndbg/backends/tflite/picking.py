"""TFLite's operators that pick, place, repeat and compare, in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

from aligndbg.canonical import channels_last
from aligndbg.canonical.emitter import Emitter, Forms, registry
from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.core.types import Node

__all__ = ["FORMS"]

FORMS: Forms = {}
form = registry(FORMS)
_SAME = {
    "SELECT_V2": "Where", "SELECT": "Where", "TILE": "Tile", "GATHER_ND": "GatherND", "BROADCAST_TO": "Expand",
    "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "LESS": "Less", "LESS_EQUAL": "LessOrEqual",
    "EQUAL": "Equal", "LOGICAL_AND": "And", "LOGICAL_OR": "Or", "LOGICAL_NOT": "Not",
}  # fmt: skip
_WHOLE = {"TILE", "GATHER_ND", "BROADCAST_TO"}  # their second input is of int64 in ONNX


@form(*_SAME)
def _same(e: Emitter, node: Node) -> None:
    inputs = list(node.inputs)
    if node.op_type in _WHOLE:
        inputs[1] = e.inner("Cast", [inputs[1]], to=7)
    e.add(_SAME[node.op_type], inputs)


@form("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
def _blocks(e: Emitter, node: Node) -> None:
    """TensorFlow's order of channels is that of DCR."""
    op = "DepthToSpace" if node.op_type == "DEPTH_TO_SPACE" else "SpaceToDepth"
    more = {"mode": "DCR"} if op == "DepthToSpace" else {}
    core = e.inner(op, [e.channels_first(node.inputs[0])], blocksize=int(node.attributes["block_size"]), **more)
    e.channels_last(core)


@form("ARG_MAX", "ARG_MIN")
def _arg(e: Emitter, node: Node) -> None:
    axis = int(e.known(node.inputs[1]).reshape(())) % len(e.shape(node.inputs[0]))
    e.add("ArgMax" if node.op_type == "ARG_MAX" else "ArgMin", node.inputs[:1], axis=axis, keepdims=0)


form("TOPK_V2")(channels_last.topk)
form("REVERSE_V2")(channels_last.reverse)


@form("CUMSUM")
def _cumsum(e: Emitter, node: Node) -> None:
    flags: dict[str, Any] = {key: int(bool(node.attributes.get(key))) for key in ("exclusive", "reverse")}
    e.add("CumSum", [node.inputs[0], e.const(int(e.known(node.inputs[1]).reshape(())))], **flags)


@form("SCATTER_ND")
def _scatter(e: Emitter, node: Node) -> None:
    """Repeated places are added up."""
    places, updates = node.inputs[:2]
    dtype = np.dtype(e.graph.tensors[updates].dtype)
    zeros = e.inner("Expand", [e.const(0, dtype), e.const(e.shape(node.outputs[0]))])
    e.add("ScatterND", [zeros, e.inner("Cast", [places], to=7), updates], reduction="add")


@form("L2_NORMALIZATION")
def _l2(e: Emitter, node: Node) -> None:
    e.add("LpNormalization", node.inputs[:1], axis=len(e.shape(node.inputs[0])) - 1, p=2)


@form("FILL")
def _fill(e: Emitter, node: Node) -> None:
    if not e.shape(node.outputs[0]):
        raise CannotEvaluateError("a scalar")
    e.add("Expand", [node.inputs[1], e.const(e.shape(node.outputs[0]))])
