"""Any runtime's nodes as ONNX steps: ONNX's own as they are, TFLite's spelled out in ONNX's words and layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from aligndbg._evaluate import CannotEvaluateError, Step
from aligndbg._types import Array, Graph, Node
from aligndbg.explain._program import Program
from aligndbg.explain._tflite_forms import FORMS, Emitter

__all__ = ["FORM_OPSET", "canonical_program"]

FORM_OPSET = 17  # of the steps that are written here


def canonical_program(
    graph: Graph,
    nodes: Sequence[Node],
    inputs: Sequence[str],
    output: str,
    constants: Mapping[str, Array],
    shape: Callable[[str], tuple[int, ...]],
) -> Program:
    """The program of a region. `constants` are stored values by name, `shape` gives any tensor's shape.

    ONNX nodes keep their opset, dtypes and stored integers. TFLite's run on real values, with each quantized result
    put on its grid. Raises CannotEvaluateError for an operator that has no canonical form.
    """
    if graph.opset:
        steps = tuple(Step(n.op_type, n.inputs, n.outputs, n.attributes, n.name) for n in nodes)
        return Program(steps, dict(constants), tuple(inputs), output, graph.opset)
    emitter = Emitter(graph, constants, shape)
    for node in nodes:
        if node.op_type not in FORMS:
            raise CannotEvaluateError(f"{node.op_type} has no canonical form here")
        emitter.node(node)
    return Program(tuple(emitter.steps), emitter.constants, tuple(inputs), output, FORM_OPSET)
