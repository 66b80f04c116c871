"""The store past its budget, and trace files: ours back bit for bit, anyone's as they are, damaged ones refused."""

from __future__ import annotations

import io
import json
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from aligndbg.core.errors import ModelError, UnsupportedError, UsageError
from aligndbg.core.types import Graph, ModelInfo, Node, Quant, TensorInfo, Trace
from aligndbg.trace.reader import read_trace
from aligndbg.trace.store import Store
from aligndbg.trace.writer import write_trace

Array = np.ndarray[Any, np.dtype[Any]]
SUFFIXES = pytest.mark.parametrize("suffix", [".safetensors", ".npz"])

DTYPES = [
    *(np.dtype(name) for name in ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16")),
    *(
        np.dtype(getattr(ml_dtypes, name))
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "int4", "uint4", "float4_e2m1fn")
    ),
]


def sample(dtype: np.dtype[Any], shape: tuple[int, ...] = (3, 5)) -> Array:
    return (np.arange(np.prod(shape)) % 2).reshape(shape).astype(dtype)


def same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


# ---- Store


@pytest.mark.parametrize("budget", [None, 0, 100])
def test_a_store_gives_back_every_dtype(budget: int | None) -> None:
    arrays = {f"{dtype}{shape}": sample(dtype, shape) for dtype in DTYPES for shape in ((3, 5), (), (0, 2))}
    with Store(budget) as store:
        for name, array in arrays.items():
            store.put(name, array)
        assert list(store) == list(arrays)
        assert all(same(store[name], array) for name, array in arrays.items())
        assert store.nbytes == sum(array.nbytes for array in arrays.values())
        assert (store.spilled_bytes > 0) == (budget is not None)


@given(
    st.integers(0, 2000),
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 7), max_size=3)), max_size=9),
)
def test_a_store_stays_within_its_budget(budget: int, specs: list[tuple[np.dtype[Any], list[int]]]) -> None:
    with Store(budget) as store:
        for i, (dtype, shape) in enumerate(specs):
            store.put(str(i), sample(dtype, tuple(shape)))
        assert store.resident_bytes <= budget
        assert store.resident_bytes + store.spilled_bytes == store.nbytes
        assert all(same(store[str(i)], sample(dtype, tuple(shape))) for i, (dtype, shape) in enumerate(specs))


@pytest.mark.parametrize("budget", [None, 0])
def test_what_a_store_gives_is_read_only_and_outlives_it(budget: int | None) -> None:
    store = Store(budget)
    store.put("x", np.arange(1000.0))
    value = store["x"]
    store.close()
    assert value.sum() == 499500
    with pytest.raises(ValueError, match="read-only"):
        value[0] = 1
    assert len(store) == store.nbytes == 0
    with pytest.raises(KeyError):
        store["x"]


def test_spilled_arrays_keep_their_layouts() -> None:
    with Store(0) as store:
        store.put("fortran", np.asfortranarray(np.arange(12).reshape(3, 4)))
        store.put("strided", np.arange(100)[::7])
        assert store["fortran"].tolist() == np.arange(12).reshape(3, 4).tolist()
        assert store["strided"].tolist() == list(range(0, 100, 7))


def test_spilled_arrays_are_read_while_others_are_put() -> None:
    """By one thread; where reading moved the file's position, what is put would land in the wrong place."""
    arrays = {str(k): np.full(5000, k, np.int32) for k in range(400)}
    over = threading.Event()
    with Store(0) as store:
        store.put("first", np.arange(5000))

        def read() -> None:
            while not over.is_set():
                assert store["first"][-1] == 4999

        reader = threading.Thread(target=read)
        reader.start()
        for name, array in arrays.items():
            store.put(name, array)
        over.set()
        reader.join()
        assert all(same(store[name], array) for name, array in arrays.items())


def test_text_stays_in_memory() -> None:
    with Store(0) as store:
        store.put("text", np.array(["a", "b"], object))
        assert store["text"].tolist() == ["a", "b"]


def test_a_name_twice_is_refused() -> None:
    store = Store()
    store.put("x", np.zeros(1))
    with pytest.raises(UsageError, match="'x' is in the store already"):
        store.put("x", np.zeros(1))


def test_no_room_to_spill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="no room to spill the 8 bytes of 'x'"):
        Store(0).put("x", np.zeros(1))


# ---- our own trace files

NAMES = [
    "plain",
    "a/b:0",
    "../../etc/passwd",
    "/absolute",
    "naïve 名前",
    "x.npy",
    "x",
    "feed:x",
    "aligndbg:0",
    "back\\slash",
]
NAMES += [
    "__aligndbg__",
    "__metadata__",
    "nul\0byte",
    "surrogate\udc80",
    "",
    "net/relu;net/conv",
    "a" * 3000,
    "é" * 40_000,
]


def full_trace() -> Trace:
    """Everything that a trace can hold."""
    values: dict[str, Array] = {str(dtype): sample(dtype) for dtype in DTYPES}
    values |= {name: np.full((2, i + 1), i, np.float32) for i, name in enumerate(NAMES)}
    values |= {"scalar": np.array(2.5), "empty": np.empty((0, 3), np.int8), "nan": np.array([np.nan, -0.0, np.inf])}
    values |= {"fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "bytes": sample(np.dtype("u1"), (3,))}
    attributes = {
        "pads": [0, 1],
        "value": np.arange(3, dtype=np.float16),
        "brain": np.ones(2, ml_dtypes.bfloat16),
        "raw": b"\0\xff",
        "nan": float("nan"),
        "scalar": np.float32(0.5),
        "words": ["a", "b"],
    }
    quant = Quant(np.array([0.5, 0.25], np.float32), np.array([1, -2]), 0)
    graph = Graph(
        nodes=(
            Node("CONV_2D", "conv", ("x", "w", ""), ("plain",), attributes, "net.conv", "Conv"),
            Node("Relu", "relu", ("plain",), ("a/b:0", "")),
        ),
        tensors={
            "x": TensorInfo("x", ("batch", None, 3), "float32"),
            "plain": TensorInfo("plain", (2, 1), "int8", quant),
            "w": TensorInfo("w"),
        },
        inputs=("x",),
        outputs=("a/b:0",),
        constants=frozenset({"w"}),
        untapped={"inner": "inside a Loop body"},
        opset=17,
        notes=("it is in training mode",),
    )
    info = ModelInfo("models/é.onnx", "onnx", "1.2", {"threads": "1"})
    feeds = {"x": values["x"].copy(), "other": np.arange(4, dtype=np.int16), "nul\0": np.zeros(1)}
    return Trace(info, graph, values, feeds, tuple(values), {"inner": "inside a Loop body"})


@SUFFIXES
def test_a_trace_comes_back_whole(tmp_path: Path, suffix: str) -> None:
    trace, path = full_trace(), tmp_path / f"t{suffix}"
    write_trace(path, trace)
    again = read_trace(path)
    assert again.order == trace.order == tuple(again.values)
    assert [name for name in trace.order if not same(again.values[name], trace.values[name])] == []
    assert trace.feeds is not None
    assert again.feeds is not None
    assert list(again.feeds) == list(trace.feeds)
    assert all(same(again.feeds[name], trace.feeds[name]) for name in trace.feeds)
    assert (again.info, dict(again.missing)) == (trace.info, trace.missing)
    one, other = again.graph, trace.graph
    assert (one.inputs, one.outputs, one.constants, one.untapped) == (
        other.inputs,
        other.outputs,
        other.constants,
        other.untapped,
    )
    assert (one.opset, one.notes) == (17, other.notes)
    assert one.nodes[1] == other.nodes[1]
    assert (one.nodes[0].inputs, one.nodes[0].scope, one.nodes[0].canonical) == (("x", "w", ""), "net.conv", "Conv")
    assert {key: str(value) for key, value in one.nodes[0].attributes.items()} == {
        key: str(value) for key, value in other.nodes[0].attributes.items()
    }
    assert one.nodes[0].attributes["brain"].dtype == ml_dtypes.bfloat16
    assert (one.tensors["x"], one.tensors["w"]) == (other.tensors["x"], other.tensors["w"])
    quant = again.quant("plain")
    assert quant is not None
    assert (quant.scale.tolist(), quant.zero_point.tolist(), quant.axis) == ([0.5, 0.25], [1, -2], 0)
    assert (quant.scale.dtype, quant.zero_point.dtype) == (np.float32, np.int64)


@SUFFIXES
def test_a_copy_of_a_copy_is_the_same_file(tmp_path: Path, suffix: str) -> None:
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    write_trace(one, full_trace())
    write_trace(other, read_trace(one))
    assert one.read_bytes() == other.read_bytes()


@SUFFIXES
def test_a_trace_of_big_endian_values(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    trace = Trace(ModelInfo("m", "b"), Graph(), {"x": np.arange(3, dtype=">i4")}, None, ("x",))
    write_trace(path, trace)
    assert read_trace(path).values["x"].tolist() == [0, 1, 2]
    assert read_trace(path).feeds is None


def test_others_read_our_files_by_plain_names(tmp_path: Path) -> None:
    trace = full_trace()
    write_trace(tmp_path / "t.npz", trace)
    with np.load(tmp_path / "t.npz", allow_pickle=False) as npz:
        assert same(npz["a/b:0"], trace.values["a/b:0"])
        assert same(npz["feed:other"], np.arange(4, dtype=np.int16))
        assert "feed:x" not in npz  # the feed has the bits of the value x, and is not stored again
    write_trace(tmp_path / "t.safetensors", trace)
    with safe_open(tmp_path / "t.safetensors", framework="numpy") as file:
        assert same(file.get_tensor("a/b:0"), trace.values["a/b:0"])
        assert file.get_slice("bfloat16").get_dtype() == "BF16"
        assert file.get_slice("float8_e5m2").get_dtype() == "F8_E5M2"


@SUFFIXES
def test_text_is_listed_as_missing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    trace = Trace(ModelInfo("m", "b"), Graph(), {"s": np.array(["a"]), "x": np.zeros(1)}, {}, ("s", "x"))
    write_trace(path, trace)
    assert (read_trace(path).order, list(read_trace(path).missing)) == (("x",), ["s"])
    with pytest.raises(UnsupportedError, match="'s' holds text"):
        write_trace(path, Trace(ModelInfo("m", "b"), Graph(), {}, {"s": np.array(["a"])}, ()))


@SUFFIXES
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    write_trace(path, full_trace())
    before = path.read_bytes()

    class Failing(dict[str, Array]):
        asked = 0

        def __getitem__(self, name: str) -> Array:
            self.asked += 1
            if self.asked > 1:
                raise ModelError("gone")
            return np.zeros(3)

    with pytest.raises(ModelError, match="gone"):
        write_trace(path, Trace(ModelInfo("m", "b"), Graph(), Failing(), None, ("x",)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_where_a_trace_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"kind of trace from '\.zip'"):
        write_trace(tmp_path / "t.zip", full_trace())
    with pytest.raises(UsageError, match="cannot write"):
        write_trace(tmp_path / "no" / "t.npz", full_trace())
    with pytest.raises(UsageError, match=r"kind of trace from '\.zip'"):
        read_trace(tmp_path / "t.zip")


# ---- anyone's files


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


# ---- damaged files


def npz_with(member: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, data)
    return buffer.getvalue()


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


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
