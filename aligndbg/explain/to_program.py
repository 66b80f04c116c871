"""A region as an ONNX program: ONNX's own nodes as they are, others by the forms that their backend registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from aligndbg.backends.registry import entry_of, load
from aligndbg.canonical.emitter import Emitter, Forms
from aligndbg.canonical.evaluate import CannotEvaluateError, Step
from aligndbg.canonical.program import Program
from aligndbg.core.errors import UsageError
from aligndbg.core.types import Array, Graph, Node

__all__ = ["canonical_program"]


FORM_OPSET = 17  # of the steps that are written here


def canonical_program(
    backend: str,
    graph: Graph,
    nodes: Sequence[Node],
    inputs: Sequence[str],
    output: str,
    constants: Mapping[str, Array],
    shape: Callable[[str], tuple[int, ...]],
) -> Program:
    """The program of a region of `backend`'s graph. `constants` are stored values by name, `shape` gives any's shape.

    ONNX nodes keep their opset, dtypes and stored integers. The others run on real values, with each quantized result
    put on its grid. Raises CannotEvaluateError for an operator that has no canonical form.
    """
    if graph.opset:
        steps = tuple(Step(n.op_type, n.inputs, n.outputs, n.attributes, n.name) for n in nodes)
        return Program(steps, dict(constants), tuple(inputs), output, graph.opset)
    emitter, forms = Emitter(graph, constants, shape), _forms(backend)
    for node in nodes:
        if node.op_type not in forms:
            raise CannotEvaluateError(f"{node.op_type} has no canonical form here")
        emitter.node(node, forms[node.op_type])
    return Program(tuple(emitter.steps), emitter.constants, tuple(inputs), output, FORM_OPSET)


def _forms(backend: str) -> Forms:
    try:
        entry = entry_of(backend)
    except UsageError as error:  # of a trace whose backend is broken here
        raise CannotEvaluateError(error.fact) from error
    forms: Forms = load(entry.to_onnx) if entry is not None and entry.to_onnx else {}
    return forms
