"""A .tflite file, mapped and parsed: tensors by key, operators in execution order, stored constants."""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from aligndbg.backends.tflite.ops import attributes, enum_names
from aligndbg.core.errors import ModelError, UnsupportedError
from aligndbg.core.types import Array, Quant, TensorInfo

__all__ = ["BROKEN_HINT", "READABLE", "Op", "TfliteModel", "map_file"]


BROKEN_HINT = "the file is truncated, damaged or no TFLite model; copy or convert it again"

# What LiteRT's get_tensor returns as numpy knows it; the others raise or come back as raw bytes.
READABLE = frozenset(
    {"float16", "float32", "float64", "complex64", "complex128", "bool"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_PACKED_BITS = {"int4": 4, "uint4": 4, "int2": 2}


@dataclass(frozen=True)
class Op:
    """One operator of a subgraph. `inputs` keep -1 where an optional one is absent."""

    index: int
    code: int
    word: str
    version: int
    custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.word}:{self.index}"

    @property
    def reads(self) -> tuple[int, ...]:
        return tuple(i for i in self.inputs if i >= 0)

    @property
    def subgraphs(self) -> tuple[int, ...]:
        """Bodies that this operator calls (WHILE, IF, CALL_ONCE, composites)."""
        return tuple(v for k, v in self.attributes.items() if k.endswith("subgraph_index"))


class TfliteModel:
    """The file as the schema's object API sees it; arrays in it are views of `raw`, the mapped file.

    Raises ModelError for a file that does not hold together.
    """

    def __init__(self, path: str, raw: mmap.mmap) -> None:
        from ai_edge_litert import schema_py_generated

        self.path = path
        self.schema: Any = schema_py_generated
        self.raw = raw
        # The generated code trusts every offset in the file, so a damaged one surfaces as any of these.
        try:
            self.table: Any = self.schema.ModelT.InitFromPackedBuf(self.raw, 0)
            self.main = self.table.subgraphs[0]
            self._check()
            self.ops = self.operators(0)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, struct.error) as error:
            raise ModelError("not a readable TFLite flatbuffer", context=path, hint=BROKEN_HINT) from error

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Tensor index -> its key: the name, with `#index` where the name alone does not tell it apart."""
        return _keys(self.main.tensors)

    @cached_property
    def infos(self) -> tuple[TensorInfo, ...]:
        return tuple(self._info(key, table) for key, table in zip(self.keys, self.main.tensors, strict=True))

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Inputs to feed. One that is stored in the file cannot be: LiteRT crashes when a constant is set."""
        return tuple(i for i in _ints(self.main.inputs) if not self.is_stored(i))

    @cached_property
    def outputs(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(_ints(self.main.outputs)))

    @cached_property
    def producers(self) -> dict[int, Op]:
        return {i: op for op in self.ops for i in op.outputs}

    def operators(self, subgraph: int) -> tuple[Op, ...]:
        """The operators of a subgraph, in execution order."""
        return tuple(self._op(i, table) for i, table in enumerate(self.table.subgraphs[subgraph].operators or ()))

    def everywhere(self) -> Iterator[tuple[int, Op]]:
        """Every operator, bodies included, with its subgraph."""
        return ((s, op) for s in range(len(self.table.subgraphs)) for op in self.operators(s))

    def body_tensors(self, subgraph: int) -> Iterator[tuple[str, TensorInfo]]:
        """`subgraph/tensor` and its description, for the operator outputs inside a body."""
        graph = self.table.subgraphs[subgraph]
        name = _text(graph.name) or f"#{subgraph}"
        keys = _keys(graph.tensors)
        for op in self.operators(subgraph):
            for i in op.outputs:
                key = f"{name}/{keys[i]}"
                yield key, self._info(key, graph.tensors[i])

    def data(self, buffer: int) -> Array | None:
        """The bytes of a buffer, in the flatbuffer or behind it; None when it has none."""
        table = self.table.buffers[buffer]
        if table.offset > 1:
            if table.offset + table.size > len(self.raw):
                raise ModelError("a constant lies past the end of the file", context=self.path, hint=BROKEN_HINT)
            return np.frombuffer(self.raw, np.uint8, table.size, table.offset)
        return table.data if isinstance(table.data, np.ndarray) and table.data.size else None

    def forget(self) -> None:
        """Lets the mapped pages go; what is read again comes from the file."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self.raw.madvise(mmap.MADV_DONTNEED)

    def file_shape(self, index: int) -> list[int]:
        """The shape that LiteRT allocates unless told otherwise: dynamic dimensions have a number here."""
        return _ints(self.main.tensors[index].shape)

    def is_stored(self, index: int) -> bool:
        table = self.main.tensors[index]
        return not table.isVariable and self.data(table.buffer) is not None

    def stored(self, index: int) -> Array:
        """A constant's value as stored, copied out of the file; sub-byte integers are unpacked (ml_dtypes)."""
        info = self.infos[index]
        shape = info.static_shape
        data = self.data(self.main.tensors[index].buffer)
        dtype = _numpy_dtype(info.dtype)
        if shape is None or (data is None and 0 not in shape):
            raise UnsupportedError("its value is not stored in the file", context=info.name)
        if data is None:
            return np.empty(shape, dtype)
        count = int(np.prod(shape, dtype=np.int64))
        if info.dtype in _PACKED_BITS:
            values = _unpack(data, info.dtype).astype(dtype)[:count]
        else:
            values = data[: data.size // dtype.itemsize * dtype.itemsize].view(dtype).copy()
        if values.size != count:
            raise ModelError(
                f"constant {info.name!r} holds {values.size} values, its shape {shape} wants {count}",
                context=self.path,
                hint=BROKEN_HINT,
            )
        return values.reshape(shape)

    def _check(self) -> None:
        """Every index in the file points at something: a negative one would silently count from the end."""
        codes, buffers, graphs = len(self.table.operatorCodes), len(self.table.buffers), len(self.table.subgraphs)
        for graph in self.table.subgraphs:
            count = len(graph.tensors)
            ops = graph.operators or ()
            uses = [i for op in ops for i in _ints(op.inputs) if i != -1]
            uses += [i for op in ops for i in _ints(op.outputs)] + [*_ints(graph.inputs), *_ints(graph.outputs)]
            sound = (
                all(0 <= i < count for i in uses)
                and all(0 <= op.opcodeIndex < codes for op in ops)
                and all(0 <= tensor.buffer < buffers for tensor in graph.tensors)
            )
            if not sound:
                raise IndexError("an index in the flatbuffer points outside it")
        called = [s for i in range(graphs) for op in self.operators(i) for s in op.subgraphs]
        if not all(-1 <= s < graphs for s in called):
            raise IndexError("an operator calls a subgraph that does not exist")

    @cached_property
    def _words(self) -> dict[int, str]:
        return enum_names(self.schema, "BuiltinOperator")

    @cached_property
    def _types(self) -> dict[int, str]:
        return {value: name.lower() for value, name in enum_names(self.schema, "TensorType").items()}

    def _op(self, index: int, table: Any) -> Op:
        code = self.table.operatorCodes[table.opcodeIndex]
        # Old files have the code in a byte only, new ones in both fields.
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        custom = number == self.schema.BuiltinOperator.CUSTOM
        return Op(
            index=index,
            code=table.opcodeIndex,
            word=_text(code.customCode) or "CUSTOM" if custom else self._words.get(number, f"BUILTIN_{number}"),
            version=code.version,
            custom=custom,
            inputs=tuple(_ints(table.inputs)),
            outputs=tuple(_ints(table.outputs)),
            attributes=attributes(self.schema, table.builtinOptions) | attributes(self.schema, table.builtinOptions2),
        )

    def _info(self, key: str, table: Any) -> TensorInfo:
        dtype = self._types.get(table.type, "")
        signature = _ints(table.shapeSignature) or _ints(table.shape)
        shape: tuple[int | None, ...] | None = tuple(None if d < 0 else d for d in signature)
        # No shape at all is how some converters write a scalar constant; elsewhere the rank is unknown.
        if table.shape is None and not table.hasRank and self.data(table.buffer) is None:
            shape = None
        return TensorInfo(key, shape, dtype, self._quant(key, table, shape) if "int" in dtype else None)

    def _quant(self, key: str, table: Any, shape: tuple[int | None, ...] | None) -> Quant | None:
        found = table.quantization
        if found is None or found.scale is None or not np.any(found.scale):
            return None
        scale = np.array(found.scale, np.float32)
        zero = np.zeros(1, np.int64) if found.zeroPoint is None else np.array(found.zeroPoint, np.int64)
        if zero.size in (0, 1):
            zero = np.full(scale.size, zero[0] if zero.size else 0, np.int64)
        if scale.size == 1:
            return Quant(scale, zero[:1])
        axis = int(found.quantizedDimension)
        if zero.size != scale.size or not shape or axis >= len(shape) or shape[axis] not in (None, scale.size):
            raise ModelError(
                f"tensor {key!r} has {scale.size} scales that fit no axis of its shape {shape}",
                context=self.path,
                hint=BROKEN_HINT,
            )
        return Quant(scale, zero, axis)


def map_file(path: str) -> mmap.mmap:
    """The file, mapped read-only. Raises ModelError where it is missing, unreadable or empty."""
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        reason = error.strerror if isinstance(error, OSError) else "the file is empty"
        raise ModelError(f"cannot read the model: {reason}", context=path, hint="check the path") from error


def _keys(tensors: list[Any]) -> tuple[str, ...]:
    names = [_text(t.name) for t in tensors]
    while True:  # a made `a#3` may meet a tensor that is really called that: then that one is numbered, too
        counts = Counter(names)
        if all(name and counts[name] == 1 for name in names):
            return tuple(names)
        names = [n if n and counts[n] == 1 else f"{n}#{i}" for i, n in enumerate(names)]


def _text(name: bytes | str | None) -> str:
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name or ""


def _ints(vector: Any) -> list[int]:
    """A vector of the object API: None, a list, or an array (0 when the generated code found none)."""
    return [] if vector is None or isinstance(vector, int) else [int(i) for i in vector]


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name in READABLE:
        return np.dtype(name)
    try:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found
    except (ImportError, AttributeError, TypeError) as error:
        raise UnsupportedError(f"no numpy type for TFLite's {name or 'unknown type'}") from error


def _unpack(data: Array, dtype: str) -> Array:
    """Packed 2- and 4-bit integers, lowest bits first -> one int8 each."""
    bits = _PACKED_BITS[dtype]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (data[:, None] >> shifts) & np.uint8((1 << bits) - 1)
    signed = fields.reshape(-1).astype(np.int8)
    if not dtype.startswith("u"):
        signed = np.where(signed >= 1 << (bits - 1), signed - (1 << bits), signed).astype(np.int8)
    return signed
