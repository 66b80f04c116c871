"""Every registered backend against the suite that is shipped for new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.backends.open import open_model
from aligndbg.backends.registry import REGISTRY
from aligndbg.core.errors import FeedError
from aligndbg.core.types import Backend
from aligndbg.testing.conformance import BackendConformance
from aligndbg.trace.capture import capture
from aligndbg.trace.writer import write_trace
from fake_tensorrt import install_fake_tensorrt

Feeds = dict[str, np.ndarray[Any, Any]]


def small_onnx(path: Path) -> Path:
    """Two inputs, a convolution, a branch that is joined again, a Shape that reads no values, an integer output."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu1"),
        helper.make_node("Add", ["relu", "y"], ["sum"], name="add1"),
        helper.make_node("Sigmoid", ["conv"], ["gate"], name="gate1"),
        helper.make_node("Mul", ["sum", "gate"], ["mul"], name="mul1"),
        helper.make_node("Shape", ["mul"], ["shape"], name="shape1"),
        helper.make_node("Reshape", ["mul", "shape"], ["out"], name="reshape1"),
        helper.make_node("ArgMax", ["mul"], ["best"], name="argmax1", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 8, 8]), ("y", [1, 4, 1, 1]))],
        [
            helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, 8, 8]),
            helper.make_tensor_value_info("best", TensorProto.INT64, [1, 1, 8, 8]),
        ],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def small_memory() -> MemoryBackend:
    weight = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    return MemoryBackend(
        inputs={"x": ("batch", 3), "y": (1, 4)},
        nodes=[
            MemoryNode("MatMul", np.matmul, ("x", "w"), ("mm",)),
            MemoryNode("Relu", lambda a: np.maximum(a, 0), ("mm",), ("relu",)),
            MemoryNode("Add", np.add, ("relu", "y"), ("sum",)),
            MemoryNode("Mul", np.multiply, ("sum", "relu"), ("mul",)),
            MemoryNode("Split", lambda a: np.split(a, 2, axis=1), ("mul",), ("left", "right")),
            MemoryNode("Shape", lambda a: np.array(a.shape), ("left",), ("shape",)),
            MemoryNode("Reshape", lambda a, s: a.reshape(s), ("right", "shape"), ("out",)),
        ],
        outputs=("out", "left"),
        constants={"w": weight},
    )


def onnx_feeds() -> Feeds:
    rng = np.random.default_rng(2)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in (("x", (1, 3, 8, 8)), ("y", (1, 4, 1, 1)))}


def memory_feeds() -> Feeds:
    rng = np.random.default_rng(3)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in (("x", (2, 3)), ("y", (1, 4)))}


def tflite_feeds(backend: Backend) -> Feeds:
    graph, rng = backend.graph(), np.random.default_rng(4)
    feeds: Feeds = {}
    for name in graph.inputs:
        info = graph.tensors[name]
        assert info.static_shape is not None
        value = rng.standard_normal(info.static_shape).astype(np.float32)
        feeds[name] = info.quant.quantize(value, info.dtype) if info.quant else value
    return feeds


class Shared(BackendConformance):
    """One backend for all the tests of a class: a worker takes a third of a second to start."""

    @pytest.fixture(scope="class")
    @classmethod
    def opener(cls) -> Callable[[], Backend]:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, opener: Callable[[], Backend]) -> Iterator[Backend]:  # type: ignore[override]
        backend = opener()
        yield backend
        backend.close()

    @pytest.fixture
    def disposable_backend(self, opener: Callable[[], Backend]) -> Backend:  # type: ignore[override]
        return opener()


class TestMemory(Shared):
    @pytest.fixture(scope="class")
    @classmethod
    def opener(cls) -> Callable[[], Backend]:
        return small_memory

    @pytest.fixture
    def feeds(self) -> Feeds:
        return memory_feeds()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"], scope="class")
@pytest.mark.parametrize("with_graph", [True, False], scope="class")
class TestRecorded(Shared):
    @pytest.fixture(scope="class")
    @classmethod
    def opener(cls, tmp_path_factory: pytest.TempPathFactory, suffix: str, with_graph: bool) -> Callable[[], Backend]:
        path = tmp_path_factory.mktemp("recorded") / f"trace{suffix}"
        trace = capture(small_memory(), memory_feeds())
        if with_graph:
            write_trace(path, trace)
        elif suffix == ".npz":
            np.savez(path, **trace.values)
        else:
            from safetensors.numpy import save_file

            save_file({name: value.copy() for name, value in trace.values.items()}, path)
        return lambda: open_model(path)

    @pytest.fixture
    def feeds(self) -> Feeds:
        return {}


@pytest.mark.parametrize("in_process", [True, False], ids=["in_process", "worker"], scope="class")
class TestOnnx(Shared):
    @pytest.fixture(scope="class")
    @classmethod
    def opener(cls, tmp_path_factory: pytest.TempPathFactory, in_process: bool) -> Callable[[], Backend]:
        path = small_onnx(tmp_path_factory.mktemp("onnx") / "small.onnx")
        return lambda: open_model(path, in_process=in_process)

    @pytest.fixture
    def feeds(self) -> Feeds:
        return onnx_feeds()


@pytest.mark.parametrize("model", ["cnn.tflite", "cnn_int8.tflite", "attention.tflite"], scope="class")
@pytest.mark.parametrize("in_process", [True, False], ids=["in_process", "worker"], scope="class")
class TestTflite(Shared):
    max_overrides = 8

    @pytest.fixture(scope="class")
    @classmethod
    def opener(cls, fixtures: Path, model: str, in_process: bool) -> Callable[[], Backend]:
        return lambda: open_model(fixtures / model, in_process=in_process)

    @pytest.fixture
    def feeds(self, backend: Backend) -> Feeds:  # type: ignore[override]
        return tflite_feeds(backend)


@pytest.mark.parametrize("strategy", ["debug", "outputs"], scope="class")
class TestTrtOnAFake(Shared):
    """ONNX Runtime computes what a GPU would: this says nothing of TensorRT itself."""

    max_overrides = 6
    lazy = False

    @pytest.fixture(scope="class")
    @classmethod
    def opener(cls, tmp_path_factory: pytest.TempPathFactory, strategy: str) -> Iterator[Callable[[], Backend]]:  # type: ignore[override]
        path = small_onnx(tmp_path_factory.mktemp("trt") / "small.onnx")
        with pytest.MonkeyPatch.context() as monkeypatch:
            install_fake_tensorrt(monkeypatch)
            yield lambda: open_model(f"trt:{path}?strategy={strategy}", in_process=True)

    @pytest.fixture
    def feeds(self) -> Feeds:
        return onnx_feeds()


TORCH_KINDS = ("module", "half", "in_place", "exported", "script", "factory")


def torch_model(kind: str, folder: Path) -> Any:
    """A live module, or what a user would write for a file."""
    import torch

    from torch_networks import Tricky, small

    if kind == "in_place":
        return Tricky()
    if kind == "exported":
        torch.export.save(torch.export.export(small(), (torch.zeros(1, 3, 8, 8),)), folder / "m.pt2")
        return str(folder / "m.pt2")
    if kind == "script":
        torch.jit.save(torch.jit.trace(small(), torch.zeros(1, 3, 8, 8)), str(folder / "m.pt"))
        return str(folder / "m.pt")
    if kind == "factory":
        import torch_networks

        return f"torch:{torch_networks.__file__}:small"
    return small().half() if kind == "half" else small()


def torch_feeds(kind: str) -> Feeds:
    rng = np.random.default_rng(5)
    if kind == "in_place":
        return {
            "x": rng.standard_normal((2, 4, 6)).astype(np.float32),
            "scale": rng.uniform(0.5, 2, 6).astype(np.float32),
        }
    return {"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float16 if kind == "half" else np.float32)}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", TORCH_KINDS, scope="class")
class TestTorch(Shared):
    """The graph is known once the model has run."""

    max_overrides = 8

    @pytest.fixture(scope="class")
    @classmethod
    def opener(cls, tmp_path_factory: pytest.TempPathFactory, kind: str) -> Callable[[], Backend]:
        pytest.importorskip("torch")
        model = torch_model(kind, tmp_path_factory.mktemp("torch"))

        def opened() -> Backend:
            backend = open_model(model, in_process=kind != "factory", defaults={"threads": "1"})
            assert list(backend.run(torch_feeds(kind), ())) == []
            return backend

        return opened

    @pytest.fixture
    def feeds(self, kind: str) -> Feeds:
        return torch_feeds(kind)


TENSORFLOW_KINDS = ("saved_model", "pb", "keras", "module")


@pytest.mark.parametrize("kind", TENSORFLOW_KINDS, scope="class")
class TestTensorflow(Shared):
    max_overrides = 8

    @pytest.fixture(scope="class")
    @classmethod
    def opener(cls, tmp_path_factory: pytest.TempPathFactory, kind: str) -> Callable[[], Backend]:
        tf = pytest.importorskip("tensorflow")
        from tensorflow_models import branches, keras_net, write_pb

        folder = tmp_path_factory.mktemp("tensorflow")
        if kind == "keras":
            keras_net().save(folder / "net.keras")
            return lambda: open_model(folder / "net.keras")
        net = branches()
        if kind == "module":
            return lambda: open_model(net)
        if kind == "pb":
            path = write_pb(net.__call__.get_concrete_function(), folder / "net.pb")
            return lambda: open_model(path, in_process=True)
        tf.saved_model.save(net, str(folder / "net"), signatures=net.__call__.get_concrete_function())
        return lambda: open_model(folder / "net", in_process=True)

    @pytest.fixture
    def feeds(self, kind: str) -> Feeds:
        rng = np.random.default_rng(6)
        shapes = {"image": (2, 8, 8, 3)} if kind == "keras" else {"x": (2, 8, 8, 3), "y": (1, 1, 1, 4)}
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_every_registered_backend_is_tested_here() -> None:
    tested = {
        name.removeprefix("Test").removesuffix("OnAFake").lower() for name in globals() if name.startswith("Test")
    }
    assert tested == set(REGISTRY)


# ---- the suite itself: a backend that breaks one promise fails the test of that promise


class Broken(MemoryBackend):
    """The small model with a wrapped `run`; `defect` changes what one run yields."""

    def __init__(self, defect: Callable[..., Any]) -> None:
        good = small_memory()
        vars(self).update(vars(good))
        self._good, self._defect = good, defect
        self.runs = 0

    def run(self, feeds: Any, fetch: Any, overrides: Any = None) -> Iterator[tuple[str, Any]]:
        self.runs += 1
        return iter(self._defect(self, self._good.run, feeds, fetch, overrides))


def _drifts(self: Broken, run: Any, feeds: Any, fetch: Any, overrides: Any) -> Any:
    return [(n, v + np.float32(self.runs) if n == "relu" else v) for n, v in run(feeds, fetch, overrides)]


def _observed(self: Broken, run: Any, feeds: Any, fetch: Any, overrides: Any) -> Any:
    return [(n, v * 2 if n == "out" and "mm" in fetch else v) for n, v in run(feeds, fetch, overrides)]


def _reuses_memory(self: Broken, run: Any, feeds: Any, fetch: Any, overrides: Any) -> Any:
    arena = vars(self).setdefault("arena", {})
    for name, value in run(feeds, fetch, overrides):
        if arena.setdefault(name, value) is not value:
            arena[name][...] = value
        yield name, arena[name]


def _ignores_overrides(self: Broken, run: Any, feeds: Any, fetch: Any, overrides: Any) -> Any:
    list(run(feeds, [], overrides))  # still refuses bad ones
    return run(feeds, fetch)


def _yields_the_override(self: Broken, run: Any, feeds: Any, fetch: Any, overrides: Any) -> Any:
    return [(n, (overrides or {}).get(n, v)) for n, v in run(feeds, fetch, overrides)]


def _casts_feeds(self: Broken, run: Any, feeds: Any, fetch: Any, overrides: Any) -> Any:
    return run({name: value.astype(np.float32) for name, value in feeds.items()}, fetch, overrides)


def _backwards(self: Broken, run: Any, feeds: Any, fetch: Any, overrides: Any) -> Any:
    return list(run(feeds, fetch, overrides))[::-1]


def _takes_an_edge_for_its_tensor(self: Broken, run: Any, feeds: Any, fetch: Any, overrides: Any) -> Any:
    return run(feeds, fetch, {key if isinstance(key, str) else key[0]: v for key, v in (overrides or {}).items()})


def _wants_all_feeds(self: Broken, run: Any, feeds: Any, fetch: Any, overrides: Any) -> Any:
    list(run(feeds, ["out", "left"]))
    return run(feeds, fetch, overrides)


def _skips_unknown(self: Broken, run: Any, feeds: Any, fetch: Any, overrides: Any) -> Any:
    return run(feeds, [name for name in fetch if name != "no_such_tensor"], overrides)


@pytest.mark.parametrize(
    ("defect", "test"),
    [
        (_drifts, "test_two_runs_are_equal"),
        (_observed, "test_taps_do_not_change_the_outputs"),
        (_reuses_memory, "test_arrays_outlive_the_next_run"),
        (_ignores_overrides, "test_consumers_and_nothing_else_see_other_values"),
        (_ignores_overrides, "test_all_overridden_at_once_are_all_seen"),
        (_takes_an_edge_for_its_tensor, "test_one_node_alone_sees_an_override_of_what_it_reads"),
        (_yields_the_override, "test_consumers_and_nothing_else_see_other_values"),
        (_backwards, "test_every_tensor_comes_once_in_execution_order"),
    ],
)
def test_the_suite_catches_a_broken_promise(defect: Callable[..., Any], test: str) -> None:
    with pytest.raises(AssertionError):
        getattr(BackendConformance(), test)(Broken(defect), memory_feeds())
    getattr(BackendConformance(), test)(small_memory(), memory_feeds())


def test_the_suite_catches_a_run_that_wants_every_feed() -> None:
    with pytest.raises(FeedError):
        BackendConformance().test_what_nobody_reads_need_not_be_fed(Broken(_wants_all_feeds), memory_feeds())


@pytest.mark.parametrize(
    ("defect", "test", "arguments"),
    [(_casts_feeds, "test_misshapen_feed", ("dtype",)), (_skips_unknown, "test_unknown_fetch", ())],
)
def test_the_suite_catches_what_is_not_refused(
    defect: Callable[..., Any], test: str, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        getattr(BackendConformance(), test)(Broken(defect), memory_feeds(), *arguments)
