"""Changes of .npy and .npz files: headers that lie, members that are missing, doubled, packed or oddly named."""

from __future__ import annotations

import ast
import io
import json
import warnings
import zipfile
from random import Random

import numpy as np

from byte_mutations import mutate_bytes
from json_mutations import NAMES, dump, mutate_json

__all__ = ["mutate_npy", "mutate_npz"]

METADATA = "__aligndbg__.npy"
DESCRS = ("'<f4'", "'|O'", "'<U9999'", "'>f8'", "'<i0'", "'V3'", "[('a', '<f4')]", "'f'", "7", "'M8[ns]'", "''")
SHAPES = ("(-1,)", "(99999999999,)", "(1048576, 1048576, 1048576)", "(0,)", "()", "(1, 'a')", "1", "(1,)*70", "(True,)")


def mutate_npy(data: bytes, rng: Random) -> bytes:
    """The header's dtype, shape or order replaced, or the whole of it damaged."""
    size = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + size].decode("latin-1"), data[10 + size :]
    fields = {key: repr(value) for key, value in ast.literal_eval(header).items()}
    if rng.random() < 0.3:
        header = mutate_bytes(header.encode("latin-1"), rng).decode("latin-1")
    else:
        fields[rng.choice(("descr", "shape", "extra"))] = rng.choice(
            (*DESCRS, *SHAPES, "None", "'" + "x" * 60_000 + "'")
        )
        header = "{" + ", ".join(f"{key!r}: {value}" for key, value in fields.items()) + "}\n"
    raw = header.encode("latin-1")[:65_000]
    version = rng.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\7\0"))
    length = len(raw).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + length + raw + body


def mutate_npz(data: bytes, rng: Random) -> bytes:
    """The same archive with one to three of its members changed; often the one that holds our metadata."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = set(rng.sample(sorted(members), min(len(members), rng.choice((1, 1, 3)))))
    if METADATA in members and rng.random() < 0.4:
        chosen = {METADATA}
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", rng.choice((0, 0, 8, 12, 14))) as archive:
        warnings.simplefilter("ignore")  # a name given twice
        for name, content in members.items():
            for new_name, new in _changed(name, content, rng) if name in chosen else [(name, content)]:
                archive.writestr(zipfile.ZipInfo(new_name), new, compress_type=archive.compression)
    return out.getvalue()


def _changed(name: str, content: bytes, rng: Random) -> list[tuple[str, bytes]]:
    """What stands in the member's place: none, one or two."""
    if name == METADATA and rng.random() < 0.7:
        return [(name, _other_metadata(content, rng))]
    other_name = rng.choice(NAMES).encode("utf-8", "replace").decode()[:60_000] + ".npy"
    return rng.choice(
        (
            [(name, mutate_npy(content, rng))],
            [(name, mutate_bytes(content, rng))],
            [(other_name, content)],
            [(name, content), (name, content)],
            [],
        )
    )


def _other_metadata(member: bytes, rng: Random) -> bytes:
    text = dump(mutate_json(json.loads(np.load(io.BytesIO(member)).tobytes()), rng), rng)
    out = io.BytesIO()
    np.save(out, np.frombuffer(text, np.uint8))
    return out.getvalue()
