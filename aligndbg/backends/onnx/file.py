"""An ONNX file in memory: a small proto that is cheap to copy, and its large weights, which all sessions share."""

from __future__ import annotations

import copy
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aligndbg.backends.onnx.protos import forget_negative_sizes, graphs, name_nodes, nested_tensors, sort_nodes
from aligndbg.backends.onnx.wire import split
from aligndbg.core.errors import ModelError
from aligndbg.core.types import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["LARGE", "OnnxModel", "is_packed", "make_placeholder"]


LARGE = 16 * 1024  # bytes; smaller initializers stay in the proto, where shape inference can read them
PLACEHOLDER = "held in memory"  # location of a weight that every session is given as an OrtValue


class OnnxModel:
    """`proto` has local functions inlined and nodes in topological order; `weights` holds what was too large for it.

    Weights are views of the mapped file, at any alignment. External data stay in their files, under `data_folder`.

    Raises ModelError when the file is missing, truncated, not ONNX, or when its external data are.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.weights: dict[str, Array] = {}
        self._maps: dict[Path, Array] = {}
        self._mapped: dict[str, Array] = {}
        self._file: mmap.mmap | None = None
        self._hold(self._inlined(self._without_weights(*self._parse())))

    def holding(self, proto: onnx.ModelProto) -> OnnxModel:
        """The same file with an edit of `proto` in its place."""
        other = copy.copy(self)
        other.weights = dict(self.weights)
        for tensor in proto.graph.initializer:
            if tensor.name not in self._stored:
                other._take_out(tensor, None)
        other._hold(proto)
        return other

    def _hold(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        if not sort_nodes(proto.graph):
            raise ModelError("its graph has a cycle", context=self.path)
        name_nodes(proto.graph)
        forget_negative_sizes(proto.graph)
        self._stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._constant_nodes = {
            node.output[0]: node for node in proto.graph.node if node.op_type == "Constant" and node.domain == ""
        }

    def stored(self) -> tuple[str, ...]:
        """Names whose values lie in the file: initializers, then outputs of Constant nodes."""
        return (*self._stored, *self._constant_nodes)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the large initializers, wherever they lie."""
        return sum(array.nbytes for held in (self.weights, self._mapped) for array in held.values())

    def packed_sizes(self) -> dict[str, int]:
        """Bytes of each large initializer as it lies in the file and again as kernels pack it."""
        return {name: 2 * array.nbytes for held in (self.weights, self._mapped) for name, array in held.items()}

    def fixed(self) -> frozenset[str]:
        """The stored constants that ORT treats as constant: since IR 4, not those that are listed as inputs."""
        listed = {item.name for item in self.proto.graph.input} if self.proto.ir_version >= 4 else set()
        return frozenset(self.stored()) - listed

    def constant(self, name: str) -> Array:
        """A copy of a stored constant, in its own dtype and shape."""
        from onnx import numpy_helper

        for held in (self.weights, self._mapped):
            if name in held:
                return np.array(held[name])
        if name in self._stored:
            return np.array(numpy_helper.to_array(self._stored[name]))
        return _constant_node_value(self._constant_nodes[name])

    def forget(self) -> None:
        """Lets the file's mapped pages go; what is read again comes from the file."""
        if self._file is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._file.madvise(mmap.MADV_DONTNEED)

    def _parse(self) -> tuple[onnx.ModelProto, dict[int, Array]]:
        """The message, and the large initializers that were left out of it, by their place: uint8 (n,)."""
        try:
            with open(self.path, "rb") as file:
                self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            lean, places = split(self._file, LARGE)
        except (OSError, ValueError):  # not mappable, empty or damaged: the parser says what is wrong
            self._file = None
            return _parsed(_content(self.path), self.path), {}
        whole = np.frombuffer(self._file, np.uint8)
        return _parsed(lean, self.path), {i: whole[start:stop] for i, (start, stop) in places.items()}

    def _without_weights(self, proto: onnx.ModelProto, left_out: dict[int, Array]) -> onnx.ModelProto:
        import onnx

        for tensor in nested_tensors(proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                _make_internal(tensor, self._external(tensor))
        for i, tensor in enumerate(proto.graph.initializer):
            self._take_out(tensor, left_out.get(i))
        self._relocate(proto)
        # protobuf frees nothing before the whole message goes, so the stripped message is built anew
        small: onnx.ModelProto = onnx.ModelProto.FromString(proto.SerializeToString())
        return small

    def _take_out(self, tensor: onnx.TensorProto, left_out: Array | None) -> None:
        """Large initializers leave the proto; external ones stay references, and ORT maps them without a copy."""
        import onnx

        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if not external and left_out is None and len(tensor.raw_data) < LARGE:
            return
        raw = left_out
        if external:
            raw = self._external(tensor)
        elif raw is None:
            raw = np.frombuffer(tensor.raw_data, np.uint8).copy()
        if raw.size != _byte_count(tensor):
            raise ModelError(
                f"{tensor.name!r} has {raw.size} bytes, its shape asks {_byte_count(tensor)}", context=self.path
            )
        if raw.size < LARGE or is_packed(tensor.data_type):
            if external or left_out is not None:
                _make_internal(tensor, raw)
            return
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        (self._mapped if external else self.weights)[tensor.name] = raw.view(dtype).reshape(tuple(tensor.dims))
        if not external:
            make_placeholder(tensor)

    def _relocate(self, proto: onnx.ModelProto) -> None:
        """Data files by their real path: ORT refuses links that lead out of the folder that it is given."""
        real = {str(path): os.path.realpath(path) for path in self._maps}
        self.data_folder = os.path.commonpath([os.path.dirname(path) for path in real.values()]) if real else ""
        for tensor in proto.graph.initializer:
            if tensor.name in self._mapped:
                entry = next(entry for entry in tensor.external_data if entry.key == "location")
                path = real[str(Path(self.path).parent / entry.value)]
                entry.value = Path(os.path.relpath(path, self.data_folder)).as_posix()

    def _external(self, tensor: onnx.TensorProto) -> Array:
        """The bytes of an external tensor, uint8 (n,), mapped and not read."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = Path(entries.get("location", ""))
        what = f"external data of {tensor.name!r}"
        if location.is_absolute() or ".." in location.parts or not location.parts:
            raise ModelError(f"{what} lie outside the model's folder: {str(location)!r}", context=self.path)
        path = Path(self.path).parent / location
        if path not in self._maps:
            try:
                self._maps[path] = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
            except OSError as error:
                raise ModelError(
                    f"{what} cannot be read: {path}: {error.strerror or error}",
                    context=self.path,
                    hint="keep the data file beside the .onnx file, under the name it was saved with",
                ) from error
        whole = self._maps[path]
        start = int(entries.get("offset") or 0)
        stop = start + int(entries.get("length") or _byte_count(tensor))
        if stop > whole.size:
            raise ModelError(
                f"{what} end at byte {stop}, and {path} has {whole.size}: the data file is truncated", context=self.path
            )
        return whole[start:stop]

    def _inlined(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        if not proto.functions:
            return proto
        import onnx.inliner

        try:
            inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(proto)
        except Exception as error:
            raise ModelError(f"its local functions cannot be inlined: {_line(error)}", context=self.path) from error
        return inlined


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(error.strerror or str(error), context=path) from error


def _parsed(data: bytes, path: str) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelError(
            f"not an ONNX model, or truncated ({os.path.getsize(path)} bytes): {_line(error)}",
            context=path,
            hint="check the download, or that a Git LFS pointer was not saved in its place",
        ) from error
    _refuse_unreadable(proto, path)
    if not proto.graph.node and not proto.graph.output:
        size = os.path.getsize(path)
        raise ModelError(f"holds no graph ({size} bytes)", context=path, hint="is it an ONNX model?")
    return proto


def _refuse_unreadable(proto: onnx.ModelProto, path: str) -> None:
    """What protobuf lets through and no reader can use: names that are not UTF-8, unknown types, negative sizes."""
    import onnx

    known = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
    if not all(isinstance(name, str) for graph in graphs(proto.graph) for name in _names(graph)):
        raise ModelError("a name in it is not UTF-8", context=path, hint="the file is damaged")
    tensors = [*nested_tensors(proto), *proto.graph.initializer, *(s.values for s in proto.graph.sparse_initializer)]
    for tensor in tensors:
        if tensor.data_type not in known or any(size < 0 for size in tensor.dims):
            fact = f"the tensor {tensor.name!r} has type {tensor.data_type} and shape {list(tensor.dims)}"
            raise ModelError(fact, context=path, hint="the file is damaged, or newer than this onnx package")


def _names(graph: onnx.GraphProto) -> Iterator[Any]:
    """Every name in it: of protobuf's Python, text where it is UTF-8, bytes where it is not."""
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (item.name for item in node.attribute)
    for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield item.name


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def is_packed(data_type: int) -> bool:
    """Types of less than a byte, which numpy does not hold as ONNX stores them."""
    import onnx

    names = ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2", "STRING")
    return onnx.TensorProto.DataType.Name(data_type) in names


def _byte_count(tensor: onnx.TensorProto) -> int:
    import onnx

    count = int(np.prod(tensor.dims, dtype=np.int64))
    if is_packed(tensor.data_type):
        bits = 2 if onnx.TensorProto.DataType.Name(tensor.data_type).endswith("INT2") else 4
        return (count * bits + 7) // 8
    return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _make_internal(tensor: onnx.TensorProto, raw: Array) -> None:
    import onnx

    tensor.raw_data = raw.tobytes()
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT


def make_placeholder(tensor: onnx.TensorProto) -> None:
    """Takes the value out of the tensor; whoever makes a session must give it."""
    import onnx

    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=PLACEHOLDER)


def _constant_node_value(node: onnx.NodeProto) -> Array:
    from onnx import helper, numpy_helper

    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return np.array(numpy_helper.to_array(value))
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return np.array(value, dtype[attribute.name])
