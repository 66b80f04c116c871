"""The wire format of .onnx files: weights left where they lie, and nothing else changed."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from aligndbg.backends.onnx.file import LARGE, OnnxModel
from aligndbg.backends.onnx.wire import split
from aligndbg.core.errors import ModelError


def mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def model(arrays: dict[str, Any]) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    reads = [helper.make_node("Identity", [name], [f"{name}.out"]) for name in arrays]
    outputs = [helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, None) for name in arrays]
    return helper.make_model(helper.make_graph(reads, "g", [], outputs, stored), producer_name="é")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 6000), min_size=1, max_size=6))
def test_only_large_values_are_left_out_and_they_are_where_it_says(tmp_path: Path, sizes: list[int]) -> None:
    arrays = {f"w{k}": np.arange(size, dtype=np.float32) + k for k, size in enumerate(sizes)}
    proto, path = model(arrays), tmp_path / "m.onnx"
    onnx.save(proto, path)
    raw = mapped(path)
    lean, places = split(raw, LARGE)
    assert len(lean) < LARGE * (len(sizes) + 1)
    assert sorted(places) == [k for k, size in enumerate(sizes) if 4 * size >= LARGE]
    read = onnx.ModelProto.FromString(lean)
    for k, (start, stop) in places.items():
        assert not read.graph.initializer[k].HasField("raw_data")
        read.graph.initializer[k].raw_data = raw[start:stop]
    assert read == proto
    found = OnnxModel(str(path))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.constant(name), array)


def test_weights_are_not_copied_from_the_file(tmp_path: Path) -> None:
    onnx.save(model({"w": np.ones(LARGE, np.float32)}), tmp_path / "m.onnx")
    found = OnnxModel(str(tmp_path / "m.onnx"))
    assert np.shares_memory(found.weights["w"], np.frombuffer(found._file, np.uint8))


def test_a_graph_in_two_parts_is_left_to_the_parser(tmp_path: Path) -> None:
    """Protobuf merges a field that comes twice."""
    first, second = (model({f"w{k}": np.full(LARGE, k, np.float32)}) for k in (1, 2))
    path = tmp_path / "m.onnx"
    path.write_bytes(first.SerializeToString() + second.SerializeToString())
    with pytest.raises(ValueError, match="not one graph"):
        split(mapped(path), LARGE)
    found = OnnxModel(str(path))
    assert [found.constant(name)[0] for name in ("w1", "w2")] == [1, 2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_damaged_bytes_are_refused_or_read_as_the_parser_reads_them(tmp_path: Path, data: Any) -> None:
    raw = bytearray(model({"w": np.ones(LARGE, np.float32), "v": np.ones(3, np.float32)}).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.sampled_from([*range(200), *range(len(raw) - 200, len(raw))]))] = data.draw(
            st.integers(0, 255)
        )
    del raw[len(raw) - data.draw(st.integers(0, 300)) :]
    path = tmp_path / "m.onnx"
    path.write_bytes(raw)
    try:
        lean, places = split(mapped(path), LARGE)
    except ValueError:
        return
    try:
        expected = onnx.ModelProto.FromString(bytes(raw))
    except Exception:
        with pytest.raises(ModelError):
            OnnxModel(str(path))
        return
    read = onnx.ModelProto.FromString(lean)
    for k, (start, stop) in places.items():
        read.graph.initializer[k].raw_data = bytes(raw[start:stop])
    assert read == expected
