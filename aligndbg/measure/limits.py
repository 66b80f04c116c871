"""Which limits hold for a pair, and why: dtype, weights on a grid, explicit quantization."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from aligndbg.core.types import Array, Node, Trace

__all__ = ["Precision", "quantized_weights", "rounds_between", "stored_tensor"]


RECORDED_SAMPLE = 4096  # elements of a dump that tell what it was computed in


class Precision:
    """The dtype whose rounding the values of one side bear."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        weights = {trace.graph.tensors[n].dtype for n in trace.graph.constants if n in trace.graph.tensors}
        self.computed = next((d for d in ("bfloat16", "float16") if d in weights), "float32")
        if not trace.graph.nodes:  # a dump of another tool, whose small tensors show nothing by themselves
            votes = Counter(_recorded_precision(trace.values[n]) for n in trace.values)
            del votes[""]
            self.computed = votes.most_common(1)[0][0] if votes else "float32"

    def of(self, name: str) -> str:
        """Its own dtype; for float32, that of weights stored in fewer bits, or what a dump was computed in."""
        stored = str(self.trace.values[name].dtype)
        return self.computed if stored == "float32" else stored


def _recorded_precision(value: Array) -> str:
    """What a float32 tensor was computed in: other tools dump fp16, bf16 and dequantized int8 so; "" if unclear."""
    sample = np.ascontiguousarray(value.reshape(-1)[:RECORDED_SAMPLE])
    if str(value.dtype) != "float32" or np.count_nonzero(sample) < 300:
        return ""
    bits = sample.view(np.uint32)
    if not (bits & 0xFFFF).any():
        return "bfloat16"
    if not (bits & 0x1FFF).any():
        return "float16"
    return "int8" if len(np.unique(sample)) <= 256 else "float32"


def quantized_weights(trace: Trace) -> bool:
    """Weights on a grid that an operator reads as they are, as in dynamic-range models whose activations stay float."""
    graph = trace.graph
    grids = {n for n in graph.constants if n in graph.tensors and graph.tensors[n].quant is not None}
    return any(n in grids for node in graph.nodes if node.canonical != "DequantizeLinear" for n in node.inputs)


def rounds_between(trace: Trace, producers: Mapping[str, Node]) -> bool:
    """Float tensors that are put on a grid and back between operators (Q/DQ)."""
    return any(stored_tensor(trace, producers, name) for name in producers)


def stored_tensor(trace: Trace, producers: Mapping[str, Node], name: str) -> str:
    """The tensor on a grid that a DequantizeLinear makes `name` of, "" where there is none."""
    node = producers.get(name)
    if node is None or node.canonical != "DequantizeLinear" or node.inputs[0] not in trace.values:
        return ""
    quant = trace.quant(node.inputs[0])
    return node.inputs[0] if quant is not None and quant.scale.size == 1 else ""
