"""Rewrites a .tflite file in memory: other outputs (taps), cut tensors (overrides), dropped operators.

The tables are packed again, which takes milliseconds; weights are not packed but appended behind the flatbuffer
(`Buffer.offset`), one copy of the file in all.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligndbg.backends.tflite.file import Op, TfliteModel, map_file
from aligndbg.core.types import Array

__all__ = ["Cut", "Rewritten", "alone", "part_of_file", "rewrite"]


_INLINE = 1024  # bytes; LiteRT itself inlines small constants, shapes and axes among them
_ALIGN = 64  # XNNPACK reads weights in place
_RESIDENT = 64 << 20  # bytes of the file that stay in memory while it is copied


Cut = int | tuple[int, int]  # a tensor; or a tensor and the one operator that reads something else


@dataclass(frozen=True)
class Rewritten:
    """A model to load. It holds only tensors that it uses: `places` maps a tensor's index to the one that it has here.

    `cuts` maps what is overridden, a tensor's index or that and one operator's, to the input here that is read instead.
    """

    content: bytes
    cuts: Mapping[Cut, int]
    places: Mapping[int, int]


def rewrite(
    model: TfliteModel,
    outputs: Collection[int],
    *,
    overrides: Mapping[Cut, Array] | None = None,
    baked: Collection[Cut] = (),
    kept: Collection[int] | None = None,
) -> Rewritten:
    """The model with `outputs` (tensor indices), each once.

    Consumers of an overridden tensor read a new input of its shape and quantization, or, for one in `baked`, a new
    constant that holds the array: kernels may insist on constant weights. `kept` are indices of the operators that
    stay (default: all); inputs that are neither read nor outputs go.
    """
    table = copy.copy(model.table)
    # A signature lists inputs and outputs, which change here.
    table.signatureDefs = None
    main = copy.copy(model.main)
    main.tensors = list(main.tensors)
    main.outputs = [int(i) for i in dict.fromkeys(outputs)]
    ops = [op for op in model.ops if kept is None or op.index in kept]
    table.subgraphs = [main, *table.subgraphs[1:]] if any(op.subgraphs for op in ops) else [main]
    table.buffers = list(table.buffers)
    read = {i for op in ops for i in op.reads} | {int(i) for i in outputs}
    main.inputs = [i for i in _list(main.inputs) if i in read]

    cuts: dict[Cut, int] = {}
    replaced: dict[Cut, int] = {}
    for cut, value in (overrides or {}).items():
        replaced[cut] = len(main.tensors)
        index = cut if isinstance(cut, int) else cut[0]
        main.tensors.append(_replacement(model, table, index, value, cut in baked))
        if cut not in baked:
            cuts[cut] = replaced[cut]
    main.inputs = [*_list(main.inputs), *cuts.values()]
    main.operators = [_rewired(model, op, replaced) for op in ops]
    table.operatorCodes = _needed_codes(model, ops)
    places = _compact(main)
    return Rewritten(_pack(model, table), {cut: places[i] for cut, i in cuts.items()}, places)


def alone(model: TfliteModel, subgraph: int, op: Op) -> bytes:
    """A model of one operator, fed from outside with what is not stored."""
    table, graph = copy.copy(model.table), copy.copy(model.table.subgraphs[subgraph])
    graph.operators = [_copied(model, graph.operators[op.index])]
    graph.inputs = [i for i in dict.fromkeys(op.reads) if model.data(graph.tensors[i].buffer) is None]
    graph.outputs = list(op.outputs)
    table.subgraphs, table.signatureDefs = [graph], None
    table.operatorCodes = _needed_codes(model, [op])
    return _pack(model, table)


def part_of_file(path: str, names: Collection[str], inputs: Collection[str], output: str) -> bytes:
    """A model of the main subgraph's operators of these names, with what computes the constants that they read."""
    model = TfliteModel(path, map_file(path))
    index = {key: i for i, key in enumerate(model.keys)}
    kept = {op.index for op in model.ops if op.name in names}
    fed, todo = {index[name] for name in inputs}, [i for k in kept for i in model.ops[k].reads]
    while todo:
        i = todo.pop()
        producer = model.producers.get(i)
        if producer is not None and i not in fed and producer.index not in kept:
            kept.add(producer.index)
            todo += producer.reads
    ops = [op for op in model.ops if op.index in kept]
    table, graph = copy.copy(model.table), copy.copy(model.main)
    graph.operators = [_copied(model, model.main.operators[op.index]) for op in ops]
    graph.inputs, graph.outputs = [index[name] for name in inputs], [index[output]]
    table.subgraphs, table.signatureDefs = [graph, *model.table.subgraphs[1:]], None
    table.operatorCodes, table.buffers = _needed_codes(model, ops), list(model.table.buffers)
    return _pack(model, table)


def _replacement(model: TfliteModel, table: Any, index: int, value: Array, baked: bool) -> Any:
    tensor = copy.copy(model.main.tensors[index])
    tensor.name = f"{model.keys[index]}::override".encode()
    # The array's own shape, fixed: this input is never resized.
    tensor.shape, tensor.shapeSignature, tensor.hasRank = list(value.shape), None, True
    tensor.sparsity, tensor.buffer, tensor.externalBuffer = None, 0, 0
    if baked:
        buffer = model.schema.BufferT()
        buffer.data = np.frombuffer(value.tobytes(), np.uint8)
        tensor.buffer = len(table.buffers)
        table.buffers.append(buffer)
    return tensor


def _rewired(model: TfliteModel, op: Op, replaced: Mapping[Cut, int]) -> Any:
    made = _copied(model, model.main.operators[op.index])
    made.inputs = [replaced.get((i, op.index), replaced.get(i, i)) for i in op.inputs]
    return made


def _copied(model: TfliteModel, operator: Any) -> Any:
    """The operator, with its options in the flatbuffer where they lay behind it."""
    op = copy.copy(operator)
    if op.largeCustomOptionsOffset:
        start = op.largeCustomOptionsOffset
        op.customOptions = np.frombuffer(model.raw, np.uint8, op.largeCustomOptionsSize, start)
        op.largeCustomOptionsOffset = op.largeCustomOptionsSize = 0
    return op


def _needed_codes(model: TfliteModel, kept: Collection[Op]) -> list[Any]:
    """Operator codes with a harmless one (ADD) where nothing that can run uses them.

    LiteRT refuses a file for a builtin that it does not know, used or not.
    """
    used: set[int] = set()
    seen: set[int] = set()
    todo = list(kept)
    while todo:
        op = todo.pop()
        used.add(op.code)
        bodies = {s for s in op.subgraphs if s >= 0} - seen
        seen |= bodies
        todo += [inner for s in bodies for inner in model.operators(s)]
    codes = enumerate(model.table.operatorCodes)
    return [code if i in used else model.schema.OperatorCodeT() for i, code in codes]


def _compact(main: Any) -> dict[int, int]:
    """Drops the tensors that nothing uses; returns where the others are now. Operators must be copies."""
    links = [(op, name) for op in main.operators for name in ("inputs", "outputs", "intermediates")]
    links += [(main, "inputs"), (main, "outputs")]
    used = sorted({i for owner, name in links for i in _list(getattr(owner, name)) if i >= 0})
    places = {i: place for place, i in enumerate(used)}
    for owner, name in links:
        setattr(owner, name, [places.get(i, i) for i in _list(getattr(owner, name))])
    main.tensors = [main.tensors[i] for i in used]
    return places


def _used_buffers(table: Any) -> frozenset[int]:
    """Buffers that something reads, so that a slice of a model does not carry all its weights."""
    used = {int(m.buffer) for m in table.metadata or ()}
    used.update(int(b) for b in (table.metadataBuffer if table.metadataBuffer is not None else ()))
    for graph in table.subgraphs:
        indices = {int(i) for op in graph.operators or () for i in (*_list(op.inputs), *_list(op.outputs))}
        indices.update(int(i) for i in (*_list(graph.inputs), *_list(graph.outputs)))
        used.update(graph.tensors[i].buffer for i in indices if i >= 0)
    return frozenset(used)


def _list(vector: Any) -> list[int]:
    return [] if vector is None or isinstance(vector, int) else [int(i) for i in vector]


def _pack(model: TfliteModel, table: Any) -> bytes:
    """Serializes the table, with the buffers that it uses. `table` and its list of subgraphs must be copies."""
    used = sorted(_used_buffers(table) | {0})  # the first is the empty one
    originals = [table.buffers[i] for i in used]
    stored = [o.data if i >= len(model.table.buffers) else model.data(i) for i, o in zip(used, originals, strict=True)]
    _renumber(table, {i: place for place, i in enumerate(used)})
    behind: list[tuple[Any, Array]] = []
    table.buffers = []
    for original, data in zip(originals, stored, strict=True):
        buffer = copy.copy(original)
        buffer.data, buffer.offset, buffer.size = data, 0, 0
        if data is not None and data.size > _INLINE:
            # Any nonzero numbers will do: they hold the place until the length of the tables is known.
            buffer.data, buffer.offset, buffer.size = None, 2, data.size
            behind.append((buffer, data))
        table.buffers.append(buffer)
    start = len(_finish(table))
    for buffer, data in behind:
        buffer.offset = start = -(-start // _ALIGN) * _ALIGN
        start += data.size
    # A BytesIO hands its bytes out without a copy, and what was copied need not stay resident in the map of the file.
    content, unread = io.BytesIO(), 0
    for piece in _padded(_finish(table), behind):
        unread += content.write(piece)
        if unread > _RESIDENT:
            model.forget()
            unread = 0
    model.forget()
    return content.getvalue()


def _renumber(table: Any, places: Mapping[int, int]) -> None:
    """Lets everything point at buffers by their new numbers; a tensor that nothing uses has none."""
    for k, graph in enumerate(table.subgraphs):
        table.subgraphs[k] = graph = copy.copy(graph)
        graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
        for tensor in graph.tensors:
            tensor.buffer = places.get(tensor.buffer, 0)
    table.metadata = [copy.copy(item) for item in table.metadata or ()] or None
    for item in table.metadata or ():
        item.buffer = places[int(item.buffer)]
    if table.metadataBuffer is not None:
        table.metadataBuffer = [places[i] for i in _list(table.metadataBuffer)]


def _padded(head: bytes, behind: list[tuple[Any, Array]]) -> Iterator[Any]:
    yield head
    end = len(head)
    for buffer, data in behind:
        yield bytes(buffer.offset - end)
        yield data.data
        end = buffer.offset + data.size


def _finish(table: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(table.Pack(builder), b"TFL3")
    return bytes(builder.Output())
