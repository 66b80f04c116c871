"""Backends as strings: name -> class, file suffixes, the extra that brings the runtime. Nothing is imported here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

__all__ = ["REGISTRY", "Entry", "load"]


@dataclass(frozen=True)
class Entry:
    """`target` is "module:Class"; `worker` says whether it runs in a child process; `needs` are import names.

    `probe` is the "module:function" that tells the doctor more than whether the packages import, `to_onnx` the
    "module:FORMS" of what its operators are in ONNX (`canonical.emitter.Forms`), where its graphs have no `opset`.
    `cut` is the "module:function" that gives a part of a model as a file of its own kind, from the path, node names,
    inputs and output; without it a part is written in its canonical form.
    `objects` are the full names of the classes whose live objects the backend takes in place of a path.
    """

    name: str
    target: str
    suffixes: tuple[str, ...] = ()
    extra: str = ""
    needs: tuple[str, ...] = ()
    worker: bool = True
    summary: str = ""
    probe: str = ""
    to_onnx: str = ""
    cut: str = ""
    objects: tuple[str, ...] = ()


REGISTRY: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "onnx",
            "aligndbg.backends.onnx.backend:OnnxBackend",
            (".onnx",),
            needs=("onnx", "onnxruntime"),
            summary="ONNX models on ONNX Runtime",
        ),
        Entry(
            "tflite",
            "aligndbg.backends.tflite.backend:TfliteBackend",
            (".tflite", ".lite"),
            needs=("ai_edge_litert",),
            summary="TFLite models on LiteRT",
            to_onnx="aligndbg.backends.tflite.to_onnx:FORMS",
            cut="aligndbg.backends.tflite.edit:part_of_file",
        ),
        Entry(
            "trt",
            "aligndbg.backends.tensorrt.backend:TensorrtBackend",
            (".engine", ".plan"),
            extra="tensorrt-rtx",
            needs=("onnx",),
            summary="TensorRT engines; trt:model.onnx builds one",
            probe="aligndbg.backends.tensorrt.doctor:probe",
        ),
        Entry(
            "torch",
            "aligndbg.backends.torch.backend:TorchBackend",
            (".pt2", ".pt", ".pth"),
            extra="torch",
            needs=("torch",),
            summary="PyTorch modules, torch.export and TorchScript",
            to_onnx="aligndbg.backends.torch.to_onnx:FORMS",
            objects=("torch.nn.modules.module.Module", "torch.export.exported_program.ExportedProgram"),
        ),
        Entry(
            "recorded",
            "aligndbg.backends.recorded:RecordedBackend",
            (".npz", ".safetensors"),
            needs=("safetensors",),
            worker=False,
            summary="traces: .npz or .safetensors",
        ),
        Entry(
            "memory",
            "aligndbg.backends.memory:MemoryBackend",
            worker=False,
            summary="Python functions, in process",
        ),
    )
}


def load(target: str) -> Any:
    """ "module:name" -> what is called so there."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
