"""The protobuf wire format of an .onnx file: what it says without its large weights, and where those lie.

A whole parse holds every weight three times (the file, the message, a copy that can be freed by itself).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["split"]


GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9  # field numbers of ModelProto, GraphProto and TensorProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    number: int
    wire: int
    start: int
    value: int  # where the payload begins; the field ends at `stop`
    stop: int


def split(raw: mmap.mmap, large: int) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """The ModelProto without initializers' `raw_data` of `large` bytes or more, and their (start, stop) in the file.

    They are keyed by their place in `graph.initializer`. Raises ValueError where the bytes are not such a message; a
    message that a parser would have to merge counts as none.
    """
    fields = list(_fields(raw, 0, len(raw)))
    graphs = [f for f in fields if f.number == GRAPH]
    if len(graphs) != 1 or graphs[0].wire != BYTES:
        raise ValueError("not one graph")
    places: dict[int, tuple[int, int]] = {}
    graph = b"".join(_lean_graph(raw, graphs[0], large, places))
    out = []
    for field in fields:
        out += [_header(GRAPH, len(graph)), graph] if field is graphs[0] else [raw[field.start : field.stop]]
    return b"".join(out), places


def _lean_graph(raw: mmap.mmap, graph: _Field, large: int, places: dict[int, tuple[int, int]]) -> Iterator[bytes]:
    copied, count = graph.value, 0
    for field in _fields(raw, graph.value, graph.stop):
        if field.number != INITIALIZER or field.wire != BYTES:
            continue
        count += 1
        if field.stop - field.value < large:
            continue
        inner = list(_fields(raw, field.value, field.stop))
        held = [f for f in inner if f.number == RAW_DATA]
        if len(held) != 1 or held[0].wire != BYTES or held[0].stop - held[0].value < large:
            continue
        places[count - 1] = (held[0].value, held[0].stop)
        tensor = b"".join(raw[f.start : f.stop] for f in inner if f is not held[0])
        yield raw[copied : field.start]
        yield _header(INITIALIZER, len(tensor)) + tensor
        copied = field.stop
    yield raw[copied : graph.stop]


def _fields(raw: mmap.mmap, at: int, end: int) -> Iterator[_Field]:
    while at < end:
        start = at
        tag, at = _varint(raw, at, end)
        number, wire = tag >> 3, tag & 7
        value = at
        if wire == VARINT:
            _, at = _varint(raw, at, end)
        elif wire == BYTES:
            size, value = _varint(raw, at, end)
            at = value + size
        elif wire in (FIXED64, FIXED32):
            at += 8 if wire == FIXED64 else 4
        else:
            raise ValueError("a group, or no protobuf")
        if at > end:
            raise ValueError("truncated")
        yield _Field(number, wire, start, value, at)


def _varint(raw: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("truncated")


def _header(number: int, size: int) -> bytes:
    out = bytearray([number << 3 | BYTES])
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)
