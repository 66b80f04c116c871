"""Reads trace files, our own and anyone's files of arrays by name. Lazily, and never unpickling."""

from __future__ import annotations

import json
import math
import os
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aligndbg.core.arrays import dtype_of, plain_dtype
from aligndbg.core.errors import ModelError, UsageError
from aligndbg.core.npy import damage, npy_header, read_npy
from aligndbg.core.types import Array, Graph, ModelInfo, TensorInfo, Trace
from aligndbg.trace.format import (
    KINDS,
    METADATA_KEY,
    METADATA_MEMBER,
    SCHEMA,
    WORDS,
    from_integers,
    from_json,
    graph_from_json,
    text_map,
    texts,
)

__all__ = ["read_trace"]

_DTYPES = {word: name for name, word in WORDS.items()}

_COPY_AGAIN = "is it truncated, or of another kind? write or copy it again"

Loader = Callable[[], Array]


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """A Trace of any .safetensors or .npz file; values are read when they are asked for.

    A file without our metadata gives a graph without nodes, no feeds and the file's own order. Raises ModelError for
    a file that is missing, damaged, or holds Python objects; UsageError for another suffix.
    """
    suffix = Path(path).suffix.lower()
    opener = {".safetensors": _open_safetensors, ".npz": _open_npz}.get(suffix)
    if opener is None:
        raise UsageError(f"cannot tell the kind of trace from {suffix!r}", context=str(path), hint=KINDS)
    try:
        found = opener(os.fspath(path))
    except FileNotFoundError:
        raise ModelError("no such file", context=str(path)) from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", context=str(path)) from error
    return _own(path, found) if found.metadata is not None else _foreign(path, suffix, found)


class _Found:
    """What a file holds: key -> (shape, dtype name, loader), keys it has but cannot give, and our metadata."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[tuple[int, ...], str, Loader]] = {}
        self.refused: dict[str, str] = {}
        self.metadata: str | None = None


class _Values(Mapping[str, Array]):
    """Reads each array when it is asked for."""

    def __init__(self, loaders: Mapping[str, Loader]) -> None:
        self._loaders = loaders

    def __getitem__(self, name: str) -> Array:
        return self._loaders[name]()

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the array
        return name in self._loaders

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)


def _foreign(path: str | os.PathLike[str], suffix: str, found: _Found) -> Trace:
    tensors = {key: TensorInfo(key, shape, dtype) for key, (shape, dtype, _) in found.entries.items()}
    return Trace(
        info=ModelInfo(os.fspath(path), "recorded", suffix.lstrip(".")),
        graph=Graph(tensors=tensors),
        values=_Values({key: load for key, (_, _, load) in found.entries.items()}),
        feeds=None,
        order=tuple(found.entries),
        missing=found.refused,
    )


def _own(path: str | os.PathLike[str], found: _Found) -> Trace:
    assert found.metadata is not None
    with _damage(path, "its aligndbg metadata is damaged"):
        data = json.loads(found.metadata, object_hook=from_json)
        schema = str(data["schema"])
        if schema != SCHEMA:
            hint = f"this version reads {SCHEMA}"
            raise ModelError(f"the trace was written in another version ({schema})", context=str(path), hint=hint)
        dtypes, keys = text_map(data["dtypes"]), text_map(data["keys"])

        def loader(key: str) -> Loader:
            load = found.entries[key][2]
            if key not in dtypes:
                return load
            dtype_of(dtypes[key])  # an unknown one is damage now, not at first use
            return lambda: _as(load(), dtypes[key], key, path)

        keys = {name: keys.get(name, name) for name in texts(data["order"])}
        info = dict(data["info"])
        options = text_map(info.pop("options"))
        graph = graph_from_json(data["graph"])
        _check_quantized(graph, {name: found.entries[key][0] for name, key in keys.items()})
        return Trace(
            info=ModelInfo(**text_map(info), options=options),
            graph=graph,
            values=_Values({name: loader(key) for name, key in keys.items()}),
            feeds=None
            if data["feeds"] is None
            else _Values({name: loader(key) for name, key in text_map(data["feeds"]).items()}),
            order=tuple(keys),
            missing=text_map(data["missing"]),
        )


def _as(stored: Array, dtype: str, key: str, path: str | os.PathLike[str]) -> Array:
    with _damage(path, f"{key!r} does not hold {dtype}, as its aligndbg metadata says"):
        return from_integers(stored, dtype)


def _check_quantized(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError where a per-channel quantization does not fit the values that it is of."""
    for name, shape in shapes.items():
        quant = graph.tensors[name].quant if name in graph.tensors else None
        if quant is None or quant.scale.size == 1:
            continue
        if quant.axis is None or quant.axis >= len(shape) or shape[quant.axis] != quant.scale.size:
            raise ValueError(f"{quant.scale.size} scales for {name!r} of shape {shape}")


@contextmanager
def _damage(path: str | os.PathLike[str], fact: str) -> Iterator[None]:
    """Turns what damaged bytes make a parser raise into a ModelError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, EOFError, MemoryError) as error:
        raise ModelError(fact, context=str(path), hint=_COPY_AGAIN) from error


def _open_safetensors(path: str) -> _Found:
    from safetensors import SafetensorError, safe_open

    found = _Found()
    try:
        with safe_open(path, framework="numpy") as file:  # checks the header: sizes, offsets, dtypes
            found.metadata = (file.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise ModelError(f"not a valid safetensors file ({error})", context=path, hint=_COPY_AGAIN) from error
    with open(path, "rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(size))
        header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r") if os.path.getsize(path) else np.empty(0, np.uint8)
    for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, word = tuple(entry["shape"]), entry["dtype"]
        if word not in _DTYPES:
            found.refused[key] = f"values of type {word} are not read"
            continue
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        dtype = dtype_of(_DTYPES[word])
        found.entries[key] = (shape, dtype.name, _Slice(data, start, end, dtype, shape))
    return found


class _Slice:
    """Loads one array of a mapped file: a read-only view where it is aligned, else a copy."""

    def __init__(self, data: Array, start: int, end: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._raw, self._dtype, self._shape = data[start:end].view(np.ndarray), dtype, shape

    def __call__(self) -> Array:
        array = self._raw.view(self._dtype).reshape(self._shape)
        return array if array.flags.aligned else array.copy()


def _open_npz(path: str) -> _Found:
    found = _Found()
    file = open(path, "rb")  # noqa: SIM115 - kept open by the values, which are read later
    try:
        with damage("is damaged"):
            archive = zipfile.ZipFile(file)
            weakref.finalize(archive, file.close)
    except ValueError as error:
        file.close()
        raise ModelError(f"not a valid npz file ({error.__cause__})", context=path, hint=_COPY_AGAIN) from error
    for member in archive.infolist():
        key = member.filename.removesuffix(".npy")
        if key in found.entries or key in found.refused:
            raise ModelError(
                f"holds {key!r} twice", context=path, hint="which one is meant cannot be told: write it again"
            )
        load = _Member(archive, member, path)
        if key == member.filename and not load.is_array():  # TPU-MLIR writes arrays without the suffix
            found.refused[key] = "not an array"
            continue
        shape, dtype = load.header()
        if dtype.hasobject:
            hint = "save it again as a plain array of numbers"
            raise ModelError(f"{key!r} holds Python objects, which are not read", context=path, hint=hint)
        if key == METADATA_MEMBER:
            found.metadata = load().tobytes().decode("utf-8", "replace")
        elif not plain_dtype(dtype):
            found.refused[key] = f"values of type {dtype} are not read"
        else:
            found.entries[key] = (shape, dtype.name, load)
    return found


class _Member:
    """Loads one .npy member of a zip."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str) -> None:
        self._archive, self._member, self._path = archive, member, path

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with damage("is damaged"):
                file = self._archive.open(self._member)
            with file:
                yield file
        except ValueError as error:
            fact = f"{self._member.filename!r} {error}"
            raise ModelError(fact, context=self._path, hint=_COPY_AGAIN) from error

    def is_array(self) -> bool:
        with self._opened() as file, damage("is damaged"):
            return bool(file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX)

    def header(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """(shape, dtype), checked against the member's size before anything is allocated for it."""
        with self._opened() as file:
            shape, _, dtype = npy_header(file)
            if not dtype.hasobject and file.tell() + math.prod(shape) * dtype.itemsize > self._member.file_size:
                raise ValueError("is cut short")
            return shape, dtype

    def __call__(self) -> Array:
        with self._opened() as file:
            return read_npy(file, self._member.file_size)
