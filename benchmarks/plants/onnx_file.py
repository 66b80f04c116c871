"""An ONNX file that faults are planted into; the unchanged and the changed operator run in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from plants import Array, NotHere, Plantable, Site

__all__ = ["OnnxFile", "edits"]

Edit = Callable[["OnnxFile", onnx.NodeProto, np.random.Generator, float, Array], str]
EDITS: dict[str, dict[str, Edit]] = {}  # operator -> kind -> what does it


def edits(kind: str, *ops: str) -> Callable[[Edit], Edit]:
    """Registers what plants a fault of one kind into these operators."""

    def register(edit: Edit) -> Edit:
        for op in ops:
            EDITS.setdefault(op, {})[kind] = edit
        return edit

    return register


class OnnxFile:
    """One ONNX model without external data."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.graph = proto.graph
        self.opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))

    @classmethod
    def open(cls, path: Path) -> OnnxFile:
        return cls(onnx.load(str(path)))

    def save(self, path: Path) -> None:
        onnx.save(self.proto, str(path))

    def sites(self) -> list[Site]:
        found = []
        data = set(self.inputs())  # and what is computed from it: not shapes, nor scales made of them
        for node in self.graph.node:
            if node.op_type in ("Shape", "Size") or data.isdisjoint(node.input):
                continue
            data.update(node.output)
            kinds = EDITS.get(node.op_type, {}) if node.domain in ("", "ai.onnx") else {}
            found += [Site(kind, node.op_type, node.output[0]) for kind in kinds]
        return found

    def inputs(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        stored = {i.name for i in self.graph.initializer}
        out = {}
        for item in self.graph.input:
            if item.name not in stored:
                kind = item.type.tensor_type
                shape = tuple(d.dim_value or 1 for d in kind.shape.dim)
                out[item.name] = (shape, np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)))
        return out

    def taken(self, name: str, value: Array) -> Array:
        return value.astype(self.inputs()[name][1])

    def values(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(self.proto)
        names = [o for node in self.graph.node if node.op_type != "Constant" for o in node.output if o]
        known = {o.name for o in self.graph.output}
        for name in names:
            if name not in known:
                tapped.graph.output.add().name = name
        found = _run(tapped, names, feeds)
        return {**feeds, **{n: v for n, v in found.items() if isinstance(v, np.ndarray)}}

    def evaluate(self, tensor: str, values: Mapping[str, Array]) -> Array:
        producers = self.producers()
        needed: set[int] = set()
        feeds: dict[str, Array] = {}
        todo = [tensor]
        while todo:
            name = todo.pop()
            index = producers.get(name)
            if name in values and name != tensor:
                feeds[name] = values[name]
            elif index is not None and index not in needed:
                needed.add(index)
                todo += [i for i in self.graph.node[index].input if i]
        reads = {i for k in needed for i in self.graph.node[k].input}
        part = helper.make_graph(
            [self.graph.node[k] for k in sorted(needed)],
            "part",
            [_typed(name, value) for name, value in feeds.items()],
            [],
            [i for i in self.graph.initializer if i.name in reads],
        )
        part.output.add().name = tensor
        model = helper.make_model(part, opset_imports=self.proto.opset_import, ir_version=self.proto.ir_version)
        model.functions.extend(self.proto.functions)
        return cast(Array, _run(model, [tensor], feeds)[tensor])

    def planted(self, site: Site, rng: np.random.Generator, amount: float, value: Array) -> tuple[Plantable, str]:
        copy = onnx.ModelProto()
        copy.CopyFrom(self.proto)
        changed = OnnxFile(copy)
        node = changed.graph.node[changed.producers()[site.tensor]]
        return changed, EDITS[node.op_type][site.kind](changed, node, rng, amount, value)

    def reach(self, tensor: str) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {tensor: []}
        for node in self.graph.node:
            for i in {i for i in node.input if i in out}:
                out[i] += [o for o in node.output if o]
                for o in node.output:
                    out.setdefault(o, [])
        return out

    def op_name(self, tensor: str) -> str:
        index = self.producers().get(tensor)
        if index is None:
            raise NotHere(f"nothing writes {tensor}")
        return str(self.graph.node[index].name)

    def producers(self) -> dict[str, int]:
        return {o: k for k, node in enumerate(self.graph.node) for o in node.output if o}

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if name in node.input]

    def constant(self, node: onnx.NodeProto, slot: int) -> Array:
        """The stored value a node reads at `slot`. Raises NotHere where it is computed or absent."""
        if slot >= len(node.input) or not node.input[slot]:
            raise NotHere("no such input")
        name = node.input[slot]
        for item in self.graph.initializer:
            if item.name == name:
                return np.array(numpy_helper.to_array(item))
        for other in self.graph.node:
            if other.op_type == "Constant" and other.output[0] == name and other.attribute[0].name == "value":
                return np.array(numpy_helper.to_array(other.attribute[0].t))
        raise NotHere("not stored")

    def set_constant(self, node: onnx.NodeProto, slot: int, value: Array) -> None:
        """Give this node, and no other, another constant."""
        name = node.input[slot] if slot < len(node.input) else ""
        stored = [i for i in self.graph.initializer if i.name == name]
        if stored and len(self.readers(name)) == 1 and list(node.input).count(name) == 1:
            stored[0].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))
            return
        fresh = self.fresh(name or "constant")
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), fresh))
        node.input.extend([""] * (slot + 1 - len(node.input)))
        node.input[slot] = fresh

    def fresh(self, stem: str) -> str:
        """A name that no tensor and no node has."""
        taken = {n for node in self.graph.node for n in (node.name, *node.input, *node.output)}
        taken |= {i.name for i in self.graph.initializer} | {i.name for i in self.graph.input}
        return next(name for k in range(1, 1 << 30) if (name := f"{stem}_{k}") not in taken)


def _run(model: onnx.ModelProto, names: list[str], feeds: Mapping[str, Array]) -> dict[str, Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # ORT's exceptions have no common class: Fail, InvalidArgument, NotImplemented, ...
        if type(error).__module__.startswith("onnxruntime"):
            raise NotHere(f"ONNX Runtime refuses the change: {error}") from error
        raise


def _typed(name: str, value: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
