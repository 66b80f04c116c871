"""A runtime's node in ONNX's words: the steps in the making, and the register of what each operator becomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError, Step
from aligndbg.core.types import Array, Graph, Node, Quant

__all__ = ["Emitter", "Form", "Forms", "gelu", "registry"]

TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # NHWC to NCHW, and back
# Their result holds their inputs' values.
MOVING = frozenset(
    {"PAD", "PADV2", "MIRROR_PAD", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "GATHER", "SLICE", "STRIDED_SLICE"}
    | {"SPLIT", "SPLIT_V", "UNPACK", "PACK", "CONCATENATION", "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR"}
)
Form = Callable[["Emitter", Node], None]
Forms = dict[str, Form]  # by the runtime's own word


def registry(forms: Forms) -> Callable[..., Callable[[Form], Form]]:
    """A decorator that registers the form of the operators it names."""

    def form(*words: str) -> Callable[[Form], Form]:
        def register(fn: Form) -> Form:
            forms.update(dict.fromkeys(words, fn))
            return fn

        return register

    return form


class Emitter:
    """Steps in the making. A form's last step computes the node's output; activation and grid follow."""

    def __init__(self, graph: Graph, stored: Mapping[str, Array], shape: Callable[[str], tuple[int, ...]]) -> None:
        self.graph, self.stored, self.shape = graph, stored, shape
        self.steps: list[Step] = []
        self.constants: dict[str, Array] = {}
        self._node = Node("", "", (), ())
        self._count = 0

    def node(self, node: Node, form: Form) -> None:
        """Adds the steps of one node."""
        self._node, first = node, len(self.steps)
        for name in node.inputs:
            value = self.value(name)
            if value is not None:
                self.constants[name] = value
        form(self, node)
        self._activation(node)
        for output in node.outputs:
            self._on_grid(output, first)

    def value(self, name: str) -> Array | None:
        """A constant's real value: float32 for quantized ones."""
        if not name or name not in self.stored:
            return None
        quant = self.graph.tensors[name].quant if name in self.graph.tensors else None
        stored = self.stored[name]
        return quant.dequantize(stored) if quant is not None and stored.dtype.kind in "iu" else stored

    def known(self, name: str) -> Array:
        value = self.value(name)
        if value is None:
            raise CannotEvaluateError(f"{self._node.op_type} reads {name!r}, which is not constant")
        return value

    def add(self, op: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """One step more; returns its output's name, by default the node's."""
        name = output or self._node.outputs[0]
        self.steps.append(Step(op, tuple(inputs), (name,), attributes, self._node.name))
        return name

    def inner(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """One step on the way to the node's output."""
        self._count += 1
        return self.add(op, inputs, f"{self._node.outputs[0]}:{self._count}", **attributes)

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        self._count += 1
        name = f"{self._node.outputs[0]}:const{self._count}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def bias(self, node: Node, slot: int) -> list[str]:
        """The bias as ONNX takes it, (channels,): files hold (1, 1, 1, channels) too."""
        if slot >= len(node.inputs) or not node.inputs[slot]:
            return []
        value = self.value(node.inputs[slot])
        return [node.inputs[slot]] if value is None else [self.const(value.reshape(-1), value.dtype)]

    def channels_first(self, name: str) -> str:
        value = self.value(name)
        if value is not None:
            return self.const(np.ascontiguousarray(value.transpose(TO_FIRST)), value.dtype)
        made = self.inner("Transpose", [name], perm=TO_FIRST)
        self.steps[-1] = replace(self.steps[-1], node="")
        return made

    def channels_last(self, core: str) -> None:
        """The node's output, from its core's."""
        self.add("Transpose", [core], perm=TO_LAST)
        self.steps[-1] = replace(self.steps[-1], node="")

    def _activation(self, node: Node) -> None:
        word = node.attributes.get("fused_activation")
        if not word:
            return
        self._rename_last(node.outputs[0], before := f"{node.outputs[0]}:linear")
        if word == "Clip":
            low, high = (self.const(node.attributes[f"fused_{end}"], np.float32) for end in ("min", "max"))
            self.add("Clip", [before, low, high])
        elif word in ("Relu", "Tanh"):
            self.add(word, [before])
        else:
            raise CannotEvaluateError(f"the fused activation {word} has no canonical form here")

    def _on_grid(self, output: str, first: int) -> None:
        """Rounding to the output's quantization, where it has one and is computed here."""
        info = self.graph.tensors.get(output)
        if info is None or info.quant is None or info.dtype not in ("int8", "uint8", "int16"):
            return
        if info.quant.scale.size > 1:
            raise CannotEvaluateError(f"{output!r} is quantized per channel")
        if self._moves_only(info.quant) or not any(output in step.outputs for step in self.steps[first:]):
            return
        self._rename_last(output, before := f"{output}:real")
        limits = np.iinfo(info.dtype)
        scale = self.const(info.quant.scale[0], np.float32)
        zero = self.const(info.quant.zero_point[0], np.float32)
        start = len(self.steps)
        shifted = self.inner("Add", [self.inner("Round", [self.inner("Div", [before, scale])]), zero])
        low, high = self.const(limits.min, np.float32), self.const(limits.max, np.float32)
        self.add("Mul", [self.inner("Sub", [self.inner("Clip", [shifted, low, high]), zero]), scale], output)
        self.steps[start:] = [replace(step, node="") for step in self.steps[start:]]

    def _moves_only(self, quant: Quant) -> bool:
        """Values that are on this very grid already: to round them again would only hide a Pad from its Conv."""
        if self._node.op_type not in MOVING:
            return False
        sources = [self.graph.tensors[i].quant for i in self._node.inputs if i and i not in self.stored]
        return all(
            q is not None and np.array_equal(q.scale, quant.scale) and np.array_equal(q.zero_point, quant.zero_point)
            for q in sources
        )

    def _rename_last(self, output: str, name: str) -> None:
        for k in range(len(self.steps) - 1, -1, -1):
            if output in self.steps[k].outputs:
                outputs = tuple(name if o == output else o for o in self.steps[k].outputs)
                self.steps[k] = replace(self.steps[k], outputs=outputs)
                return


def gelu(e: Emitter, x: str, by_tanh: bool, dtype: Any) -> None:
    """x / 2 * (1 + erf(x / sqrt 2)), or the tanh form of Hendrycks and Gimpel (2016)."""

    def number(value: float) -> str:
        return e.const(value, dtype)

    if by_tanh:
        cube = e.inner("Mul", [e.inner("Mul", [x, x]), x])
        inside = e.inner("Add", [x, e.inner("Mul", [cube, number(0.044715)])])
        curve = e.inner("Tanh", [e.inner("Mul", [inside, number(math.sqrt(2 / math.pi))])])
    else:
        curve = e.inner("Erf", [e.inner("Mul", [x, number(math.sqrt(0.5))])])
    e.add("Mul", [e.inner("Mul", [x, number(0.5)]), e.inner("Add", [curve, number(1.0)])])
