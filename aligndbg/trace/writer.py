"""Writes trace files.

Values lie under their own names, so that every reader of the format finds them; the rest is JSON beside them.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from aligndbg.core.arrays import bytes_of, plain_dtype, write_all
from aligndbg.core.errors import UnsupportedError, UsageError
from aligndbg.core.files import replacing
from aligndbg.core.types import Array, Trace
from aligndbg.trace.format import (
    KINDS,
    METADATA_KEY,
    METADATA_MEMBER,
    SCHEMA,
    WORDS,
    as_integers,
    graph_to_json,
    to_json,
)

__all__ = ["write_trace"]

FEED = "feed:"  # before the name of a feed that is not among the values
MAX_HEADER = 100_000_000  # the safetensors format's own limit
LONGEST_NAME = 60_000  # bytes; a zip file's entries have room for 65,535

Member = tuple[np.dtype[Any], tuple[int, ...], Callable[[], Array]]


def write_trace(path: str | os.PathLike[str], trace: Trace) -> None:
    """Writes .safetensors or .npz, one array in memory at a time, under a temporary name that is renamed at the end.

    Values of text go to `missing`. Raises UsageError for another suffix or a place that cannot be written,
    UnsupportedError for a feed of text.
    """
    target = Path(path)
    known = {".safetensors": (_write_safetensors, WORDS), ".npz": (_write_npz, _NPZ_DTYPES)}
    if target.suffix.lower() not in known:
        raise UsageError(f"cannot tell the kind of trace from {target.suffix!r}", context=str(path), hint=KINDS)
    write, native = known[target.suffix.lower()]
    members, metadata = _plan(trace, native)
    with replacing(target) as file:
        write(file, members, json.dumps(metadata, default=to_json))


def _plan(trace: Trace, native: Mapping[str, str]) -> tuple[dict[str, Member], dict[str, Any]]:
    """What the file will hold, and the metadata that makes a Trace of it again."""
    members: dict[str, Member] = {}
    dtypes: dict[str, str] = {}
    keys: dict[str, str] = {}
    feeds: dict[str, str] = {}
    missing = dict(trace.missing)

    def add(source: Mapping[str, Array], name: str, array: Array, prefix: str = "") -> str:
        key = prefix + name
        if not _portable(name) or key in members:
            key = f"{METADATA_KEY}:{len(members)}"
        if array.dtype.name in native:
            members[key] = array.dtype, array.shape, lambda: source[name]
        else:
            dtypes[key], stored = array.dtype.name, as_integers(array)
            members[key] = stored.dtype, stored.shape, lambda: as_integers(source[name])
        return key

    for name in dict.fromkeys(trace.order):
        value = trace.values[name]
        if plain_dtype(value.dtype):
            keys[name] = add(trace.values, name, value)
        else:
            missing[name] = "text is not stored in a trace file"
    for name, feed in (trace.feeds or {}).items():
        if not plain_dtype(feed.dtype):
            raise UnsupportedError(f"the feed {name!r} holds text, which a trace file does not keep")
        same = name in keys and _same_bits(trace.values[name], feed)
        feeds[name] = keys[name] if same else add(trace.feeds or {}, name, feed, FEED)
    return members, {
        "schema": SCHEMA,
        "info": {**vars(trace.info), "options": dict(trace.info.options)},
        "graph": graph_to_json(trace.graph),
        "order": list(keys),
        "keys": {name: key for name, key in keys.items() if key != name},
        "dtypes": dtypes,
        "feeds": None if trace.feeds is None else feeds,
        "missing": missing,
    }


def _portable(name: str) -> bool:
    """False for a name that a zip or a JSON header would change or refuse, or that begins like one of ours."""
    if not name or name.startswith((FEED, f"{METADATA_KEY}:", METADATA_MEMBER, "__metadata__")):
        return False
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # TFLite's names need not be UTF-8
        return False
    return "\0" not in name and "\\" not in name and size <= LONGEST_NAME


def _same_bits(one: Array, other: Array) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and np.array_equal(bytes_of(one), bytes_of(other))


def _write_safetensors(file: IO[bytes], members: Mapping[str, Member], metadata: str) -> None:
    """The format by hand, because the package's own writer wants every tensor in memory at once."""
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: metadata}}
    keys = sorted(members, key=lambda key: -members[key][0].itemsize)  # so that each is aligned to its dtype
    end = 0
    for key in keys:
        dtype, shape, _ = members[key]
        span = [end, end := end + math.prod(shape) * dtype.itemsize]
        header[key] = {"dtype": WORDS[dtype.name], "shape": shape, "data_offsets": span}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise UnsupportedError("the graph is too large for a safetensors header", hint="write .npz")
    file.write(len(text).to_bytes(8, "little") + text)
    for key in keys:
        write_all(file, bytes_of(_little(members[key][2]())))


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.kind in "biufc" else array


_NPZ_DTYPES = {name: name for name in WORDS if not name.startswith(("bfloat", "float8"))} | {
    name: name for name in ("complex64", "complex128")
}


def _write_npz(file: IO[bytes], members: Mapping[str, Member], metadata: str) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:

        def write(key: str, array: Array) -> None:
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

        write(METADATA_MEMBER, np.frombuffer(metadata.encode(), np.uint8))
        for key, (_, _, load) in members.items():
            write(key, load())
