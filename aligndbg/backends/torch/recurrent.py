"""torch's recurrent operators in ONNX: a step for each layer, gates in ONNX's order, both directions in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aligndbg.canonical.emitter import Emitter, Forms, registry
from aligndbg.canonical.evaluate import CannotEvaluateError, Step
from aligndbg.core.types import Node

__all__ = ["FORMS"]

FORMS: Forms = {}
form = registry(FORMS)
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # ONNX's order (iofc, zrh) of torch's (ifgo, rzn)


@form("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(e: Emitter, node: Node) -> None:
    op, a = node.op_type.partition("_")[0].upper(), node.attributes
    if len(e.shape(node.inputs[0])) != 3 or a.get("train"):
        raise CannotEvaluateError(f"{node.op_type} without a batch axis, packed, or in training")
    states = 2 if op == "LSTM" else 1
    initial, weights = node.inputs[1 : 1 + states], node.inputs[1 + states :]
    directions, each = 1 + bool(a.get("bidirectional")), 4 if a.get("has_biases", True) else 2
    layers = int(a.get("num_layers", 1))
    if len(weights) != layers * directions * each:
        raise CannotEvaluateError(f"{node.op_type} with projections, or with weights that it shares")
    x = e.inner("Transpose", node.inputs[:1], perm=[1, 0, 2]) if a.get("batch_first") else node.inputs[0]
    last: list[list[str]] = [[] for _ in range(states)]
    for layer in range(layers):
        own = [weights[k * each : (k + 1) * each] for k in range(layer * directions, (layer + 1) * directions)]
        first = [_state(e, name, layer * directions, directions) for name in initial]
        x, ends = _layer(e, node, op, x, own, first)
        for k, end in enumerate(ends):
            last[k].append(end)
    if a.get("batch_first"):
        e.add("Transpose", [x], perm=[1, 0, 2])
    else:
        e.add("Identity", [x])
    for output, ends in zip(node.outputs[1:], last, strict=False):
        e.add("Concat", ends, output, axis=0)


def _state(e: Emitter, name: str, start: int, count: int) -> str:
    """One layer's initial state; none where it is zero."""
    value = e.value(name)
    if value is not None:
        part = value[start : start + count]
        return e.const(np.ascontiguousarray(part), part.dtype) if part.any() else ""
    return e.inner("Slice", [name, e.const([start]), e.const([start + count]), e.const([0])])


def _layer(
    e: Emitter, node: Node, op: str, x: str, weights: Sequence[Sequence[str]], first: Sequence[str]
) -> tuple[str, list[str]]:
    """(all results, the last state and cell) of one layer, given each direction's weights."""
    hidden = e.known(weights[0][1]).shape[1]

    def ordered(name: str) -> Any:
        value = e.known(name)
        return value.reshape(len(GATES[op]), hidden, *value.shape[1:])[list(GATES[op])].reshape(value.shape)

    stacked = [np.stack([ordered(own[k]) for own in weights]) for k in (0, 1)]
    inputs = [x, *(e.const(value, value.dtype) for value in stacked)]
    biases = [np.concatenate([ordered(own[2]), ordered(own[3])]) for own in weights if len(own) == 4]
    inputs += [e.const(np.stack(biases), biases[0].dtype) if biases else "", "", *first]
    more: dict[str, Any] = {"linear_before_reset": 1} if op == "GRU" else {}
    if node.op_type == "rnn_relu":
        more["activations"] = ["Relu"] * len(weights)
    made = e.inner(op, inputs, hidden_size=hidden, direction="bidirectional" if len(weights) > 1 else "forward", **more)
    ends = [f"{made}:{what}" for what in ("state", "cell")[: len(first)]]
    step = e.steps[-1]
    e.steps[-1] = Step(step.op, step.inputs, (made, *ends), step.attributes, step.node)
    flat = e.inner("Reshape", [e.inner("Transpose", [made], perm=[0, 2, 1, 3]), e.const([0, 0, -1])])
    return flat, ends
