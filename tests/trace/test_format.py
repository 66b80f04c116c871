"""The metadata of a trace file, damaged."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aligndbg.core.errors import ModelError
from aligndbg.core.types import Graph, ModelInfo, Trace
from aligndbg.trace.reader import read_trace
from aligndbg.trace.writer import write_trace
from traces import npy, npz_with

METADATA = [
    "{",
    "[]",
    "{}",
    '{"schema": "aligndbg.trace/1"}',
    '{"schema": "aligndbg.trace/9"}',
    "[" * 100_000,
    '"text"',
]


@pytest.mark.parametrize("text", METADATA)
def test_damaged_metadata(tmp_path: Path, text: str) -> None:
    npz, safetensors = tmp_path / "t.npz", tmp_path / "t.safetensors"
    npz.write_bytes(npz_with("__aligndbg__.npy", npy(np.frombuffer(text.encode(), np.uint8))))
    save_file({"x": np.zeros(1)}, safetensors, metadata={"aligndbg": text})
    for path in (npz, safetensors):
        with pytest.raises(ModelError, match=r"metadata is damaged|another version"):
            read_trace(path)


def test_metadata_that_names_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    write_trace(path, Trace(ModelInfo("m", "b"), Graph(), {"x": np.zeros(1)}, None, ("x",)))
    with zipfile.ZipFile(path) as archive:
        metadata = archive.read("__aligndbg__.npy")
    path.write_bytes(npz_with("__aligndbg__.npy", metadata))
    with pytest.raises(ModelError, match="metadata is damaged"):
        read_trace(path)
