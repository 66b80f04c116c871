"""The canonical form of every operator of the bundled models computes what the runtime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg.canonical.evaluate import CannotEvaluateError, Step, evaluate
from aligndbg.core.types import Graph, Node, TensorInfo, Trace
from aligndbg.explain.constant_roles import role_constants
from aligndbg.explain.folding import plain_form
from aligndbg.explain.to_program import canonical_program

Array = np.ndarray[Any, np.dtype[Any]]
MODELS = ["cnn.onnx", "cnn_opset_b.onnx", "attention.onnx", "cnn.tflite", "cnn_int8.tflite", "cnn_fp16.tflite"]


def captured(path: Path) -> tuple[Trace, dict[str, Array]]:
    model = aligndbg.open_model(path)
    try:
        graph = model.graph()
        feeds = _feeds(graph)
        trace = aligndbg.capture(model, feeds)
        wanted = sorted({i for n in graph.nodes for i in n.inputs if i in graph.constants})
        return trace, dict(model.run({}, wanted))
    finally:
        model.close()


def _feeds(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    feeds = {}
    for name in graph.inputs:
        info = graph.tensors[name]
        value = rng.uniform(-1, 1, info.static_shape or ()).astype(np.float32)
        feeds[name] = info.quant.quantize(value, info.dtype) if info.quant else value
    return feeds


def real(graph: Graph, name: str, stored: Array) -> Array:
    quant = graph.tensors[name].quant if name in graph.tensors else None
    return quant.dequantize(stored) if quant is not None and stored.dtype.kind in "iu" else stored


def inputs_of(trace: Trace, node: Node) -> dict[str, Array]:
    fed = [i for i in dict.fromkeys(node.inputs) if i and i not in trace.graph.constants]
    values = {i: trace.values[i] for i in fed}
    return values if trace.graph.opset else {i: real(trace.graph, i, v) for i, v in values.items()}


@pytest.mark.parametrize("name", [*MODELS, "attention.tflite", "lstm.onnx"])
def test_each_operator_alone(fixtures: Path, name: str) -> None:
    trace, constants = captured(fixtures / name)
    graph = trace.graph
    done = 0
    for node in graph.nodes:
        if node.outputs[0] in graph.constants or node.outputs[0] not in trace.values:
            continue
        feeds = inputs_of(trace, node)
        stored = {i: constants[i] for i in node.inputs if i in constants}

        def shape(tensor: str, stored: dict[str, Array] = stored) -> tuple[int, ...]:
            return tuple((stored.get(tensor) if tensor in stored else trace.values[tensor]).shape)  # type: ignore[union-attr]

        program = canonical_program(trace.info.backend, graph, [node], list(feeds), node.outputs[0], stored, shape)
        for form in (program, plain_form(program, feeds)):
            made = real(graph, node.outputs[0], form.run(feeds)[0])
            value = real(graph, node.outputs[0], trace.values[node.outputs[0]])
            quant = graph.tensors[node.outputs[0]].quant
            limit = 1.01 * float(quant.scale[0]) if quant is not None else 2e-5 * max(1.0, float(np.abs(value).max()))
            assert made.shape == value.shape, node
            assert float(np.abs(made - value).max()) <= limit, node
        form = plain_form(program, feeds)
        for slot in role_constants(form):
            same = slot.put(slot.value).run(feeds)[0]
            assert np.allclose(same, form.run(feeds)[0], rtol=1e-4, atol=1e-5), (node, slot.role)
        done += 1
    assert done >= 5


def test_what_cannot_be_run_says_why() -> None:
    x = np.ones((2, 2), np.float32)
    with pytest.raises(CannotEvaluateError, match="Nonsense"):
        evaluate([Step("Nonsense", ("x",), ("y",))], {"x": x}, {}, ["y"], 17)
    with pytest.raises(CannotEvaluateError):
        evaluate([Step("MatMul", ("x", "w"), ("y",))], {"x": x, "w": np.ones((3, 2), np.float32)}, {}, ["y"], 17)


def test_an_operator_means_what_its_own_backend_says() -> None:
    """Two runtimes have one word for two things; a recorded trace is of the backend that it was recorded from."""
    graph = Graph(tensors={n: TensorInfo(n, (2,), "float32") for n in "xy"}, inputs=("x",), outputs=("y",))
    node = Node("LOGISTIC", "n", ("x",), ("y",))
    made = canonical_program("tflite", graph, [node], ["x"], "y", {}, lambda _: (2,))
    assert [step.op for step in made.steps] == ["Sigmoid"]
    for backend in ("torch", "memory", "nowhere"):
        with pytest.raises(CannotEvaluateError, match="LOGISTIC has no canonical form"):
            canonical_program(backend, graph, [node], ["x"], "y", {}, lambda _: (2,))
