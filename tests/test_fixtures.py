"""The bundled models: small, reproducible from their scripts, and alike or different exactly where meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import make_demo
import make_onnx
from networks import CNN_INPUT, DEMO_INPUT, SEQUENCE_INPUT, sample

Array = np.ndarray[Any, np.dtype[Any]]

TFLITE = (
    "attention.tflite",
    "cnn.tflite",
    "cnn_dynamic.tflite",
    "cnn_fp16.tflite",
    "cnn_int8.tflite",
    "cnn_weight_fault.tflite",
    "lstm.tflite",
)
SEEDS = (0, 1, 2)


def run_onnx(path: Path, x: Array) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def run_tflite(path: Path, x: Array) -> Array:
    """The float output for a float input; both are (de)quantized where the model is int8."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    if entry["dtype"] is np.int8:
        scale, zero_point = entry["quantization"]
        x = np.clip(np.round(x / scale) + zero_point, -128, 127).astype(np.int8)
    interpreter.set_tensor(entry["index"], x)
    interpreter.invoke()
    y = interpreter.get_tensor(result["index"])
    if result["dtype"] is np.int8:
        scale, zero_point = result["quantization"]
        y = (y.astype(np.float32) - zero_point) * scale
    return np.asarray(y)


def worst(reference: Path, candidate: Path, shape: tuple[int, ...]) -> float:
    """Largest output difference over the seeds; images go to TFLite channels last."""
    differences = []
    for seed in SEEDS:
        x = sample(shape, seed)
        moved = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim == 4 else x
        y = run_tflite(candidate, moved) if candidate.suffix == ".tflite" else run_onnx(candidate, x)
        differences.append(float(np.abs(run_onnx(reference, x) - y).max()))
    return max(differences)


def test_all_files_together_are_small(fixtures: Path, demo: Path) -> None:
    made = {*make_onnx.models(), *TFLITE}
    assert made == {path.name for path in fixtures.iterdir() if path.suffix in (".onnx", ".tflite")}
    pair = [demo / "reference.onnx", demo / "candidate.tflite"]
    assert sum(path.stat().st_size for path in pair) < 200_000
    assert sum(path.stat().st_size for path in [*pair, *(fixtures / name for name in made)]) < 5_000_000


@pytest.mark.parametrize("name", make_onnx.models())
def test_scripts_rebuild_the_onnx_files(fixtures: Path, name: str) -> None:
    assert make_onnx.models()[name] == onnx.load(fixtures / name)


def test_script_rebuilds_the_demo_reference(demo: Path) -> None:
    assert make_demo.reference() == onnx.load(demo / "reference.onnx")


@pytest.mark.parametrize(
    ("reference", "candidate", "shape"),
    [
        ("cnn.onnx", "cnn.tflite", CNN_INPUT),
        ("cnn.onnx", "cnn_opset_b.onnx", CNN_INPUT),
        ("attention.onnx", "attention.tflite", SEQUENCE_INPUT),
        ("lstm.onnx", "lstm.tflite", SEQUENCE_INPUT),
    ],
)
def test_ports_of_one_network_agree(fixtures: Path, reference: str, candidate: str, shape: tuple[int, ...]) -> None:
    assert worst(fixtures / reference, fixtures / candidate, shape) < 1e-5


@pytest.mark.parametrize(
    ("candidate", "low", "high"), [("cnn_fp16", 1e-5, 5e-3), ("cnn_dynamic", 1e-4, 0.05), ("cnn_int8", 1e-3, 0.1)]
)
def test_quantized_ports_are_near_but_not_equal(fixtures: Path, candidate: str, low: float, high: float) -> None:
    assert low < worst(fixtures / "cnn.onnx", fixtures / f"{candidate}.tflite", CNN_INPUT) < high


def test_planted_faults_reach_the_outputs(fixtures: Path, demo: Path) -> None:
    assert worst(fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite", CNN_INPUT) > 1e-2
    assert worst(demo / "reference.onnx", demo / "candidate.tflite", DEMO_INPUT) > 0.1


def test_the_two_onnx_exports_share_no_name(fixtures: Path) -> None:
    folded, separate = (onnx.load(fixtures / name).graph for name in ("cnn.onnx", "cnn_opset_b.onnx"))
    names = [{value for node in graph.node for value in node.output} for graph in (folded, separate)]
    assert not names[0] & names[1]
    assert not {"BatchNormalization", "Pad"} & {node.op_type for node in folded.node}
    assert {"BatchNormalization", "Pad"} <= {node.op_type for node in separate.node}
