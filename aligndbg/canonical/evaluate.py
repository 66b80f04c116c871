"""Runs a few canonical (ONNX) operators alone, as a small model on ONNX Runtime, on the values they are given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aligndbg.canonical.schemas import schema
from aligndbg.core.arrays import in_order
from aligndbg.core.types import Array

__all__ = ["CannotEvaluateError", "Step", "as_model", "evaluate"]

STORED_BYTES = 1 << 16  # of a constant: more than any shape has, less than copying is felt
IR_VERSION = 8  # old enough for every runtime that knows the opsets below


class CannotEvaluateError(Exception):
    """ONNX Runtime does not take these operators, or not these values; the text is its reason."""


@dataclass(frozen=True)
class Step:
    """One ONNX operator on named values; "" is an absent input.

    `node` names the model's operator that it stands for, "" where it is only a helper.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    node: str = ""


def evaluate(
    steps: Sequence[Step],
    feeds: Mapping[str, Array],
    constants: Mapping[str, Array],
    fetch: Sequence[str],
    opset: int,
) -> list[Array]:
    """The tensors named by `fetch`, computed by `steps` from `feeds` and `constants` in the steps' order.

    Small constants are stored in the model, since shapes are inferred from them; weights are fed, so that none is
    copied. Attributes that are texts in place of graphs (If, Loop) and operators that ONNX Runtime lacks raise
    CannotEvaluateError.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it writes into the home folder
    import onnxruntime

    read = {i for step in steps for i in step.inputs if i}
    stored = {n: v for n, v in constants.items() if n in read and n not in feeds and v.nbytes <= STORED_BYTES}
    given = {n: in_order(v) for n, v in {**constants, **feeds}.items() if n in read and n not in stored}
    try:
        model = as_model(steps, given, stored, fetch, opset)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return [np.asarray(value) for value in session.run(list(fetch), given)]
    except Exception as error:  # ORT's and onnx's exceptions have no common class
        if isinstance(error, MemoryError):
            raise
        raise CannotEvaluateError(str(error).strip().split("\n")[0][:300]) from error


def as_model(
    steps: Sequence[Step], feeds: Mapping[str, Array], constants: Mapping[str, Array], fetch: Sequence[str], opset: int
) -> bytes:
    """The steps as an ONNX file: inputs typed like `feeds`, initializers `constants`, outputs `fetch`."""
    import onnx

    graph = onnx.helper.make_graph(
        [_node(step, opset) for step in steps],
        "part",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in feeds.items()
        ],
        [],
        [onnx.numpy_helper.from_array(in_order(value), name) for name, value in constants.items()],
    )
    for name in fetch:
        graph.output.add().name = name
    domains = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=domains, ir_version=IR_VERSION)
    content: bytes = model.SerializeToString()
    return content


def _node(step: Step, opset: int) -> Any:
    import onnx

    known = schema(step.op, opset)
    domain = known.domain if known is not None else "com.microsoft"
    attributes = {k: v for k, v in step.attributes.items() if not (isinstance(v, list | tuple) and not len(v))}
    tensors = {k: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in attributes.items()}
    return onnx.helper.make_node(step.op, list(step.inputs), list(step.outputs), domain=domain, **tensors)
