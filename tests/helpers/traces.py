"""What the tests of traces share: arrays of every dtype, hard names, and a trace with all that one can hold."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aligndbg.core.types import Graph, ModelInfo, Node, Quant, TensorInfo, Trace

Array = np.ndarray[Any, np.dtype[Any]]
SUFFIXES = pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
DTYPES = [
    *(np.dtype(name) for name in ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16")),
    *(
        np.dtype(getattr(ml_dtypes, name))
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "int4", "uint4", "float4_e2m1fn")
    ),
]
NAMES = [
    "plain",
    "a/b:0",
    "../../etc/passwd",
    "/absolute",
    "naïve 名前",
    "x.npy",
    "x",
    "feed:x",
    "aligndbg:0",
    "back\\slash",
    "__aligndbg__",
    "__metadata__",
    "nul\0byte",
    "surrogate\udc80",
    "",
    "net/relu;net/conv",
    "a" * 3000,
    "é" * 40_000,
]


def sample(dtype: np.dtype[Any], shape: tuple[int, ...] = (3, 5)) -> Array:
    return (np.arange(np.prod(shape)) % 2).reshape(shape).astype(dtype)


def same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def full_trace() -> Trace:
    """Everything that a trace can hold."""
    values: dict[str, Array] = {str(dtype): sample(dtype) for dtype in DTYPES}
    values |= {name: np.full((2, i + 1), i, np.float32) for i, name in enumerate(NAMES)}
    values |= {"scalar": np.array(2.5), "empty": np.empty((0, 3), np.int8), "nan": np.array([np.nan, -0.0, np.inf])}
    values |= {"fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "bytes": sample(np.dtype("u1"), (3,))}
    attributes = {
        "pads": [0, 1],
        "value": np.arange(3, dtype=np.float16),
        "brain": np.ones(2, ml_dtypes.bfloat16),
        "raw": b"\0\xff",
        "nan": float("nan"),
        "scalar": np.float32(0.5),
        "words": ["a", "b"],
    }
    quant = Quant(np.array([0.5, 0.25], np.float32), np.array([1, -2]), 0)
    graph = Graph(
        nodes=(
            Node("CONV_2D", "conv", ("x", "w", ""), ("plain",), attributes, "net.conv", "Conv"),
            Node("Relu", "relu", ("plain",), ("a/b:0", "")),
        ),
        tensors={
            "x": TensorInfo("x", ("batch", None, 3), "float32"),
            "plain": TensorInfo("plain", (2, 1), "int8", quant),
            "w": TensorInfo("w"),
        },
        inputs=("x",),
        outputs=("a/b:0",),
        constants=frozenset({"w"}),
        untapped={"inner": "inside a Loop body"},
        inner={"inner": "loop"},
        opset=17,
        notes=("it is in training mode",),
    )
    info = ModelInfo("models/é.onnx", "onnx", "1.2", {"threads": "1"})
    feeds = {"x": values["x"].copy(), "other": np.arange(4, dtype=np.int16), "nul\0": np.zeros(1)}
    return Trace(info, graph, values, feeds, tuple(values), {"inner": "inside a Loop body"})


def npz_with(member: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, data)
    return buffer.getvalue()


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()
