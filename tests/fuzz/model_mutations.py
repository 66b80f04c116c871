"""Changes of the structure of ONNX and TFLite models: valid files that describe impossible, huge or odd networks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from random import Random
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema

from json_mutations import NAMES

__all__ = ["mutate_onnx", "mutate_tflite"]

INTS = (0, 1, -1, 2, 3, 7, 127, 255, 1000, 2**31 - 1, -(2**31), 2**31, 2**40, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("nan"), float("inf"), float("-inf"))
TRIES = 50


def mutate_onnx(data: bytes, rng: Random) -> bytes:
    """One to three fields anywhere in the model's tree changed."""
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 3))):
        spots = list(_fields(model))
        for _ in range(TRIES):
            message, field = rng.choice(spots)
            try:
                _change_field(message, field, spots, rng)
                break
            except (ValueError, TypeError, UnicodeEncodeError):  # the value does not fit this field: another
                continue
    return bytes(model.SerializeToString())


def _fields(message: Any) -> Iterator[tuple[Any, Any]]:
    """(message, field) of every field that is set, without what is inside large tensors; and some that are not."""
    for field in message.DESCRIPTOR.fields:
        if field.type == field.TYPE_MESSAGE:
            value = getattr(message, field.name)
            if field.is_repeated:
                yield message, field
                for each in value:
                    yield from _fields(each)
            elif message.HasField(field.name):
                yield message, field
                yield from _fields(value)
        else:
            yield message, field


def _change_field(message: Any, field: Any, spots: list[tuple[Any, Any]], rng: Random) -> None:
    value = getattr(message, field.name)
    if field.is_repeated:
        _change_repeated(value, field, rng)
    elif field.type == field.TYPE_MESSAGE:
        message.ClearField(field.name)
    elif field.type == field.TYPE_STRING and rng.random() < 0.6:  # another name of this model: cycles, doubles, misfits
        known = [getattr(m, f.name) for m, f in spots if f.type == f.TYPE_STRING and not f.is_repeated]
        setattr(message, field.name, rng.choice(known))
    else:
        setattr(message, field.name, _scalar(field, rng))


def _change_repeated(values: Any, field: Any, rng: Random) -> None:
    at = rng.randrange(len(values)) if len(values) else None
    action = rng.randrange(4)
    if at is not None and action == 0:
        del values[at]
    elif at is not None and action == 1:
        values.append(values[at])
    elif at is not None and action == 2 and len(values) > 1:
        other = rng.randrange(len(values))
        items = list(values)
        items[at], items[other] = items[other], items[at]
        del values[:]
        values.extend(items)
    elif field.type == field.TYPE_MESSAGE:
        values.add()
    elif at is not None and rng.random() < 0.7:
        values[at] = _scalar(field, rng)
    else:
        values.append(_scalar(field, rng))


def _scalar(field: Any, rng: Random) -> Any:
    if field.type == field.TYPE_STRING:
        return rng.choice(NAMES)
    if field.type == field.TYPE_BYTES:
        return rng.choice((b"", b"\0", b"\xff" * 7, rng.randbytes(64)))
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    return rng.choice(INTS)


def mutate_tflite(data: bytes, rng: Random) -> bytes:
    """One to three attributes anywhere in the flatbuffer's objects changed."""
    for _ in range(TRIES):
        model = schema.ModelT.InitFromPackedBuf(bytearray(data), 0)
        for _ in range(rng.choice((1, 1, 3))):
            owner, name = rng.choice(list(_attributes(model)))
            _change_attribute(owner, name, rng)
        builder = flatbuffers.Builder(len(data))
        try:
            builder.Finish(model.Pack(builder), b"TFL3")
        except (TypeError, ValueError, AttributeError, struct.error, OverflowError):
            continue  # no flatbuffer can hold that value there
        if (changed := bytes(builder.Output())) != _unchanged(data):
            return changed
    raise AssertionError(f"{TRIES} tries changed nothing")


@lru_cache(maxsize=8)
def _unchanged(data: bytes) -> bytes:
    """The same model as this packer writes it."""
    builder = flatbuffers.Builder(len(data))
    builder.Finish(schema.ModelT.InitFromPackedBuf(bytearray(data), 0).Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _attributes(owner: Any) -> Iterator[tuple[Any, str]]:
    for name, value in vars(owner).items():
        yield owner, name
        for each in value if isinstance(value, list) else (value,):
            if hasattr(each, "__dict__"):
                yield from _attributes(each)


def _change_attribute(owner: Any, name: str, rng: Random) -> None:
    value = getattr(owner, name)
    if isinstance(value, bool):
        changed: Any = not value
    elif isinstance(value, int):
        changed = rng.choice((*INTS, value + 1, value - 1))
    elif isinstance(value, float):
        changed = rng.choice(FLOATS)
    elif isinstance(value, bytes | str):
        changed = rng.choice(NAMES).encode("utf-8", "surrogatepass")
    elif isinstance(value, np.ndarray) and value.size:
        changed = _other_array(value, rng)
    elif isinstance(value, list) and value:
        changed = list(value)
        at = rng.randrange(len(changed))
        action = rng.randrange(3)
        if action == 0:
            del changed[at]
        elif action == 1:
            changed.insert(at, changed[at])
        else:
            rng.shuffle(changed)
    else:
        changed = None
    setattr(owner, name, changed)


def _other_array(value: Any, rng: Random) -> Any:
    changed = value.copy()
    action = rng.randrange(4)
    if action == 0:
        return changed[: rng.randrange(changed.size)]
    if action == 1:
        return np.concatenate([changed, changed[-1:]])
    if changed.dtype.kind == "f":
        changed[rng.randrange(changed.size)] = rng.choice(FLOATS)
    else:
        limits = np.iinfo(changed.dtype)
        odd = rng.choice((*INTS, int(changed.flat[0]) + 1))
        changed[rng.randrange(changed.size)] = min(max(odd, limits.min), limits.max)
    return changed
