"""Backends as strings: name -> class, files, the extra that brings the runtime. None is imported before it is needed.

A package outside brings one by an entry point of the group `aligndbg.backends`, by the backend's name, which loads an
`Entry`. Those are looked for only where ours have no answer: built-in names and suffixes win.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aligndbg.core.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["REGISTRY", "Entry", "entry_of", "load", "outside"]


GROUP = "aligndbg.backends"


@dataclass(frozen=True)
class Entry:
    """`target` is "module:Class"; `worker` says whether it runs in a child process; `needs` are import names.

    `probe` is the "module:function" that tells the doctor more than whether the packages import, `to_onnx` the
    "module:FORMS" of what its operators are in ONNX (`canonical.emitter.Forms`), where its graphs have no `opset`.
    `cut` is the "module:function" that gives a part of a model as a file of its own kind, from the path, node names,
    inputs and output; without it a part is written in its canonical form.
    `folders` are the names of files, one of which makes a folder a model. `companions` maps the suffix of a file to
    that of another, which lies beside it, or where the option of that name (`.bin`: `bin`) says; whichever of the two a
    user gives, the backend is given the first as its target and the other as that option.
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
    folders: tuple[str, ...] = ()
    companions: Mapping[str, str] = field(default_factory=dict, hash=False)
    objects: tuple[str, ...] = ()
    package: str = "aligndbg"  # that brings it


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
            "tensorflow",
            "aligndbg.backends.tensorflow.backend:TensorflowBackend",
            (".keras", ".h5", ".hdf5", ".pb"),
            extra="tensorflow",
            needs=("tensorflow",),
            summary="TensorFlow SavedModels, frozen graphs and Keras",
            to_onnx="aligndbg.backends.tensorflow.to_onnx:FORMS",
            folders=("saved_model.pb", "saved_model.pbtxt"),
            objects=(
                "keras.src.models.model.Model",
                "tf_keras.src.engine.training.Model",
                "tensorflow.python.module.module.Module",
                "tensorflow.python.eager.polymorphic_function.polymorphic_function.Function",
                "tensorflow.python.eager.polymorphic_function.concrete_function.ConcreteFunction",
                "tensorflow.python.trackable.autotrackable.AutoTrackable",  # what tf.saved_model.load gives
            ),
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


def entry_of(name: str) -> Entry | None:
    """The entry of a backend's name. Raises UsageError where the package outside that has it cannot give it."""
    if name in REGISTRY:
        return REGISTRY[name]
    point = _points(tuple(sys.path)).get(name)
    return None if point is None else _loaded(point)


def outside() -> tuple[dict[str, Entry], dict[str, str]]:
    """What other packages bring, by name: the entries, and why there is none."""
    entries, failures = dict[str, Entry](), dict[str, str]()
    for name, point in _points(tuple(sys.path)).items():
        if name not in REGISTRY:
            try:
                entries[name] = _loaded(point)
            except UsageError as error:
                failures[name] = error.fact
    return entries, failures


@lru_cache
def _points(path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """The entry points that a `sys.path` holds."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def _loaded(point: EntryPoint) -> Entry:
    package = point.dist.name if point.dist else point.module
    try:
        entry = point.load()
        if not isinstance(entry, Entry) or entry.name != point.name:
            raise TypeError(f"{point.value} is no Entry of that name")
    except Exception as error:  # anything that importing a stranger's module may raise
        fact = f"the {point.name} backend of the package {package} cannot be loaded: {type(error).__name__}: {error}"
        raise UsageError(fact, hint=f"update {package}, or uninstall it") from error
    return replace(entry, package=package)


def load(target: str) -> Any:
    """ "module:name" -> what is called so there."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
