"""Makes one network of 3.2 GB of weights twice: `python benchmarks/make_3gb.py FOLDER`. Needs onnx and ai-edge-litert.

    FOLDER/reference.onnx, reference.bin   weights as external data
    FOLDER/candidate.tflite                weights behind the flatbuffer (Buffer.offset), as a file over 2 GB must be
    FOLDER/x.npz                           the input

Written a layer at a time; 6.5 GB of disk, little memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, save

WIDTH, LAYERS, ROWS = 4096, 48, 16
WEIGHT_BYTES = 4 * WIDTH * WIDTH
ALIGN = 4096  # of each weight in its file
PLACEHOLDER = 2  # an offset of 0 or 1 means something else to LiteRT


def weights() -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
    """(out, in) of each layer, scaled so that values keep their size through the ReLUs."""
    rng = np.random.default_rng(0)
    for _ in range(LAYERS):
        drawn = rng.standard_normal((WIDTH, WIDTH), dtype=np.float32)
        drawn *= np.float32(np.sqrt(2 / WIDTH))
        yield drawn


def write_onnx(folder: Path) -> None:
    nodes, initializers, last = [], [], "input"
    for k in range(LAYERS):
        tensor = TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": "reference.bin", "offset": str(k * WEIGHT_BYTES), "length": str(WEIGHT_BYTES)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        initializers.append(tensor)
        nodes.append(helper.make_node("Gemm", [last, f"w{k}"], [f"product{k}"], f"gemm{k}", transB=1))
        nodes.append(helper.make_node("Relu", [f"product{k}"], [f"relu{k}"], f"relu{k}"))
        last = f"relu{k}"
    entry = helper.make_tensor_value_info("input", TensorProto.FLOAT, [ROWS, WIDTH])
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, [ROWS, WIDTH])
    graph = helper.make_graph(nodes, "large", [entry], [output], initializers)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "reference.onnx")


def tflite_model(first: int) -> bytes:
    """The flatbuffer, with the first layer's weight at file offset `first`; 0: all at a placeholder."""

    def tensor(name: str, rows: int, buffer: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name.encode(), [rows, WIDTH], buffer
        made.type = schema.TensorType.FLOAT32
        return made

    def code(name: str) -> Any:
        made = schema.OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        made.version = 1
        return made

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code("FULLY_CONNECTED"), code("RELU")], [graph]
    model.buffers = [schema.BufferT()]
    graph.tensors, graph.operators, graph.inputs = [tensor("input", ROWS, 0)], [], [0]
    for k in range(LAYERS):
        buffer = schema.BufferT()
        buffer.offset, buffer.size = first + k * WEIGHT_BYTES if first else PLACEHOLDER, WEIGHT_BYTES
        model.buffers.append(buffer)
        last = len(graph.tensors) - 1
        graph.tensors += [tensor(f"w{k}", WIDTH, k + 1), tensor(f"dense{k}", ROWS, 0), tensor(f"act{k}", ROWS, 0)]
        dense, relu = schema.OperatorT(), schema.OperatorT()
        dense.inputs, dense.outputs = [last, last + 1, -1], [last + 2]
        dense.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        dense.builtinOptions = schema.FullyConnectedOptionsT()
        relu.opcodeIndex, relu.inputs, relu.outputs = 1, [last + 2], [last + 3]
        graph.operators += [dense, relu]
    graph.outputs = [len(graph.tensors) - 1]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(folder)
    first = -(-len(tflite_model(0)) // ALIGN) * ALIGN
    with open(folder / "reference.bin", "wb") as onnx_file, open(folder / "candidate.tflite", "wb") as tflite_file:
        tflite_file.write(tflite_model(first))
        tflite_file.seek(first)
        for weight in weights():
            onnx_file.write(weight.data)
            tflite_file.write(weight.data)
    x = np.random.default_rng(1).standard_normal((ROWS, WIDTH), dtype=np.float32)
    np.savez(folder / "x.npz", input=x)
    return 0


if __name__ == "__main__":
    sys.exit(main())
