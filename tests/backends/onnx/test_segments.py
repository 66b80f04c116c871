"""Runs in segments: the same values as one session's, to the last bit, with little held at a time."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aligndbg.backends import base, segments
from aligndbg.backends.onnx import session as onnx_
from aligndbg.backends.onnx.backend import OnnxBackend
from aligndbg.backends.onnx.session import make_session
from aligndbg.core.types import Array

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def value(name: str, dtype: int = FLOAT, shape: Any = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def save(path: Path, nodes: Any, inputs: Any, outputs: Any, initializers: Any = (), opset: int = 21) -> str:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path / "m.onnx")
    return str(path / "m.onnx")


def run(path: str, feeds: Any, limit: int, monkeypatch: Any, overrides: Any = None) -> tuple[dict[str, Array], int]:
    """All values, and in how many segments they were computed."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", limit)
    backend = OnnxBackend(path, {})
    found = dict(backend.run(feeds, backend.graph().tappable(), overrides))
    (kept,) = backend._runs.values()
    return found, len(kept.run._segments)


def check_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("name", ["cnn", "cnn_opset_b", "attention", "lstm"])
def test_segments_give_the_bits_and_the_order_of_one_session(fixtures: Path, name: str, monkeypatch: Any) -> None:
    path = str(fixtures / f"{name}.onnx")
    graph = OnnxBackend(path, {}).graph()
    feeds = {
        n: RNG.standard_normal([d if isinstance(d, int) else 1 for d in graph.tensors[n].shape or ()], np.float32)
        for n in graph.inputs
    }
    expected, one = run(path, feeds, 1 << 40, monkeypatch)
    found, many = run(path, feeds, 1, monkeypatch)
    assert (one, many > 5) == (1, True)
    check_same(found, expected)
    own = {n: a for n, a in expected.items() if a.dtype == np.float32 and n not in graph.outputs}
    overridden, many = run(path, feeds, 1, monkeypatch, own)
    assert many > 5
    check_same(overridden, expected)


def test_what_computes_a_constant_goes_with_every_segment_that_reads_it(tmp_path: Path, monkeypatch: Any) -> None:
    """Reshape's shape computed from constants, in another segment than the Reshapes."""
    nodes = [
        helper.make_node("Constant", [], ["half"], value_ints=[2]),
        helper.make_node("Concat", ["half", "rest"], ["shape"], axis=0),
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["y"]),
    ]
    rest = numpy_helper.from_array(np.int64([-1]), "rest")
    path = save(tmp_path, nodes, [value("x", shape=[4, 3])], [value("y")], [rest])
    x = RNG.standard_normal((4, 3), np.float32)
    found, many = run(path, {"x": x}, 1, monkeypatch)
    assert many == 6
    np.testing.assert_array_equal(found["y"], x.reshape(2, 6))


def test_values_that_onnx_runtime_holds_wider_than_they_are_are_not_cut(tmp_path: Path, monkeypatch: Any) -> None:
    """float16 on a CPU stays float32 between nodes: passed from session to session it would be rounded."""
    weights = [RNG.standard_normal((32, 32)).astype(np.float16) / 6 for _ in range(4)]
    nodes, last = [], "x"
    for k in range(4):
        nodes.append(helper.make_node("MatMul", [last, f"w{k}"], [f"m{k}"]))
        nodes.append(helper.make_node("Tanh", [f"m{k}"], [last := f"t{k}"]))
    stored = [numpy_helper.from_array(array, f"w{k}") for k, array in enumerate(weights)]
    half = TensorProto.FLOAT16
    path = save(tmp_path, nodes, [value("x", half, [4, 32])], [value(last, half)], stored)
    feeds = {"x": RNG.standard_normal((4, 32)).astype(np.float16)}
    expected, _ = run(path, feeds, 1 << 40, monkeypatch)
    found, many = run(path, feeds, 1, monkeypatch)
    assert many == 1
    check_same(found, expected)


def test_sequences_stay_in_one_segment_and_bodies_read_across(tmp_path: Path, monkeypatch: Any) -> None:
    body = helper.make_graph([helper.make_node("Add", ["a", "a"], ["sum"])], "then", [], [value("sum")])
    other = helper.make_graph([helper.make_node("Neg", ["a"], ["minus"])], "else", [], [value("minus")])
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("SplitToSequence", ["a"], ["parts"], axis=0),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("SequenceAt", ["parts", "first"], ["c"]),
        helper.make_node("Sigmoid", ["b"], ["d"]),
        helper.make_node("If", ["yes"], ["e"], then_branch=body, else_branch=other),
        helper.make_node("Add", ["e", "d"], ["y"]),
    ]
    stored = [numpy_helper.from_array(np.int64(0), "first"), numpy_helper.from_array(np.bool_(True), "yes")]
    path = save(tmp_path, nodes, [value("x", shape=[4, 3])], [value("y"), value("c")], stored)
    feeds = {"x": RNG.standard_normal((4, 3), np.float32)}
    expected, _ = run(path, feeds, 1 << 40, monkeypatch)
    found, many = run(path, feeds, 1, monkeypatch)
    assert many == 5  # SplitToSequence to SequenceAt are one
    check_same(found, expected)


def test_large_sessions_go_once_they_were_read(tmp_path: Path, monkeypatch: Any) -> None:
    nodes, last, stored = [], "x", []
    for k in range(6):
        stored.append(numpy_helper.from_array(RNG.standard_normal((128, 128)).astype(np.float32), f"w{k}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{k}"], [last := f"m{k}"]))
    path = save(tmp_path, nodes, [value("x", shape=[4, 128])], [value(last)], stored)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 3 * 128 * 128 * 4)
    monkeypatch.setattr(base, "LARGE_FILE", 0)
    backend = OnnxBackend(path, {})
    alive: list[Any] = []
    made = make_session

    def watched(*args: Any, **options: Any) -> Any:
        session = made(*args, **options)
        alive.append(weakref.ref(session))
        return session

    monkeypatch.setattr(onnx_, "make_session", watched)
    most = 0
    for _ in backend.run({"x": np.ones((4, 128), np.float32)}, [f"m{k}" for k in range(6)]):
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
    assert len(alive) == 6
    assert most == 0  # its values are all that is left of a session when they are read


def test_a_value_that_its_reader_overwrites_is_passed_on_as_it_was(fixtures: Path, monkeypatch: Any) -> None:
    path = str(fixtures / "cnn.onnx")
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)
    backend = OnnxBackend(path, {})
    graph = backend.graph()
    feeds = {"input": RNG.standard_normal(graph.tensors["input"].shape, np.float32)}
    expected = dict(backend.run(feeds, graph.tappable()))
    for name, array in backend.run(feeds, graph.tappable()):
        np.testing.assert_array_equal(array, expected[name])
        array[...] = 0


def test_a_backend_that_is_bound_to_less_cuts_smaller_segments(fixtures: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(segments, "LEAST_BYTES", 1000)
    backend = OnnxBackend(str(fixtures / "cnn.onnx"), {})
    graph = backend.graph()
    feeds = {"input": RNG.standard_normal(graph.tensors["input"].shape, np.float32)}
    expected = dict(backend.run(feeds, graph.tappable()))
    counts = []
    for nbytes in (1 << 30, 200_000, 20_000, 1, 1 << 30):
        backend.bound(nbytes)
        check_same(dict(backend.run(feeds, graph.tappable())), expected)
        (kept,) = backend._runs.values()
        counts.append(len(kept.run._segments))
    assert counts[0] == counts[-1] == 1
    assert 1 < counts[1] < counts[2] < counts[3] < len(graph.nodes)


def test_sessions_stay_where_another_bound_changes_no_segment(fixtures: Path) -> None:
    """Each sample has a budget of its own: a share of what is free at the time."""
    backend = OnnxBackend(str(fixtures / "cnn.onnx"), {})
    graph = backend.graph()
    feeds = {"input": RNG.standard_normal(graph.tensors["input"].shape, np.float32)}
    kept: list[object] = []
    for nbytes in (1 << 30, (1 << 30) + 1):
        backend.bound(nbytes)
        dict(backend.run(feeds, graph.tappable()))
        kept += backend._runs.values()
    assert len(kept) == 2
    assert kept[0] is kept[1]
