"""Small ONNX models for the TensorRT tests, and how they open them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aligndbg.backends.open import open_model
from aligndbg.core.types import Backend

Feeds = dict[str, np.ndarray[Any, Any]]


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], stored: dict[str, Any] | None = None, **kw: Any
) -> Path:
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in (stored or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path, **kw)
    return path


def chain(path: Path, rows: Any = 2, **kw: Any) -> Path:
    """MatMul with a weight too large to stay in the proto, ReLU, Sigmoid."""
    weight = np.random.default_rng(0).standard_normal((100, 100)).astype(np.float32) / 10
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("Sigmoid", ["r"], ["y"], name="sig"),
    ]
    return save(path, nodes, [value("x", [rows, 100])], [value("y", [rows, 100])], {"w": weight}, **kw)


def loop(path: Path) -> Path:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v", "step"], ["v2"], name="inner"),
            helper.make_node("Identity", ["c"], ["c2"]),
            helper.make_node("Identity", ["v2"], ["scan"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("v", [1, 4])],
        [value("c2", [], TensorProto.BOOL), value("v2", [1, 4]), value("scan", [1, 4])],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Loop", ["n", "on", "r"], ["last", "all"], name="loop", body=body),
        helper.make_node("Sigmoid", ["last"], ["y"], name="sig"),
    ]
    stored = {"n": np.array(3), "on": np.array(True), "step": np.full((1, 4), 0.5, np.float32)}
    return save(path, nodes, [value("x", [1, 4])], [value("y", [1, 4]), value("all", [3, 1, 4])], stored)


def dynamic(path: Path) -> Path:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["b"]),
        helper.make_node("Concat", ["b", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["r", "to"], ["y"]),
    ]
    stored = {"zero": np.array([0]), "rest": np.array([-1])}
    return save(path, nodes, [value("x", ["N", 2, "W"])], [value("y", ["N", "k"])], stored)


def quantized(path: Path) -> Path:
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quant"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["dq", "wd"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    stored = {
        "s": np.float32(0.02),
        "z": np.int8(0),
        "w": rng.integers(-127, 127, (4, 3, 3, 3)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
    }
    return save(path, nodes, [value("x", [1, 3, 8, 8])], [value("y", [1, 4, 6, 6])], stored)


def halves(path: Path) -> Path:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["m"], name="mm"),
        helper.make_node("Cast", ["m"], ["b"], to=TensorProto.BFLOAT16),
        helper.make_node("Relu", ["b"], ["rb"]),
        helper.make_node("Cast", ["rb"], ["y"], to=TensorProto.FLOAT),
    ]
    weight = np.random.default_rng(2).standard_normal((8, 4)).astype(np.float16)
    return save(path, nodes, [value("x", [2, 8])], [value("y", [2, 4])], {"w": weight})


def opened(path: Path, **options: Any) -> Backend:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return open_model(f"trt:{path}?{query}" if query else f"trt:{path}", in_process=True)


def rows(count: int = 2, width: int = 100) -> Feeds:
    return {"x": np.random.default_rng(3).standard_normal((count, width)).astype(np.float32)}
