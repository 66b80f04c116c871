"""ONNX proto -> Graph: nodes, types, quantization, constants, and what cannot be tapped."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aligndbg.backends.onnx.file import OnnxModel
from aligndbg.backends.onnx.protos import attribute_graphs, outer_names
from aligndbg.core.types import Array, Graph, Node, Quant, TensorInfo

if TYPE_CHECKING:
    import onnx

__all__ = ["NOT_TENSORS", "build_graph"]


Types = dict[str, TensorInfo]
TEXT = "a tensor of strings"  # fetched where it is an output of the model
NOT_TENSORS = {"string", "sequence", "optional", "map", "sparse", "opaque"}
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
BLOCKED = "in ONNX Runtime's blocked NCHWc layout, which graph_optimization=extended does without"
NCHWC = "com.microsoft.nchwc"
SCOPES, STACK = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.stack_trace"
# op -> positions of (tensor, scale, zero point, default axis) among its inputs
QUANTIZED_INPUTS = {
    "DequantizeLinear": [(0, 1, 2, 1)],
    "QLinearConv": [(0, 1, 2, 1), (3, 4, 5, 0)],
    "QLinearMatMul": [(0, 1, 2, -1), (3, 4, 5, -1)],
    "QLinearAdd": [(0, 1, 2, 1), (3, 4, 5, 1)],
    "QLinearMul": [(0, 1, 2, 1), (3, 4, 5, 1)],
}
# op -> positions of its output's (scale, zero point) among its inputs
QUANTIZED_OUTPUTS = {
    "QuantizeLinear": (1, 2),
    "QLinearConv": (6, 7),
    "QLinearMatMul": (6, 7),
    "QLinearAdd": (6, 7),
    "QLinearMul": (6, 7),
    "QLinearSigmoid": (3, 4),
    "QLinearLeakyRelu": (3, 4),
    "QLinearGlobalAveragePool": (3, 4),
    "QLinearAveragePool": (3, 4),
}


def build_graph(model: OnnxModel, ask_runtime: Callable[[list[str]], Types]) -> Graph:
    """The main graph. `ask_runtime` gives the types of node outputs that ONNX's own inference leaves open.

    A node's `inputs` are the file's, followed by what its bodies read from outside. Constant's attributes are left
    out: its value is a constant of the graph.
    """
    graph = model.proto.graph
    nodes = tuple(_node(node) for node in graph.node)
    stored = set(model.stored())
    sparse = {item.values.name for item in graph.sparse_initializer}
    constants = _constants(nodes, graph.node, stored | sparse)
    types, inferred = _types(model)
    untapped = dict.fromkeys(sparse, "a sparse initializer") | dict.fromkeys(_blocked(graph.node), BLOCKED)
    untapped |= _string_constants(graph)
    outputs = [name for node in nodes for name in node.outputs if name]
    unknown = [name for name in outputs if name not in types and name not in constants and name not in untapped]
    if unknown:
        skipped = constants | untapped.keys()
        asked = ask_runtime([name for name in outputs if name not in skipped and not _reason(types.get(name))])
        types |= {name: _ranked(info, types.get(name)) for name, info in asked.items()}
    untapped = {name: why for name in (*outputs, *stored) if (why := _reason(types.get(name)))} | untapped
    words = {item.name for item in graph.output if item.name not in stored}
    untapped = {name: why for name, why in untapped.items() if why != TEXT or name not in words}
    inner = {name: node for name, node in _inner(graph.node) if name not in types and name not in outputs}
    types |= {name: info for name, info in _types_inside(inferred.node).items() if name in inner}
    untapped = {name: f"inside the body of {node.op_type} {node.name!r}" for name, node in inner.items()} | untapped
    return Graph(
        nodes=nodes,
        tensors=_with_quant(model, types, outputs),
        inputs=tuple(item.name for item in graph.input if item.name not in stored),
        outputs=tuple(item.name for item in graph.output),
        constants=frozenset(constants - set(untapped)) | sparse,
        untapped=untapped,
        inner={name: node.name for name, node in inner.items()},
        opset=next((o.version for o in model.proto.opset_import if o.domain in ("", "ai.onnx")), 0),
    )


def _node(node: onnx.NodeProto) -> Node:
    constant = node.op_type == "Constant" and not node.domain
    return Node(
        op_type=node.op_type,
        name=node.name,
        inputs=(*node.input, *(name for name in outer_names(node) if name not in node.input)),
        outputs=tuple(node.output),
        attributes={} if constant else {item.name: _attribute(item) for item in node.attribute},
        scope=_scope(node),
    )


def _attribute(item: onnx.AttributeProto) -> Any:
    import onnx

    kind = onnx.AttributeProto
    if item.ref_attr_name:
        return f"attribute {item.ref_attr_name!r} of the enclosing function"
    if item.type == kind.TENSOR:
        return np.array(onnx.numpy_helper.to_array(item.t))
    if item.type == kind.TENSORS:
        return [np.array(onnx.numpy_helper.to_array(tensor)) for tensor in item.tensors]
    if item.type == kind.STRING:
        return item.s.decode(errors="replace")
    if item.type == kind.STRINGS:
        return [text.decode(errors="replace") for text in item.strings]
    if item.type in (kind.FLOAT, kind.INT):
        return onnx.helper.get_attribute_value(item)
    if item.type in (kind.FLOATS, kind.INTS):
        return list(onnx.helper.get_attribute_value(item))
    if item.type == kind.GRAPH:
        return f"graph of {len(item.g.node)} nodes"
    return kind.AttributeType.Name(item.type).lower()


def _scope(node: onnx.NodeProto) -> str:
    """The module path that torch's exporter leaves, with the source line: `layer1.0 (net.py:12)`.

    The path is a list literal, outermost first, the op's own name last; the line comes from a traceback.
    """
    kept = {item.key: item.value for item in node.metadata_props if item.key in (SCOPES, STACK)}
    module = _module(kept.get(SCOPES, ""))
    frames = re.findall(r'File "([^"]+)", line (\d+)', kept.get(STACK, ""))
    own = [frame for frame in frames if "/torch/nn/" not in frame[0]]
    line = f"{own[-1][0].rpartition('/')[2]}:{own[-1][1]}" if own else ""
    return f"{module} ({line})" if module and line else module or line


def _module(text: str) -> str:
    try:
        scopes = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return ""
    if not isinstance(scopes, list) or not scopes:
        return ""
    module = scopes[-2] if len(scopes) > 1 else ""
    return str(module or scopes[-1])


def _constants(nodes: tuple[Node, ...], protos: Any, stored: set[str]) -> set[str]:
    """Stored constants and what is computed from them alone by operators known to be pure."""
    found = set(stored)
    for node, proto in zip(nodes, protos, strict=True):
        pure = proto.domain in ("", "ai.onnx", "com.microsoft") and node.op_type not in RANDOM
        if not pure or any(True for _ in attribute_graphs(proto)) or not any(node.inputs):
            continue
        if all(name in found for name in node.inputs if name):
            found.update(name for name in node.outputs if name)
    return found


def _types(model: OnnxModel) -> tuple[Types, onnx.GraphProto]:
    """What ONNX's own inference knows, and the graph that it left.

    The file's value_info is left out: often stale after edits of a batch size.
    """
    import onnx

    graph = model.proto.graph
    types: Types = {}
    for tensor in graph.initializer:
        types[tensor.name] = TensorInfo(tensor.name, tuple(tensor.dims), _element(tensor.data_type))
    bare = onnx.ModelProto()
    bare.CopyFrom(model.proto)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except Exception:  # what it cannot infer, the runtime is asked next
        inferred = bare.graph
    for item in (*graph.input, *inferred.value_info, *inferred.output):
        info = _info(item)
        if item.name not in types and info.dtype:
            types[item.name] = info
    return types, inferred


def _types_inside(protos: Any) -> Types:
    """Likewise of the values inside bodies."""
    found: Types = {}
    for node in protos:
        for body in attribute_graphs(node):
            found |= {item.name: _info(item) for item in (*body.value_info, *body.output)}
            found |= _types_inside(body.node)
    return found


def _ranked(info: TensorInfo, known: TensorInfo | None) -> TensorInfo:
    """What the runtime says; of a tensor whose rank it does not know, with the shape that is known otherwise."""
    return replace(info, shape=known.shape) if info.shape is None and known is not None else info


def _element(data_type: int) -> str:
    import onnx

    if data_type == onnx.TensorProto.STRING:
        return "string"
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(data_type).name) if data_type else ""
    except KeyError:  # damaged, or newer than the onnx package: the runtime will say
        return ""


def _info(item: onnx.ValueInfoProto) -> TensorInfo:
    kind = item.type.WhichOneof("value")
    if kind != "tensor_type":
        return TensorInfo(item.name, None, (kind or "").removesuffix("_type").removesuffix("_tensor"))
    tensor = item.type.tensor_type
    shape: tuple[int | str | None, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
    return TensorInfo(item.name, shape, _element(tensor.elem_type))


def _reason(info: TensorInfo | None) -> str:
    if info is None or info.dtype not in NOT_TENSORS:
        return ""
    return TEXT if info.dtype == "string" else f"of {info.dtype} type, not a tensor"


def _string_constants(graph: onnx.GraphProto) -> dict[str, str]:
    """Constant nodes whose value is not a dense tensor of numbers."""
    import onnx

    found = {}
    for node in graph.node:
        if node.op_type != "Constant" or node.domain:
            continue
        item = node.attribute[0]
        if item.name == "sparse_value":
            found[node.output[0]] = "a sparse constant"
        elif item.name in ("value_string", "value_strings") or item.t.data_type == onnx.TensorProto.STRING:
            found[node.output[0]] = TEXT
    return found


def _blocked(protos: Any) -> set[str]:
    """Values and filters in NCHWc order: their shape is not how their numbers lie. Only ReorderOutput leads out."""
    found: set[str] = set()
    for node in protos:
        own = node.domain == NCHWC and node.op_type != "ReorderOutput"
        passed_on = node.domain != NCHWC and any(name in found for name in node.input)
        if own or passed_on:
            found.update(name for name in node.output if name)
        if own and node.op_type == "Conv":
            found.add(node.input[1])
    return found


def _inner(protos: Any, holder: Any = None) -> Iterator[tuple[str, Any]]:
    """Values that are computed inside bodies, each with the node of the main graph that holds it."""
    for node in protos:
        for body in attribute_graphs(node):
            for inner in body.node:
                fixed = inner.op_type == "Constant" and not inner.domain
                yield from ((name, holder or node) for name in inner.output if name and not fixed)
            yield from _inner(body.node, holder or node)


def _with_quant(model: OnnxModel, types: Mapping[str, TensorInfo], outputs: list[str]) -> Types:
    stored = set(model.stored())

    def constant(node: onnx.NodeProto, i: int) -> Array | None:
        name = node.input[i] if i < len(node.input) else ""
        return model.constant(name) if name in stored else None

    def quant(node: onnx.NodeProto, scale_at: int, zero_at: int, axis: int) -> Quant | None:
        scale = constant(node, scale_at)
        named = zero_at < len(node.input) and node.input[zero_at]
        zero = constant(node, zero_at) if named else np.zeros(1)
        given = {item.name: item.i for item in node.attribute}
        if scale is None or zero is None or scale.ndim > 1 or given.get("block_size"):
            return None
        per_channel = given.get("axis", axis) if scale.size > 1 else None
        zeros = np.broadcast_to(zero.reshape(-1).astype(np.int64), scale.size)
        return Quant(scale.reshape(-1).astype(np.float32), zeros.copy(), per_channel)

    found: dict[str, Quant | None] = {}
    for node in model.proto.graph.node:
        for at, scale_at, zero_at, axis in QUANTIZED_INPUTS.get(node.op_type, ()):
            found.setdefault(node.input[at], quant(node, scale_at, zero_at, axis))
        if node.op_type in QUANTIZED_OUTPUTS:
            found[node.output[0]] = quant(node, *QUANTIZED_OUTPUTS[node.op_type], 1)
    tensors = {name: types.get(name, TensorInfo(name)) for name in dict.fromkeys((*types, *outputs))}
    for name, value in found.items():
        info = tensors.get(name, TensorInfo(name))
        if value is not None and not info.dtype.startswith(("float", "bfloat", "int32")):
            tensors[name] = TensorInfo(name, info.shape, info.dtype, value)
    return tensors
