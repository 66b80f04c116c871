"""What the trace files hold besides plain arrays: the words of the formats, and the metadata as JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from aligndbg.core.arrays import bytes_of, dtype_of, plain_dtype
from aligndbg.core.types import Array, Graph, Node, Quant, TensorInfo

__all__ = [
    "KINDS",
    "METADATA_KEY",
    "METADATA_MEMBER",
    "SCHEMA",
    "WORDS",
    "as_integers",
    "from_integers",
    "from_json",
    "graph_from_json",
    "graph_to_json",
    "text_map",
    "texts",
    "to_json",
]

SCHEMA = "aligndbg.trace/1"
METADATA_KEY = "aligndbg"
METADATA_MEMBER = "__aligndbg__"
KINDS = "a trace is a .safetensors or .npz file"

# numpy or ml_dtypes name -> safetensors word. Any other dtype is stored as integers, with its name in the metadata.
WORDS = {
    "bool": "BOOL",
    **{f"{kind}int{bits}": f"{kind.upper() or 'I'}{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}


def as_integers(array: Array) -> Array:
    """The same bits in a dtype that every reader knows: an unsigned integer of that size, else bytes on a last axis."""
    size = array.dtype.itemsize
    flat = bytes_of(array)
    return flat.view(f"u{size}").reshape(array.shape) if size in (1, 2, 4, 8) else flat.reshape(*array.shape, size)


def from_integers(stored: Array, name: str) -> Array:
    dtype = dtype_of(name)
    shape = stored.shape if stored.dtype.itemsize == dtype.itemsize else stored.shape[:-1]
    return bytes_of(stored).view(dtype).reshape(shape)


def to_json(value: Any) -> Any:
    """What JSON lacks, among a node's attributes. Anything else than these is kept as its text."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and plain_dtype(value.dtype):
        data = base64.b64encode(bytes_of(value).tobytes()).decode()
        return {"$array": data, "dtype": str(value.dtype), "shape": value.shape}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def from_json(value: dict[str, Any]) -> Any:
    if "$array" in value:
        data = bytearray(base64.b64decode(value["$array"]))
        return np.frombuffer(data, np.uint8).view(dtype_of(value["dtype"])).reshape(value["shape"])
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    return value


def graph_to_json(graph: Graph) -> dict[str, Any]:
    def quant(q: Quant | None) -> Any:
        return q and {"scale": q.scale, "zero_point": q.zero_point, "axis": q.axis}

    return {
        "nodes": [{**vars(node), "attributes": dict(node.attributes)} for node in graph.nodes],
        "tensors": [[t.name, t.shape, t.dtype, quant(t.quant)] for t in graph.tensors.values()],
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "constants": sorted(graph.constants),
        "untapped": dict(graph.untapped),
        "inner": dict(graph.inner),
        "opset": graph.opset,
        "notes": graph.notes,
    }


def graph_from_json(data: Any) -> Graph:
    """Raises TypeError, ValueError or LookupError for anything that `graph_to_json` did not write."""
    return Graph(
        nodes=tuple(_node(**fields) for fields in data["nodes"]),
        tensors={fields[0]: _tensor(*fields) for fields in data["tensors"]},
        inputs=texts(data["inputs"]),
        outputs=texts(data["outputs"]),
        constants=frozenset(texts(data["constants"])),
        untapped=text_map(data["untapped"]),
        inner=text_map(data.get("inner", {})),  # traces of the first versions have none of these
        opset=_size(data.get("opset", 0)),
        notes=texts(data.get("notes", [])),
    )


def _node(attributes: Any, inputs: Any, outputs: Any, **words: Any) -> Node:
    if not isinstance(attributes, dict):
        raise TypeError(f"attributes {attributes!r}")
    return Node(**text_map(words), attributes=attributes, inputs=texts(inputs), outputs=texts(outputs))


def _tensor(name: Any, shape: Any, dtype: Any, quant: Any) -> TensorInfo:
    if shape is not None and not all(size is None or isinstance(size, str) or _is_size(size) for size in shape):
        raise TypeError(f"shape {shape!r}")
    sizes = None if shape is None else tuple(shape)
    return TensorInfo(text(name), sizes, text(dtype), _quant(**quant) if quant else None)


def _quant(scale: Any, zero_point: Any, axis: Any) -> Quant:
    arrays = [isinstance(array, np.ndarray) and array.ndim == 1 for array in (scale, zero_point)]
    if not all(arrays) or not 0 < scale.size == zero_point.size or scale.dtype.kind != "f":
        raise TypeError("a quantization without scales and zero points")
    if zero_point.dtype.kind not in "iu" or not (axis is None or _is_size(axis)):
        raise TypeError("a quantization with odd zero points")
    return Quant(scale, zero_point, axis)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _size(value: Any) -> int:
    if not _is_size(value):
        raise TypeError(f"{value!r} is no whole number")
    return int(value)


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is no list")
    return tuple(text(value) for value in values)


def text_map(values: Any) -> dict[str, str]:
    if not isinstance(values, dict):
        raise TypeError(f"{values!r} is no table")
    return {key: text(value) for key, value in values.items()}
