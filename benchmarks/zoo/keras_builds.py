"""A network of Keras as TensorFlow has it, in TFLite files of five kinds and in tf2onnx's ONNX file. Needs tensorflow
and tf2onnx."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import aligndbg
from zoo.files import RECORD, file_of
from zoo.keras_nets import inputs, make
from zoo.record import attempt, distance

__all__ = ["build"]

CALIBRATION = 8  # inputs that ranges are taken from
_SHRUNK = {"optimizations": [tf.lite.Optimize.DEFAULT]}
_INT8 = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
_INT16 = [tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]


def build(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Writes the files of one net; what RECORD then says."""
    model = make(name)
    (taken,) = model.inputs
    x = inputs(model, 1, 99)
    found = model(x, training=False)
    outputs = [np.array(value) for value in (found if isinstance(found, list | tuple) else [found])]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "in.npz", **{taken.name: x})
    signature = [tf.TensorSpec((1, *taken.shape[1:]), taken.dtype, name=taken.name)]
    function = tf.function(lambda value: model(value, training=False), input_signature=signature)
    record = {
        key: attempt(path, partial(write, path), partial(_off, path, x, outputs))
        for key, write in _builders(model, function, signature).items()
        for path in [file_of(folder, key)]
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1))
    return record


def _builders(model: Any, function: Any, signature: Any) -> Mapping[str, Callable[[Path], None]]:
    # With variables left in it, the TFLite files come out with READ_VARIABLE, and give NaN.
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())

    def samples() -> Iterator[list[Any]]:
        for seed in range(200, 200 + CALIBRATION):
            yield [inputs(model, 1, seed)]

    grid = {**_SHRUNK, "representative_dataset": samples}
    half = {**_SHRUNK, "target_spec": {"supported_types": [tf.float16]}}
    return {
        "saved": partial(_saved, model),
        "native": model.save,
        "frozen": lambda path: path.write_bytes(frozen.graph.as_graph_def().SerializeToString()),
        "keras": partial(_onnx, function, signature),
        "lite": partial(_lite, frozen, {}),
        "lite_fp16": partial(_lite, frozen, half),
        "lite_dynamic": partial(_lite, frozen, _SHRUNK),
        "lite_int8": partial(_lite, frozen, {**grid, "target_spec": {"supported_ops": _INT8}}),
        "lite_int16": partial(_lite, frozen, {**grid, "target_spec": {"supported_ops": _INT16}}),
    }


def _saved(model: Any, path: Path) -> None:
    model.export(str(path), verbose=False)


def _lite(frozen: Any, settings: Mapping[str, Any], path: Path) -> None:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    for key, value in settings.items():
        for inner, given in value.items() if key == "target_spec" else ():
            setattr(converter.target_spec, inner, given)
        if key != "target_spec":
            setattr(converter, key, value)
    path.write_bytes(converter.convert())


def _onnx(function: Any, signature: Any, path: Path) -> None:
    import tf2onnx

    tf2onnx.convert.from_function(function, input_signature=signature, opset=17, output_path=str(path))


def _off(path: Path, x: Any, outputs: list[Any]) -> list[float]:
    if path.suffix not in (".onnx", ".tflite"):  # TensorFlow's own: opened by aligndbg, in a process of its own
        model = aligndbg.open_model(path)
        with contextlib.closing(model):
            graph = model.graph()
            values = dict(model.run({graph.inputs[0]: x}, graph.outputs))
        found = [values[name] for name in graph.outputs]
    elif path.suffix == ".onnx":
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: x})
    else:
        runner = tf.lite.Interpreter(str(path))
        runner.allocate_tensors()
        runner.set_tensor(runner.get_input_details()[0]["index"], x)
        runner.invoke()
        found = [runner.get_tensor(item["index"]) for item in runner.get_output_details()]
    # Converters may order the outputs anew: each is compared with the nearest of its shape.
    return [min(distance(a, b) for a in found if a.shape == b.shape) for b in outputs]
