"""Anyone's files as they are, damaged ones refused."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from aligndbg.core.errors import ModelError
from aligndbg.core.types import Graph, ModelInfo, TensorInfo, Trace
from aligndbg.trace.reader import read_trace
from aligndbg.trace.writer import write_trace
from traces import SUFFIXES, full_trace, npy, npz_with, same, sample


def test_a_plain_npz(tmp_path: Path) -> None:
    path = tmp_path / "dump.npz"
    arrays = {"b/conv_Conv": sample(np.dtype("f4")), "a": np.arange(3), "名": np.array(1.5), "empty": np.empty((0,))}
    np.savez_compressed(path, **arrays, words=np.array(["x"]))
    trace = read_trace(path)
    assert trace.order == tuple(arrays)
    assert all(same(trace.values[name], array) for name, array in arrays.items())
    assert (trace.feeds, trace.graph.nodes) == (None, ())
    assert trace.graph.tensors["a"] == TensorInfo("a", (3,), "int64")
    assert list(trace.missing) == ["words"]


def test_an_npz_whose_members_lack_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "dump.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("load_0_actual", npy(np.arange(3)))
        archive.writestr("README", b"text")
    trace = read_trace(path)
    assert trace.order == ("load_0_actual",)
    assert trace.values["load_0_actual"].tolist() == [0, 1, 2]
    assert trace.missing == {"README": "not an array"}


def test_a_plain_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "dump.safetensors"
    arrays = {"b": sample(np.dtype("f4")), "a": np.arange(3), "h": sample(np.dtype(ml_dtypes.bfloat16))}
    save_file(arrays, path, metadata={"format": "pt"})
    trace = read_trace(path)
    assert set(trace.order) == set(arrays)
    assert all(same(trace.values[name], array) for name, array in arrays.items())
    assert trace.graph.tensors["h"].dtype == "bfloat16"


def test_unaligned_safetensors_values(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        }
    ).encode()
    path = tmp_path / "t.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes([1, 2, 3]) + np.float32([4, 5]).tobytes())
    value = read_trace(path).values["b"]
    assert value.tolist() == [4, 5]
    assert value.flags.aligned
    assert load_file(path)["b"].tolist() == [4, 5]


def test_bfloat16_saved_by_numpy_is_not_guessed(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.ones(2, ml_dtypes.bfloat16), y=np.ones(2))
    trace = read_trace(tmp_path / "t.npz")
    assert trace.order == ("y",)
    assert "not read" in trace.missing["x"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        b"not a zip at all" * 10,
        npz_with("x.npy", b"short"),
        npz_with("x.npy", npy(np.zeros(100))[:-50]),
        npz_with("x.npy", npy(np.array([{}], object))),
        npz_with("x.npy", npy(np.zeros(1)).replace(b"(1,)", b"(10**99,)".ljust(4))),
        npz_with("x.npy", npy(np.zeros(1)).replace(b"(1,), }     ", b"(9999999999,), }")),
    ],
    ids=["empty", "stub", "text", "short_member", "cut_member", "objects", "bad_shape", "huge_shape"],
)
def test_a_damaged_npz(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.npz"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_trace(path)
    assert caught.value.context == str(path)
    assert caught.value.hint


def _twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", npy(np.array(1)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", npy(np.array(2)))
    return buffer.getvalue()


def test_an_npz_with_a_name_twice(tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_bytes(_twice())
    with pytest.raises(ModelError, match="holds 'x' twice"):
        read_trace(tmp_path / "t.npz")


@SUFFIXES
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1], lambda b: b[:9]])
def test_a_truncated_trace(tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"t{suffix}"
    write_trace(path, full_trace())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError):
        read_trace(path)


def test_a_flipped_byte_in_an_npz_value(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, x=np.full(1000, 7.25))
    data = bytearray(path.read_bytes())
    data[1000] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"'x\.npy' is damaged"):
        read_trace(path).values["x"]


@SUFFIXES
@given(st.data())
def test_flipped_bytes_never_escape_as_other_errors(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / f"t{suffix}"
    trace = Trace(ModelInfo("m", "b"), Graph(), {"x": np.arange(5.0), "y": np.ones(2, np.int8)}, {}, ("x", "y"))
    write_trace(path, trace)
    raw = bytearray(path.read_bytes())
    for _ in range(3):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        again = read_trace(path)
        for name in again.values:
            _ = again.values[name]
    except ModelError:
        pass


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "no.npz", tmp_path / "no.safetensors"):
        with pytest.raises(ModelError, match="no such file"):
            read_trace(path)
        path.mkdir()
        with pytest.raises(ModelError):
            read_trace(path)
