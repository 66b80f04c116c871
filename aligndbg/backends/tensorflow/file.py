"""From a path or a live object to a frozen graph."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from aligndbg.backends.tensorflow import keras_models
from aligndbg.backends.tensorflow.frozen import Frozen, first_line, of_function, of_graph_def
from aligndbg.core.errors import AligndbgError, ModelError, UsageError, nearest

__all__ = ["load"]

DEFAULT = "serving_default"
FILES = ("saved_model.pb", "saved_model.pbtxt")


def load(target: Any, signature: str, outputs: str, trust: bool) -> Frozen:
    """What a user gave, frozen. Raises what `TensorflowBackend` says."""
    _quiet()
    keras = not isinstance(target, str) or target.lower().endswith(keras_models.SUFFIXES)
    frozen_file = isinstance(target, str) and not keras and not _is_saved_model(target)
    for name, given, fits in (("signature", signature, not frozen_file), ("outputs", outputs, frozen_file)):
        if given and not fits:
            kind = "a frozen graph" if frozen_file else "a model that has its own outputs"
            raise UsageError(f"{name}= is not for {kind}", context=str(target), hint="leave it out")
    if not isinstance(target, str):
        return _of_object(target, signature, type(target).__name__)
    if keras:
        return keras_models.of_model(keras_models.load(target, trust), target)
    return _of_graph_file(target, outputs) if frozen_file else _of_saved_model(target, signature)


def _quiet() -> None:
    """Before TensorFlow is loaded: no log on the terminal, no search for GPUs, Keras on TensorFlow."""
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"


def _is_saved_model(path: str) -> bool:
    return os.path.isdir(path) or os.path.basename(path) in FILES


def _of_saved_model(path: str, signature: str) -> Frozen:
    import tensorflow as tf

    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    try:
        loaded = tf.saved_model.load(folder)
    except Exception as error:  # whatever TensorFlow raises for what it cannot read
        raise ModelError(f"TensorFlow cannot read it: {first_line(error)}", context=path) from error
    function = loaded.signatures.get(signature or DEFAULT)
    if function is not None:
        return of_function(function, path)
    return _of_object(loaded, signature, path, loaded.signatures)


def _of_graph_file(path: str, outputs: str) -> Frozen:
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef()
    try:
        with open(path, "rb") as file:
            graph_def.ParseFromString(file.read())
        with tf.Graph().as_default():
            tf.import_graph_def(graph_def, name="")
    except Exception as error:  # protobuf's and TensorFlow's have no common class
        hint = "a frozen GraphDef, or the folder of a SavedModel, is wanted"
        raise ModelError(f"no graph that TensorFlow can read: {first_line(error)}", context=path, hint=hint) from error
    return of_graph_def(graph_def, path, outputs)


def _of_object(live: Any, signature: str, path: str, signatures: Mapping[str, Any] | None = None) -> Frozen:
    """A concrete function, a tf.function, a Keras model, or a module with functions."""
    if keras_models.is_model(live) and not signature:
        return keras_models.of_model(live, path)
    if hasattr(live, "structured_input_signature"):
        return of_function(live, path)
    if hasattr(live, "get_concrete_function"):
        return of_function(_concrete(live, path), path)
    functions = {**_functions(live), **(signatures or {})}
    if not functions:
        hint = "give it a tf.function with an input_signature, or save it with signatures="
        raise UsageError("it has no function that says what it takes", context=path, hint=hint)
    name = signature or ("__call__" if "__call__" in functions else "")
    if not name and len(functions) == 1:
        (name,) = functions
    if name not in functions:
        fact = f"it has no signature {name!r}" if name else f"it has {len(functions)} signatures and no {DEFAULT}"
        hint = nearest(name, functions) if name else f"say ?signature=NAME, one of {', '.join(functions)}"
        raise UsageError(fact, context=path, hint=hint)
    return of_function(_concrete(functions[name], path), path)


def _functions(live: Any) -> dict[str, Any]:
    """The tf.functions of a module or of what a SavedModel holds, by name."""
    found = {}
    for name in ("__call__", *_names(live)):
        value = getattr(live, name, None)
        if hasattr(value, "get_concrete_function") or hasattr(value, "concrete_functions"):
            found[name] = value
    return found


def _names(live: Any) -> Iterable[str]:
    return (name for name in dir(live) if not name.startswith("_"))


def _concrete(function: Any, path: str) -> Any:
    """The one concrete function of a tf.function."""
    if hasattr(function, "structured_input_signature"):
        return function
    known = getattr(function, "concrete_functions", None) or function._list_all_concrete_functions()
    if len(known) == 1:
        return known[0]
    try:
        return function.get_concrete_function()
    except AligndbgError:
        raise
    except Exception as error:  # TensorFlow's words for arguments that are missing
        fact = "the shapes that the function takes are not said" if not known else f"it was traced {len(known)} times"
        hint = "give it an input_signature, or pass what its get_concrete_function(...) returns"
        raise UsageError(fact, context=path, hint=hint) from error
