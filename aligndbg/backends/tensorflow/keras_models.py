"""Keras: which of its two lines wrote a file, and a model as a concrete function."""

from __future__ import annotations

import importlib.util
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from aligndbg.backends.tensorflow.frozen import Frozen, first_line, of_function
from aligndbg.core.errors import MissingDependencyError, ModelError, UnsupportedError, UsageError

__all__ = ["SUFFIXES", "is_model", "load", "of_model"]

SUFFIXES = (".keras", ".h5", ".hdf5")
_OWN_CLASS = re.compile(r"(?:Could not locate class|Unknown (?:layer|object)):? '(\w+)'")
TRUST = "only if you trust the file: --trust, or ?trust=yes, lets it run the code in it"
LIVE = "load it in Python, where that code is, and pass the model: aligndbg.diff(model, ...)"


def load(path: str, trust: bool) -> Any:
    """The model of a file, by the Keras that wrote it.

    Raises ModelError for a file that is damaged or holds weights alone, MissingDependencyError where tf_keras is
    needed, UsageError for code that only its writer has, or that is not trusted.
    """
    major = _major(path)
    legacy = major == 2 and importlib.util.find_spec("tf_keras") is not None
    if major == 2 and not legacy and path.lower().endswith(".keras"):
        fact = "the file was written by Keras 2, and tf_keras is not installed here"
        raise MissingDependencyError(fact, context=path, hint="pip install tf_keras")
    try:
        if legacy:
            import tf_keras

            return tf_keras.models.load_model(path, compile=False, safe_mode=not trust)
        import keras

        return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:  # whatever Keras raises for what it cannot build
        raise _refusal(error, path, trust) from error


def _refusal(error: Exception, path: str, trust: bool) -> Exception:
    said = str(error)
    if not trust and ("safe_mode" in said or "unsafe" in said.lower()):
        return UsageError("it holds Python code (a Lambda layer)", context=path, hint=TRUST)
    own = _OWN_CLASS.search(said)
    if own:
        return UsageError(f"it is made of a class that only its writer has, {own[1]}", context=path, hint=LIVE)
    return ModelError(f"Keras cannot read it: {first_line(error)}", context=path)


def _major(path: str) -> int:
    """The first number of the version that wrote a file; 0 where it does not say."""
    version = _version_in_zip(path) if zipfile.is_zipfile(path) else _version_in_h5(path)
    first = version.split(".")[0]
    return int(first) if first.isdecimal() else 0


def _version_in_zip(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json")).get("keras_version", ""))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"no Keras file: {first_line(error)}", context=path) from error


def _version_in_h5(path: str) -> str:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config = "model_config" in file.attrs
            version = file.attrs.get("keras_version", "")
    except OSError as error:
        raise ModelError(f"no Keras file: {first_line(error)}", context=path) from error
    if not config:
        hint = "save the whole model, or build it in Python, load the weights and pass it"
        raise ModelError("it holds weights, not a model", context=path, hint=hint)
    return version.decode() if isinstance(version, bytes) else str(version)


def is_model(live: Any) -> bool:
    """Whether a live object is a Keras model of either line."""
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(live).__mro__}
    return bool(names & {"keras.src.models.model.Model", "tf_keras.src.engine.training.Model"})


def of_model(model: Any, path: str) -> Frozen:
    """A Keras model in inference, frozen: dynamic sizes stay dynamic, layers are known by name.

    Raises UnsupportedError for a model that runs on another backend of Keras, UsageError for one whose inputs are
    not known (a subclass of Model).
    """
    import tensorflow as tf

    if type(model).__module__.startswith("keras.") or not _is_legacy(model):
        import keras

        if keras.config.backend() != "tensorflow":
            fact = f"Keras runs on {keras.config.backend()} here"
            raise UnsupportedError(fact, context=path, hint="set KERAS_BACKEND=tensorflow before Keras is imported")
    try:
        inputs, taken = model.inputs, model.input
    except (AttributeError, ValueError):
        inputs = None
    if not inputs:
        hint = "wrap it: tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec(...)])"
        raise UsageError("a Keras model that does not say what it takes", context=path, hint=hint)

    names = [_name(tensor, k) for k, tensor in enumerate(inputs)]
    specs = [tf.TensorSpec(t.shape, t.dtype, name=n) for t, n in zip(inputs, names, strict=True)]

    def call(*given: Any) -> Any:
        return model(tf.nest.pack_sequence_as(taken, given), training=False)

    traced = tf.function(call, input_signature=specs, autograph=False, jit_compile=False)
    try:
        function = traced.get_concrete_function()
    except Exception as error:  # whatever a layer raises when it is traced
        raise ModelError(f"Keras cannot trace it: {first_line(error)}", context=path) from error
    layers = {layer.name: type(layer).__name__ for layer in _layers(model)}
    return of_function(function, path, tuple(getattr(model, "output_names", None) or ()), layers)


def _is_legacy(model: Any) -> bool:
    return any(cls.__module__.startswith("tf_keras.") for cls in type(model).__mro__)


def _name(tensor: Any, place: int) -> str:
    """Of an input; what TensorFlow takes for a placeholder's name."""
    return str(getattr(tensor, "name", "") or f"input_{place}").split(":")[0].split("/")[-1]


def _layers(model: Any) -> Iterator[Any]:
    """Every layer, those of models inside too."""
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from _layers(layer)
