"""What the trace files hold besides plain arrays: the words of the formats, and the metadata as JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from aligndbg._arrays import bytes_of, dtype_of, plain_dtype
from aligndbg._types import Array, Graph, Node, Quant, TensorInfo

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
        "opset": graph.opset,
    }


def graph_from_json(data: dict[str, Any]) -> Graph:
    def node(fields: dict[str, Any]) -> Node:
        return Node(**{**fields, "inputs": tuple(fields["inputs"]), "outputs": tuple(fields["outputs"])})

    def tensor(name: str, shape: list[Any] | None, dtype: str, quant: dict[str, Any] | None) -> TensorInfo:
        return TensorInfo(name, None if shape is None else tuple(shape), dtype, Quant(**quant) if quant else None)

    return Graph(
        nodes=tuple(node(fields) for fields in data["nodes"]),
        tensors={fields[0]: tensor(*fields) for fields in data["tensors"]},
        inputs=tuple(data["inputs"]),
        outputs=tuple(data["outputs"]),
        constants=frozenset(data["constants"]),
        untapped=dict(data["untapped"]),
        opset=data.get("opset", 0),  # traces of the first versions have none
    )
