"""Any runtime's nodes as ONNX steps: ONNX's own as they are, TFLite's and torch's in ONNX's words and layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from aligndbg.backends.tflite import to_onnx as _tflite_forms
from aligndbg.backends.torch import to_onnx as _torch_forms
from aligndbg.canonical.emitter import Emitter
from aligndbg.canonical.evaluate import CannotEvaluateError, Step
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array, Graph, Node

__all__ = ["canonical_program"]


FORM_OPSET = 17  # of the steps that are written here
FORMS = _tflite_forms.FORMS | _torch_forms.FORMS  # TFLite writes its words in capitals, torch does not
OVERLAID = ("Slice", "ScatterND")  # not what overwrites, but a tensor that shares its memory


def canonical_program(
    graph: Graph,
    nodes: Sequence[Node],
    inputs: Sequence[str],
    output: str,
    constants: Mapping[str, Array],
    shape: Callable[[str], tuple[int, ...]],
) -> Program:
    """The program of a region. `constants` are stored values by name, `shape` gives any tensor's shape.

    ONNX nodes keep their opset, dtypes and stored integers. The others run on real values, with each quantized result
    put on its grid. Raises CannotEvaluateError for an operator that has no canonical form.
    """
    if graph.opset:
        steps = tuple(Step(n.op_type, n.inputs, n.outputs, n.attributes, n.name) for n in nodes)
        return Program(steps, dict(constants), tuple(inputs), output, graph.opset)
    emitter = Emitter(graph, constants, shape)
    for node in nodes:
        # Torch's mark of an operator that overwrites its input; `__and__` is no such.
        word = node.op_type if node.op_type.endswith("__") else node.op_type.removesuffix("_")
        if word not in FORMS or (word != node.op_type and node.canonical in OVERLAID):
            raise CannotEvaluateError(f"{node.op_type} has no canonical form here")
        emitter.node(replace(node, op_type=word), FORMS[word])
    return Program(tuple(emitter.steps), emitter.constants, tuple(inputs), output, FORM_OPSET)
