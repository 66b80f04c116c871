"""ONNX Runtime itself: sessions, values in and out, and its errors in words."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aligndbg.backends.onnx.file import OnnxModel, is_packed
from aligndbg.core.arrays import in_order
from aligndbg.core.errors import ModelError, UnsupportedError, UsageError
from aligndbg.core.types import Array

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = [
    "CPU",
    "LEVELS",
    "Session",
    "from_ort",
    "make_session",
    "ort_type",
    "resolve_provider",
    "run_session",
    "runtime",
    "session_of",
    "to_ort",
]


CPU = "CPUExecutionProvider"

LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
SILENT = 4  # what ORT logs, it also raises
ORT_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "float4e2m1": "float4_e2m1fn",
}


class Session(NamedTuple):
    """An ORT session, and the arrays whose memory it reads."""

    ort: onnxruntime.InferenceSession
    arrays: Mapping[str, Array]


def runtime() -> Any:
    """The onnxruntime module, imported with its telemetry off and its log silent."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.set_default_logger_severity(SILENT)
    return onnxruntime


def resolve_provider(word: str) -> str:
    """`cuda` or `CUDAExecutionProvider` -> the full name. Raises UsageError where it is not available."""
    available = runtime().get_available_providers()
    short = {name.removesuffix("ExecutionProvider").lower(): name for name in available}
    found = short.get(word.lower().removesuffix("executionprovider"))
    if found is None:
        raise UsageError(
            f"execution provider {word!r} is not available here", hint=f"available: {', '.join(sorted(short))}"
        )
    return str(found)


def make_session(
    source: str | bytes,
    *,
    name: str,
    provider: str,
    threads: int,
    level: str = "disable",
    weights: Mapping[str, Any] | None = None,
    data_folder: str = "",
    save_to: str = "",
    prepack: bool = True,
) -> onnxruntime.InferenceSession:
    """A session of a file or of a serialized model whose placeholders are filled from `weights` (OrtValues).

    `name` is what errors call the model; `data_folder` is where a serialized model's external data are; `save_to`
    receives the optimized model, with its weights in a file beside it. Without `prepack` weights stay where they are:
    for a session that is only asked, since it would compute other last bits.
    Raises ModelError with ORT's own reason.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # an arena keeps what a run took, until the session goes
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if weights:
        options.add_external_initializers(list(weights), list(weights.values()))
    if data_folder:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", data_folder)
    if save_to:
        options.optimized_model_filepath = save_to
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{os.path.basename(save_to)}.data"
        )
    providers = list(dict.fromkeys((provider, CPU)))
    try:
        session = ort.InferenceSession(source, options, providers=providers)
    except Exception as error:
        raise _load_error(error, name) from error
    session.disable_fallback()
    if session.get_providers()[0] != provider:  # ORT goes on with the CPU, and only logs it
        raise ModelError(
            f"{provider} is installed but did not start",
            context=name,
            hint="check its libraries and driver, or use provider=cpu",
        )
    return session


def session_of(
    model: OnnxModel,
    proto: onnx.ModelProto,
    name: str,
    held: Mapping[str, Array],
    provider: str,
    threads: int,
    *,
    prepack: bool = True,
) -> Session:
    """A session of an edit of the model's proto, its placeholders filled with what the file holds and with `held`.

    Raises as `make_session` does.
    """
    weights = {**model.weights, **held}
    there = [item.name for item in proto.graph.initializer if item.name in weights]
    # Aligned, as kernels may want it: what is not is copied, and goes with the session.
    arrays = {key: np.require(weights[key], requirements=("C", "A") if prepack else ("C",)) for key in there}
    try:
        source = proto.SerializeToString()
    except Exception as error:  # protobuf's limit of 2 GB; its class differs between implementations
        raise ModelError(
            f"too large without its initializers: {error}",
            context=name,
            hint="save large Constant nodes as initializers",
        ) from error
    made = make_session(
        source,
        name=name,
        provider=provider,
        threads=threads,
        weights={key: to_ort(array, key) for key, array in arrays.items()},
        data_folder=model.data_folder,
        prepack=prepack,
    )
    model.forget()
    return Session(made, arrays)


def run_session(
    session: onnxruntime.InferenceSession, names: list[str], feeds: Mapping[str, Any], path: str
) -> list[Any]:
    """One inference on arrays or OrtValues. Returns OrtValues (or arrays, where a feed is an array of strings).

    Raises ModelError naming the node.
    """
    # OrtValues of strings cannot be made from Python, and `run` cannot return bfloat16: rarely both
    arrays = {name: value for name, value in feeds.items() if isinstance(value, np.ndarray)}
    strings = any(array.dtype.kind in "OUS" for array in arrays.values())
    given = feeds if strings else {**feeds, **{name: to_ort(array, name) for name, array in arrays.items()}}
    try:
        return list((session.run if strings else session.run_with_ort_values)(names, dict(given)))
    except Exception as error:
        raise _run_error(error, path) from error


def to_ort(array: Array, name: str) -> Any:
    """An OrtValue over the memory of the array for `name`, which must outlive it.

    Raises UnsupportedError for types of less than a byte: numpy holds them one a byte, ORT packed.
    """
    import onnx

    element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    if is_packed(element):
        raise UnsupportedError(f"{array.dtype} values cannot be fed to ONNX Runtime", context=name)
    return runtime().OrtValue.ortvalue_from_numpy_with_onnx_type(in_order(array), element)


def from_ort(value: Any, name: str) -> Array:
    """An OrtValue that the caller drops, as an array of its own dtype, ml_dtypes' ones included.

    What lies in the CPU's memory is not copied: the array keeps the value alive.
    """
    import onnx

    if isinstance(value, np.ndarray):
        return value
    if not value.has_value() or not value.is_tensor():
        raise UnsupportedError(f"{name!r} is not a tensor but {value.data_type()}")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.element_type())
    if dtype.isbuiltin == 1:
        array: Array = value.numpy()
        return array
    if value.device_name() != "cpu":
        raise UnsupportedError(f"{name!r} is {dtype} on {value.device_name()}, which ONNX Runtime cannot copy back")
    size = value.tensor_size_in_bytes()
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    tensor = onnx.TensorProto(data_type=value.element_type(), dims=value.shape(), raw_data=raw)
    return np.array(onnx.numpy_helper.to_array(tensor))


def ort_type(text: str) -> str:
    """`tensor(float)` -> "float32", `seq(tensor(float))` -> "sequence"."""
    kind, _, inner = text.partition("(")
    if kind == "tensor":
        element = inner.rstrip(")")
        return ORT_DTYPES.get(element, element)
    return {"seq": "sequence", "sparse_tensor": "sparse"}.get(kind, kind)


def _reason(error: Exception) -> str:
    """ORT's message in one line, without its source paths and C++ signatures."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S*onnxruntime/\S+?:\d+ \S.*?\) (?=[A-Z\w])", "", text, count=1)
    return text if len(text) <= 600 else text[:597] + "..."


def _load_error(error: Exception, name: str) -> ModelError:
    reason = _reason(error)
    hint = "check the model with onnx.checker.check_model(path, full_check=True)"
    if "No Op registered" in reason or "is not a registered function/op" in reason:
        hint = "ONNX Runtime lacks this operator: a custom op, or an opset that this version does not implement"
    elif "opset" in reason.lower() or "ir_version" in reason.lower() or "IR version" in reason:
        hint = "upgrade onnxruntime, or export to an older opset"
    return ModelError(f"ONNX Runtime refuses the model: {reason}", context=name, hint=hint)


def _run_error(error: Exception, path: str) -> ModelError:
    reason = _reason(error)
    found = re.search(r"running (\S+) node\. Name:'([^']*)' Status Message: (.*)", reason)
    if found:
        op, node, message = found.groups()
        reason = f"node {node!r} ({op}): {message}" if node else f"a {op} node: {message}"
    return ModelError(f"ONNX Runtime failed at {reason}" if found else f"ONNX Runtime failed: {reason}", context=path)
