"""Finished engines: plan files, what their inspector tells, and the graph that follows from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aligndbg.backends.tensorrt.build import onnx_names, sizes_of
from aligndbg.backends.tensorrt.library import dtype_name, unreadable
from aligndbg.core.errors import ModelError
from aligndbg.core.types import Graph, Node, TensorInfo

__all__ = ["Plan", "deserialize", "engine_graph", "engine_layers", "fused_layers", "read_plan", "with_engine_layers"]


MAGIC = {b"ftrt": "tensorrt", b"vtrt": "rtx"}
HEADER = 28
INNER = "(inner tensors)"  # stands for those that nobody can name
INSIDE = "inside a finished engine: build it from ONNX instead (trt:model.onnx) to see its inner tensors"


@dataclass(frozen=True)
class Plan:
    """The bytes of an engine, and the library and version that built it."""

    data: bytes
    kind: str
    version: tuple[int, ...]

    @property
    def text(self) -> str:
        return f"{'TensorRT-RTX' if self.kind == 'rtx' else 'TensorRT'} {'.'.join(map(str, self.version))}"


def read_plan(path: str) -> Plan:
    """Raises ModelError for a file that is missing, or does not hold an engine.

    An engine begins with `ftrt` or `vtrt` and has its version in bytes 24 to 27. Ultralytics writes an int32 length
    and as much JSON before it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(error.strerror or str(error), context=path) from error
    start = 4 + int.from_bytes(data[:4], "little", signed=True)
    if data[:4] not in MAGIC and 4 < start < len(data) and data[4:5] == b"{":
        data = data[start:]
    if data[:4] not in MAGIC or len(data) < HEADER:
        raise ModelError(
            f"not a TensorRT engine ({len(data)} bytes)",
            context=path,
            hint="an engine begins with ftrt or vtrt; is it truncated, or another tool's .engine?",
        )
    return Plan(data, MAGIC[data[:4]], tuple(data[24:28]))


def deserialize(trt: Any, log: Any, data: Any, version: str, built_with: str) -> Any:
    """ICudaEngine. Raises ModelError with TensorRT's words."""
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise ModelError(
            f"{version} cannot load the engine, built with {built_with}: {log.take()}",
            hint="an engine runs on the version and the kind of GPU that it was built for",
        )
    return engine, runtime


def engine_layers(trt: Any, engine: Any) -> list[dict[str, Any]]:
    """The inspector's layers in execution order. Empty where the engine was not built with detailed profiling."""
    inspector = engine.create_engine_inspector()
    try:
        told = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    except ValueError:  # no information, or names with raw quotes in them
        return []
    entries = told.get("Layers", []) if isinstance(told, dict) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def fused_layers(entries: list[dict[str, Any]]) -> dict[str, str]:
    """ONNX node -> the engine layers that it became, joined by "; "."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        for node in onnx_names(str(entry.get("Metadata", ""))):
            found.setdefault(node, []).append(str(entry.get("Name", "")))
    return {node: "; ".join(names) for node, names in found.items()}


def engine_graph(trt: Any, engine: Any, *, unfused: bool = False) -> Graph:
    """The engine's layers, where its inspector tells them; else one node from its inputs to its outputs.

    Inner tensors are `untapped` unless they were marked for debugging when the engine was built, or (`unfused`) may be
    emitted under their internal names.
    """
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    dtypes = {name: engine.get_tensor_dtype(name) for name in names}
    tensors = {n: TensorInfo(n, sizes_of(engine.get_tensor_shape(n)), dtype_name(dtypes[n])) for n in names}
    nodes = _nodes(engine_layers(trt, engine), inputs)
    produced = {name for node in nodes for name in node.outputs}
    if not set(outputs) <= produced:
        nodes, produced = [Node("Engine", "engine", tuple(inputs), (*outputs, INNER))], {*outputs, INNER}
    inner = produced - set(outputs)
    hidden = {name for name in inner if name == INNER or not (unfused or engine.is_debug_tensor(name))}
    tensors |= {name: TensorInfo(name) for name in inner}
    return Graph(
        nodes=tuple(nodes),
        tensors=tensors,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        untapped=dict.fromkeys(sorted(hidden), INSIDE) | unreadable(dtypes),
    )


def _nodes(entries: list[dict[str, Any]], inputs: list[str]) -> list[Node]:
    """One node a layer. A tensor that is written twice (reused in place) keeps its first writer."""
    known, nodes, taken = set(inputs), [], set[str]()
    for i, entry in enumerate(entries):
        reads = [str(item.get("Name", "")) for item in entry.get("Inputs", ())]
        writes = [str(item.get("Name", "")) for item in entry.get("Outputs", ())]
        kept = tuple(name for name in reads if name in known)
        fresh = tuple(dict.fromkeys(name for name in writes if name and name not in known))
        known.update(fresh)
        name = str(entry.get("Name") or f"layer{i}")
        name = name if name not in taken else f"{name}#{i}"
        taken.add(name)
        attributes = {"onnx_nodes": onnx_names(str(entry.get("Metadata", "")))}
        nodes.append(Node(str(entry.get("LayerType") or "Layer"), name, kept, fresh, attributes))
    return nodes


def with_engine_layers(graph: Graph, fused: Mapping[str, str]) -> Graph:
    """Each ONNX node with the layers of the unmarked engine that it became, as the attribute `engine_layer`."""
    nodes = tuple(
        replace(node, attributes={**node.attributes, "engine_layer": fused[node.name]}) if node.name in fused else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)
