"""Builds tiny TFLite flatbuffers by hand, through the schema's object API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
    "string": schema.TensorType.STRING,
    "resource": schema.TensorType.RESOURCE,
    "int4": schema.TensorType.INT4,
}


def quantization(scale: Any, zero_point: Any, axis: int = 0) -> schema.QuantizationParametersT:
    """Scales and zero points, scalars or one for each index of `axis`."""
    quant = schema.QuantizationParametersT()
    quant.scale = np.atleast_1d(np.asarray(scale, np.float32))
    quant.zeroPoint = np.atleast_1d(np.asarray(zero_point, np.int64))
    quant.quantizedDimension = axis
    return quant


class Subgraph:
    """One subgraph in the making. Tensors are addressed by the index that `tensor` and `constant` return."""

    def __init__(self, builder: Builder, name: str) -> None:
        self._builder = builder
        self.table = schema.SubGraphT()
        self.table.name = name.encode()
        self.table.tensors, self.table.operators = [], []
        self.table.inputs, self.table.outputs = [], []

    def tensor(
        self,
        name: str | bytes,
        shape: tuple[int, ...],
        dtype: str = "float32",
        *,
        quant: Any = None,
        signature: tuple[int, ...] | None = None,
        variable: bool = False,
        data: bytes | None = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name = name
        tensor.shape = list(shape)
        tensor.shapeSignature = None if signature is None else list(signature)
        tensor.type = _TYPES[dtype]
        tensor.quantization = quant
        tensor.isVariable = variable
        tensor.hasRank = True
        tensor.buffer = self._builder.buffer(data) if data is not None else 0
        self.table.tensors.append(tensor)
        return len(self.table.tensors) - 1

    def constant(self, name: str, value: np.ndarray[Any, Any], *, quant: Any = None) -> int:
        return self.tensor(name, value.shape, value.dtype.name, quant=quant, data=value.tobytes())

    def op(
        self,
        op_type: str,
        inputs: list[int],
        outputs: list[int],
        options: Any = None,
        *,
        version: int = 1,
        custom: bool = False,
    ) -> None:
        """`options` is an ...OptionsT object of the schema; `custom` makes `op_type` a custom op's name."""
        op = schema.OperatorT()
        op.opcodeIndex = self._builder.opcode(op_type, version, custom)
        op.inputs, op.outputs = list(inputs), list(outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            op.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            op.builtinOptions = options
        self.table.operators.append(op)

    def io(self, inputs: list[int], outputs: list[int]) -> None:
        self.table.inputs, self.table.outputs = list(inputs), list(outputs)


class Builder:
    """A model in the making; the first subgraph is the main one."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.operatorCodes, self.model.subgraphs = [], []
        self.model.buffers = [schema.BufferT()]

    def subgraph(self, name: str = "main") -> Subgraph:
        graph = Subgraph(self, name)
        self.model.subgraphs.append(graph.table)
        return graph

    def buffer(self, data: bytes) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def opcode(self, op_type: str, version: int, custom: bool) -> int:
        code = schema.OperatorCodeT()
        code.version = version
        code.builtinCode = schema.BuiltinOperator.CUSTOM if custom else getattr(schema.BuiltinOperator, op_type)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.customCode = op_type.encode() if custom else None
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def to_bytes(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def save(self, path: Path) -> str:
        path.write_bytes(self.to_bytes())
        return str(path)
