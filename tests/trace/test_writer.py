"""Our own trace files: written whole or not at all, and back bit for bit."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from aligndbg.core.errors import ModelError, UnsupportedError, UsageError
from aligndbg.core.types import Graph, ModelInfo, Trace
from aligndbg.trace.reader import read_trace
from aligndbg.trace.writer import write_trace
from traces import SUFFIXES, Array, full_trace, same


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
