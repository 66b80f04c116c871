"""TFLite runs in segments: the same values as the whole model's, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as S

from aligndbg.backends import segments
from aligndbg.backends.tflite.backend import TfliteBackend
from aligndbg.core.types import Array
from tflite_builder import Builder

RNG = np.random.default_rng(0)


def opened(builder: Builder, folder: Path) -> TfliteBackend:
    return TfliteBackend(builder.save(folder / "m.tflite"), {})


def run(backend: TfliteBackend, feeds: Any, limit: int, monkeypatch: Any, overrides: Any = None) -> dict[str, Array]:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", limit)
    return dict(backend.run(feeds, backend.graph().tappable(), overrides))


def count_segments(backend: TfliteBackend, feeds: Any) -> int:
    taps = [backend._index[name] for name in backend.graph().tappable()]
    ops = backend._analysis.runnable
    return len(backend._segments(taps, {backend._index[name]: a for name, a in feeds.items()}, {}, ops))


def check_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def random_feeds(backend: TfliteBackend) -> dict[str, Array]:
    graph, feeds = backend.graph(), {}
    for name in graph.inputs:
        info = graph.tensors[name]
        shape = [d if isinstance(d, int) else 2 for d in info.shape or ()]
        feeds[name] = (100 * RNG.standard_normal(shape)).astype(info.dtype)
    return feeds


@pytest.mark.parametrize("kernels", ["xnn", "opt"])
@pytest.mark.parametrize("name", ["cnn", "cnn_fp16", "cnn_int8", "cnn_dynamic", "attention", "lstm"])
def test_segments_give_the_bits_and_the_order_of_the_whole(
    fixtures: Path, name: str, kernels: str, monkeypatch: Any
) -> None:
    backend = TfliteBackend(str(fixtures / f"{name}.tflite"), {"kernels": kernels})
    feeds = random_feeds(backend)
    expected = run(backend, feeds, 1 << 40, monkeypatch)
    found = run(backend, feeds, 1, monkeypatch)
    assert count_segments(backend, feeds) >= 5
    check_same(found, expected)
    own = {n: a for n, a in expected.items() if n not in backend.graph().outputs}
    check_same(run(backend, feeds, 1, monkeypatch, own), run(backend, feeds, 1 << 40, monkeypatch, own))


def test_a_square_stays_with_its_mean(tmp_path: Path, monkeypatch: Any) -> None:
    """XNNPACK computes the two in one; apart they have other last bits."""
    builder = Builder()
    graph = builder.subgraph()
    x, y, z, out = (graph.tensor(name, (1, 64, 64)) for name in ("x", "y", "square", "out"))
    mean = graph.tensor("mean", (1, 64, 1))
    axis = graph.constant("axis", np.int32([2]))
    graph.op("TANH", [x], [y])
    graph.op("MUL", [y, y], [z], S.MulOptionsT())
    options = S.ReducerOptionsT()
    options.keepDims = True
    graph.op("MEAN", [z, axis], [mean], options)
    graph.op("NEG", [z], [out])
    graph.io([x], [out, mean])
    backend = opened(builder, tmp_path)
    feeds = {"x": RNG.standard_normal((1, 64, 64)).astype(np.float32)}
    expected = run(backend, feeds, 1 << 40, monkeypatch)
    found = run(backend, feeds, 1, monkeypatch)
    assert count_segments(backend, feeds) == 2  # TANH; the square and what reads it
    check_same(found, expected)


def test_a_model_that_keeps_state_is_not_cut(tmp_path: Path, monkeypatch: Any) -> None:
    builder = Builder()
    graph = builder.subgraph()
    x, y, z = (graph.tensor(name, (1, 4)) for name in ("x", "y", "z"))
    graph.op("NEG", [x], [y])
    graph.op("RANDOM_UNIFORM", [graph.constant("shape", np.int32([1, 4]))], [z], S.RandomOptionsT())
    graph.io([x], [y, z])
    backend = opened(builder, tmp_path)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)
    assert count_segments(backend, {"x": np.ones((1, 4), np.float32)}) == 1


def test_values_without_elements_are_passed_on(tmp_path: Path, monkeypatch: Any) -> None:
    builder = Builder()
    graph = builder.subgraph()
    x, y, z = graph.tensor("x", (0, 4)), graph.tensor("y", (0, 4)), graph.tensor("z", (0, 4))
    a, b = graph.tensor("a", (1, 4)), graph.tensor("b", (1, 4))
    graph.op("NEG", [x], [y])
    graph.op("NEG", [a], [b])
    graph.op("NEG", [y], [z])
    graph.io([x, a], [z, b])
    backend = opened(builder, tmp_path)
    feeds = {"x": np.ones((0, 4), np.float32), "a": np.ones((1, 4), np.float32)}
    expected = run(backend, feeds, 1 << 40, monkeypatch)
    check_same(run(backend, feeds, 1, monkeypatch), expected)
    assert expected["z"].shape == (0, 4)


def test_sizes_of_dynamic_tensors_follow_the_feed(tmp_path: Path, monkeypatch: Any) -> None:
    """A file of one row that is fed a thousand is cut for what it then holds."""
    builder = Builder()
    graph = builder.subgraph()
    last = x = graph.tensor("x", (1, 16), signature=(-1, 16))
    for k in range(4):
        graph.op("NEG", [last], [last := graph.tensor(f"y{k}", (1, 16), signature=(-1, 16))])
    graph.io([x], [last])
    backend = opened(builder, tmp_path)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 3000)
    assert count_segments(backend, {"x": np.ones((1, 16), np.float32)}) == 1
    feeds = {"x": RNG.standard_normal((1000, 16)).astype(np.float32)}
    assert count_segments(backend, feeds) == 4
    np.testing.assert_array_equal(run(backend, feeds, 3000, monkeypatch)["y3"], feeds["x"])


def test_a_backend_that_is_bound_to_less_cuts_smaller_segments(fixtures: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(segments, "LEAST_BYTES", 1000)
    backend = TfliteBackend(str(fixtures / "cnn.tflite"), {})
    graph = backend.graph()
    (name,) = graph.inputs
    feeds = {name: RNG.standard_normal(graph.tensors[name].shape, np.float32)}
    expected = dict(backend.run(feeds, graph.tappable()))
    counts = []
    for nbytes in (1 << 30, 200_000, 20_000, 1, 1 << 30):
        backend.bound(nbytes)
        check_same(dict(backend.run(feeds, graph.tappable())), expected)
        counts.append(count_segments(backend, feeds))
    assert counts[0] == counts[-1] == 1
    assert 1 < counts[1] < counts[2] <= counts[3]
