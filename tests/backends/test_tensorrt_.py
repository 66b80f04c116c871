"""TensorRT: names checked against the real bindings, builds with the real TensorRT-RTX, runs on a labelled fake."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import onnx
import pytest
from fake_tensorrt import Builder, FakeTensorrt, IExecutionContext, install_fake_tensorrt
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg._errors import FeedError, MissingDependencyError, ModelError, UnsupportedError, UsageError
from aligndbg._open import open_model
from aligndbg._types import Backend
from aligndbg.backends import _tensorrt_device, _tensorrt_library, _tensorrt_network
from aligndbg.backends._tensorrt_device import device_trouble
from aligndbg.backends._tensorrt_library import Library, find_library, make_log
from aligndbg.backends._tensorrt_network import Network, Settings, build, onnx_names
from aligndbg.backends._tensorrt_onnx import OnnxSource
from aligndbg.backends.tensorrt_ import TensorrtBackend

ROOT = Path(__file__).parent.parent.parent
API: dict[str, dict[str, list[str]]] = json.loads((ROOT / "fixtures" / "tensorrt_api.json").read_text())
SOURCES = [*sorted((ROOT / "aligndbg" / "backends").glob("_tensorrt_*.py")), ROOT / "aligndbg/backends/tensorrt_.py"]

Feeds = dict[str, np.ndarray[Any, Any]]


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], stored: dict[str, Any] | None = None, **kw: Any
) -> Path:
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in (stored or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path, **kw)
    return path


def chain(path: Path, rows: Any = 2, **kw: Any) -> Path:
    """MatMul with a weight too large to stay in the proto, ReLU, Sigmoid."""
    weight = np.random.default_rng(0).standard_normal((100, 100)).astype(np.float32) / 10
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("Sigmoid", ["r"], ["y"], name="sig"),
    ]
    return save(path, nodes, [value("x", [rows, 100])], [value("y", [rows, 100])], {"w": weight}, **kw)


def loop(path: Path) -> Path:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v", "step"], ["v2"], name="inner"),
            helper.make_node("Identity", ["c"], ["c2"]),
            helper.make_node("Identity", ["v2"], ["scan"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("v", [1, 4])],
        [value("c2", [], TensorProto.BOOL), value("v2", [1, 4]), value("scan", [1, 4])],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Loop", ["n", "on", "r"], ["last", "all"], name="loop", body=body),
        helper.make_node("Sigmoid", ["last"], ["y"], name="sig"),
    ]
    stored = {"n": np.array(3), "on": np.array(True), "step": np.full((1, 4), 0.5, np.float32)}
    return save(path, nodes, [value("x", [1, 4])], [value("y", [1, 4]), value("all", [3, 1, 4])], stored)


def dynamic(path: Path) -> Path:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["b"]),
        helper.make_node("Concat", ["b", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["r", "to"], ["y"]),
    ]
    stored = {"zero": np.array([0]), "rest": np.array([-1])}
    return save(path, nodes, [value("x", ["N", 2, "W"])], [value("y", ["N", "k"])], stored)


def quantized(path: Path) -> Path:
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quant"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["dq", "wd"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    stored = {
        "s": np.float32(0.02),
        "z": np.int8(0),
        "w": rng.integers(-127, 127, (4, 3, 3, 3)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
    }
    return save(path, nodes, [value("x", [1, 3, 8, 8])], [value("y", [1, 4, 6, 6])], stored)


def halves(path: Path) -> Path:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["m"], name="mm"),
        helper.make_node("Cast", ["m"], ["b"], to=TensorProto.BFLOAT16),
        helper.make_node("Relu", ["b"], ["rb"]),
        helper.make_node("Cast", ["rb"], ["y"], to=TensorProto.FLOAT),
    ]
    weight = np.random.default_rng(2).standard_normal((8, 4)).astype(np.float16)
    return save(path, nodes, [value("x", [2, 8])], [value("y", [2, 4])], {"w": weight})


# ---- the names: what the adapter calls exists in the real bindings

# A variable or attribute of this name, in the adapter, holds an object of that class.
ROLES = {
    "builder": "Builder", "cache": "ITimingCache", "config": "IBuilderConfig", "context": "IExecutionContext",
    "engine": "ICudaEngine", "inspector": "EngineInspector", "layer": "ILayer", "network": "INetworkDefinition",
    "parser": "OnnxParser", "problem": "ParserError", "profile": "IOptimizationProfile", "runtime": "Runtime",
    "tensor": "ITensor",
}  # fmt: skip
# What only some versions have, where the adapter asks first: from and before which TensorRT, and whether RTX has it
# (None: never asked of RTX).
SOMETIMES = {
    "INetworkDefinition.mark_unfused_tensors_as_debug_tensors": ((10, 12), (99,), True),
    "IExecutionContext.unfused_tensors_debug_state": ((10, 12), (99,), True),
    "IInt8EntropyCalibrator2": ((10,), (11,), None),
    "IBuilderConfig.int8_calibrator": ((10,), (11,), None),
    "IBuilderConfig.set_calibration_profile": ((10,), (11,), None),
}
BASES = ("ILogger", "IDebugListener", "IOutputAllocator")  # virtual methods are not members of the Python class


def owner(node: ast.expr) -> str:
    """The name that an attribute is asked of: `network` of `network.x`, `parsed.network.x` and `self._network.x`."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.strip("_")


def used_names() -> set[str]:
    """`Class.member` or `Class` of TensorRT, as the adapter's source asks for them."""
    found = set()
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            if owner(node.value) in ROLES:
                found.add(f"{ROLES[owner(node.value)]}.{node.attr}")
            elif owner(node.value) == "trt" and id(node) not in inner:
                found.add(node.attr)
            elif isinstance(node.value, ast.Attribute) and owner(node.value.value) == "trt":
                found.add(f"{node.value.attr}.{node.attr}")
    found |= {
        f"DataType.{word}" for word in ("FLOAT", "HALF", "BF16", "FP8", "INT8", "UINT8", "INT32", "INT64", "BOOL")
    }
    found |= {"TensorIOMode.INPUT", "TensorIOMode.OUTPUT", "LayerType.QUANTIZE", "DataType.INT4"}
    return {name for name in found if not name.startswith("__")}


def has(surface: dict[str, list[str]], name: str) -> bool:
    cls, _, member = name.partition(".")
    if not member:
        return cls in surface or cls in surface[""]
    return cls in surface and (member in surface[cls] or member.startswith("__"))


def numbers(version: str) -> tuple[bool, tuple[int, ...]]:
    kind, text = version.split()
    return kind == "rtx", tuple(int(part) for part in text.split("."))


def test_the_source_is_read_as_it_is_meant() -> None:
    used = used_names()
    assert {"INetworkDefinition.mark_debug", "IExecutionContext.set_debug_listener", "BuilderFlag.TF32"} <= used
    assert {name.split(".")[0] for name in used} >= {*ROLES.values(), *BASES, "TensorLocation", "MemoryPoolType"}
    assert len(used) > 80


@pytest.mark.parametrize("version", API)
def test_every_name_that_the_adapter_uses_is_in_the_real_bindings(version: str) -> None:
    rtx, parts = numbers(version)
    for name in sorted(used_names()):
        expected: bool | None = True
        for sometimes, (first, last, in_rtx) in SOMETIMES.items():
            if name == sometimes or name.startswith(f"{sometimes}."):
                expected = in_rtx if rtx else first <= parts < last
        assert expected is None or has(API[version], name) == expected, f"{version}: {name}"


@pytest.mark.parametrize("version", API)
def test_precisions_exist_where_they_are_offered(version: str) -> None:
    rtx, parts = numbers(version)
    offered = not rtx and parts < (11,)
    for flags in _tensorrt_network.PRECISIONS.values():
        for flag in flags:
            assert has(API[version], f"BuilderFlag.{flag}") or not offered


def test_every_dtype_of_the_real_bindings_is_read_or_refused_with_a_reason() -> None:
    words = {word for surface in API.values() for word in surface["DataType"]} - {"name", "value", "itemsize"}
    assert words == {*_tensorrt_library.DTYPES, *_tensorrt_library.UNREADABLE}


def test_the_recorded_names_are_those_of_the_installed_library() -> None:
    """So the way in which the record was made is right, of at least this one version."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install .[tensorrt-rtx]")
    import make_tensorrt_api

    recorded = API.get(f"rtx {trt.__version__}")
    if recorded is None:
        pytest.skip(f"{trt.__version__} is not among the recorded versions")
    here = make_tensorrt_api.surface(trt)
    here["DataType"].remove("itemsize")  # added in Python, by the package above the bindings
    assert here == recorded


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_the_fake_has_no_name_of_its_own(version: str) -> None:
    surface, fake = API[f"tensorrt {version}"], FakeTensorrt(version)
    for cls in fake_tensorrt.FAKES:
        if hasattr(fake, cls.__name__):
            own = set() if cls.__name__ in BASES else {"built", "noise"}  # the fake's own knobs
            methods = {name for name in vars(cls) if not name.startswith("_")} - own
            virtual = {"log", "process_debug_tensor", "notify_shape"} if cls.__name__ in BASES else set()
            assert methods - virtual <= set(surface[cls.__name__]), cls.__name__
    for name in fake_tensorrt.ENUMS:
        assert set(getattr(fake, name).__members__) - {"FAKE"} <= set(surface[name]), name
    assert hasattr(fake, "IInt8EntropyCalibrator2") == ("IInt8EntropyCalibrator2" in surface)


def test_cuda_bindings_have_what_is_called_and_take_plain_numbers() -> None:
    """Without a driver each call answers with an error code; it must not be a TypeError."""
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings are not installed")
    names = {name for name in vars(fake_tensorrt.FakeCudart) if name.startswith("cuda")}
    assert names <= set(dir(cudart))
    source = (ROOT / "aligndbg/backends/_tensorrt_device.py").read_text()
    called = set(re.findall(r"_?cudart\.(\w+)", source)) | set(re.findall(r'"(cudaMemcpy\w+)"', source))
    assert called <= names | set(cudart.cudaMemcpyKind.__members__)
    assert set(fake_tensorrt.FakeError.__members__) <= set(cudart.cudaError_t.__members__)
    up = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
    for answer in (cudart.cudaMemcpy(0, 0, 0, up), cudart.cudaFree(0), cudart.cudaStreamSynchronize(0)):
        assert isinstance(answer[0], cudart.cudaError_t)


# ---- the run half, on the fake


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorrt]:
    made = install_fake_tensorrt(monkeypatch)
    yield made
    assert not made.cudart.blocks, "device memory was left behind"
    assert not made.cudart.streams, "a stream was left behind"


def opened(path: Path, **options: Any) -> Backend:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return open_model(f"trt:{path}?{query}" if query else f"trt:{path}", in_process=True)


def rows(count: int = 2, width: int = 100) -> Feeds:
    return {"x": np.random.default_rng(3).standard_normal((count, width)).astype(np.float32)}


def test_on_a_fake_captured_there_and_diffed_here(fake: FakeTensorrt, fixtures: Path, tmp_path: Path) -> None:
    """The normal way of working: the trace carries feeds, graph, fused layers and the observer effect."""
    trace = tmp_path / "gpu.safetensors"
    with_trt = open_model(f"trt:{fixtures / 'cnn.onnx'}", in_process=True)
    captured = aligndbg.capture(with_trt, output=trace)
    assert not captured.missing
    result = aligndbg.diff(fixtures / "cnn.onnx", trace)
    assert result.verdict == "aligned"
    assert result.matching.coverage_candidate.compared == 23
    assert result.checks["observer_effect"]["candidate"] == 0
    node = next(node for node in captured.graph.nodes if node.name == "/stem/Conv")
    assert node.attributes["engine_layer"] == "fused /stem/Conv"
    assert node.canonical == "Conv"


def test_on_a_fake_the_observer_effect_is_measured_and_kept(
    fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(IExecutionContext, "noise", 0.25)
    backend = opened(chain(tmp_path / "a.onnx"))
    trace = tmp_path / "t.npz"
    aligndbg.capture(backend, rows(), output=trace)
    assert float(backend.info.options["observer_effect"]) == pytest.approx(0.25, rel=0.01)
    result = aligndbg.diff(tmp_path / "a.onnx", trace)
    assert result.checks["observer_effect"]["candidate"] == pytest.approx(0.25, rel=0.01)
    assert any("moves its outputs" in warning for warning in result.warnings)


def test_on_a_fake_an_unmarked_engine_that_does_not_build_is_told_of(
    fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = Builder.build_serialized_network
    monkeypatch.setattr(Builder, "build_serialized_network", lambda s, n, c: real(s, n, c) if n._marks else None)
    backend = opened(chain(tmp_path / "a.onnx"))
    assert dict(backend.run(rows(), ["r"])).keys() == {"r"}
    assert backend.info.options["observer_effect"].startswith("unknown")


def test_on_a_fake_engines_are_built_once(fake: FakeTensorrt, tmp_path: Path) -> None:
    backend = opened(chain(tmp_path / "a.onnx"))
    for _ in range(3):
        list(backend.run(rows(), ["m", "r", "y"]))
        list(backend.run(rows(), ["y"]))
    assert [bool(plan["marks"]) for plan in Builder.built] == [True, False]
    override = {"r": np.zeros((2, 100), np.float32)}
    for fill in (0, 1):  # other values of a computed tensor need no other engine
        found = dict(backend.run(rows(), ["m", "r", "y"], {"r": override["r"] + fill}))
    assert len(Builder.built) == 3
    assert np.allclose(found["y"], 1 / (1 + np.exp(-1)))
    assert found["r"].max() > 1  # its own value is still there
    for fill in (0, 1):  # a weight becomes part of the engine
        found = dict(backend.run(rows(), ["m"], {"w": np.full((100, 100), fill, np.float32)}))
        assert np.allclose(found["m"], fill * rows()["x"].sum(1, keepdims=True), atol=1e-4)
    assert len(Builder.built) == 5


def test_on_a_fake_large_weights_reach_tensorrt(fake: FakeTensorrt, tmp_path: Path) -> None:
    path = chain(tmp_path / "a.onnx")
    here = dict(open_model(path, in_process=True).run(rows(), ["m", "y"]))
    there = dict(opened(path).run(rows(), ["m", "y"]))
    assert all(np.array_equal(here[name], there[name]) for name in here)


def test_on_a_fake_dynamic_sizes_make_one_profile_a_size(fake: FakeTensorrt, tmp_path: Path) -> None:
    backend = opened(dynamic(tmp_path / "d.onnx"))
    for width in (3, 5, 3):
        feeds = {"x": np.random.default_rng(width).standard_normal((2, 2, width)).astype(np.float32)}
        found = dict(backend.run(feeds, ["r", "y"]))
        assert found["y"].shape == (2, 2 * width)
        assert np.array_equal(found["y"], np.maximum(feeds["x"], 0).reshape(2, -1))
    assert [plan["profiles"][0]["x"][0] for plan in Builder.built] == [(2, 2, 3)] * 2 + [(2, 2, 5)]


def test_on_a_fake_data_dependent_shapes(fake: FakeTensorrt, tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["nz"])]
    path = save(tmp_path / "nz.onnx", nodes, [value("x", [2, 4])], [value("nz", [2, "k"], TensorProto.INT64)])
    x = np.array([[0, 1, 0, 2], [0, 0, 0, 3]], np.float32)
    found = dict(opened(path).run({"x": x}, ["r", "nz"]))
    assert found["nz"].tolist() == [[0, 0, 1], [1, 3, 3]]


def test_on_a_fake_loop_bodies_are_untapped_with_a_reason(fake: FakeTensorrt, tmp_path: Path) -> None:
    graph = opened(loop(tmp_path / "l.onnx")).graph()
    assert "inside the body of Loop 'loop'" in graph.untapped["v2"]
    assert graph.tappable() == ("r", "last", "all", "y")


def test_on_a_fake_options_reach_the_builder(fake: FakeTensorrt, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    options = {
        "flags": "sparse_weights,DEBUG",
        "optimization_level": 5,
        "workspace": 64,
        "timing_cache": cache,
        "precision": "fp16",
    }
    backend = opened(chain(tmp_path / "a.onnx"), **options)
    list(backend.run(rows(), ["y"]))
    (plan,) = Builder.built
    assert plan["flags"] == ["DEBUG", "FP16", "SPARSE_WEIGHTS"]  # and TF32 cleared
    assert (plan["level"], plan["limits"]) == (5, [64 << 20])
    assert cache.read_bytes() == b"timings"
    cache.write_bytes(b"of another version")
    with pytest.raises(UsageError, match="refuses the timing cache"):
        list(opened(chain(tmp_path / "a.onnx"), timing_cache=cache).run(rows(), ["y"]))


def test_on_a_fake_tf32_stays_on_when_asked_for(fake: FakeTensorrt, tmp_path: Path) -> None:
    list(opened(chain(tmp_path / "a.onnx"), precision="tf32").run(rows(), ["y"]))
    assert Builder.built[0]["flags"] == ["TF32"]


def test_on_a_fake_int8_needs_a_calibration_or_quantize_nodes(fake: FakeTensorrt, tmp_path: Path) -> None:
    path = chain(tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="Q/DQ nodes"):
        list(opened(path, precision="int8").run(rows(), ["y"]))
    cache = tmp_path / "c.cache"
    list(opened(path, precision="int8", calibration=cache).run(rows(), ["y"]))
    assert cache.read_bytes() == b"scales"
    with_qdq = opened(quantized(tmp_path / "q.onnx"), precision="int8")
    assert with_qdq.graph().tensors["q"].quant is not None
    with pytest.raises(UsageError, match="without precision=int8"):
        opened(path, calibration=cache)


def test_on_a_fake_mixed_precision_leaves_inner_dtypes_to_the_run(fake: FakeTensorrt, tmp_path: Path) -> None:
    backend = opened(chain(tmp_path / "a.onnx"), precision="fp16")
    assert backend.graph().tensors["r"].dtype == ""
    list(backend.run(rows(), ["r"]))
    assert backend.graph().tensors["r"].dtype == "float32"
    assert backend.graph().tensors["y"].dtype == "float32"


def test_on_a_fake_nothing_but_outputs_with_strategy_none(fake: FakeTensorrt, tmp_path: Path) -> None:
    backend = opened(chain(tmp_path / "a.onnx"), strategy="none")
    assert backend.graph().tappable() == ("y",)
    with pytest.raises(UnsupportedError, match="strategy=none"):
        list(backend.run(rows(), ["m"]))
    list(backend.run(rows(), ["y"]))
    assert not Builder.built[0]["marks"]


def test_on_a_fake_unfused_tensors_come_as_the_engine_names_them(fake: FakeTensorrt, tmp_path: Path) -> None:
    backend = opened(chain(tmp_path / "a.onnx"), strategy="unfused")
    assert backend.capabilities == {"graph", "run"}
    trace = aligndbg.capture(backend, rows())
    assert {node.name for node in trace.graph.nodes} == {"fused mm", "fused relu", "fused sig"}
    assert set(trace.values) == {"x", "m", "y"}
    assert trace.missing == {"r": "the run gave no value"}
    assert "observer_effect" in trace.info.options


def finished(tmp_path: Path, strategy: str = "none", prefix: bytes = b"") -> Path:
    source = OnnxSource(
        str(chain(tmp_path / "a.onnx")), find_library(), make_log(find_library()), Settings(strategy=strategy)
    )
    parsed = source.parsed({})
    source.mark(parsed, source.graph().tappable(), {})
    path = tmp_path / "a.engine"
    path.write_bytes(prefix + build(parsed, Settings(strategy=strategy), {}))
    return path


@pytest.mark.parametrize("prefixed", [False, True])
def test_on_a_fake_a_finished_engine_gives_its_outputs(fake: FakeTensorrt, tmp_path: Path, prefixed: bool) -> None:
    """Ultralytics writes its own JSON before the engine."""
    told = json.dumps({"task": "detect"}).encode()
    backend = open_model(
        finished(tmp_path, prefix=len(told).to_bytes(4, "little") + told if prefixed else b""), in_process=True
    )
    graph = backend.graph()
    assert (graph.inputs, graph.outputs, graph.tappable()) == (("x",), ("y",), ("y",))
    assert "build it from ONNX instead (trt:model.onnx)" in graph.untapped["m"]
    assert [node.attributes["onnx_nodes"] for node in graph.nodes] == [["mm"], ["relu"], ["sig"]]
    assert np.array_equal(
        dict(backend.run(rows(), ["y"]))["y"], dict(opened(tmp_path / "a.onnx").run(rows(), ["y"]))["y"]
    )
    with pytest.raises(UnsupportedError, match="cannot be overridden"):
        backend.run(rows(), ["y"], {"y": np.zeros((2, 100), np.float32)})


def test_on_a_fake_a_finished_engine_with_marks_shows_them(fake: FakeTensorrt, tmp_path: Path) -> None:
    backend = open_model(finished(tmp_path, "debug"), in_process=True)
    assert backend.graph().tappable() == ("m", "r", "y")
    assert set(dict(backend.run(rows(), ["m", "r", "y"]))) == {"m", "r", "y"}


def test_on_a_fake_an_engine_without_details_is_one_node(
    fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = finished(tmp_path)
    for told in ('{"Layers": ["mm + relu + sig"]}', "", "{"):
        monkeypatch.setattr(fake_tensorrt.EngineInspector, "get_engine_information", lambda self, form, told=told: told)
        (node,) = open_model(path, in_process=True).graph().nodes
        assert (node.inputs, node.outputs) == (("x",), ("y",))


def test_on_a_fake_an_engine_of_another_version_is_refused(fake: FakeTensorrt, tmp_path: Path) -> None:
    path = finished(tmp_path)
    data = bytearray(path.read_bytes())
    data[24:28] = bytes((10, 3, 0, 26))
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"built with TensorRT 10\.3\.0\.26: the version tag"):
        open_model(path, in_process=True).graph()
    with pytest.raises(UsageError, match="takes no build options"):
        open_model(f"{path}?precision=fp16", in_process=True)


def test_on_a_fake_a_listener_that_fails_is_not_silent(
    fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no room")

    monkeypatch.setattr(_tensorrt_device, "_copied", broken)
    with pytest.raises(ModelError, match="'m' could not be copied: no room"):
        list(opened(chain(tmp_path / "a.onnx")).run(rows(), ["m"]))


def test_on_a_fake_a_tensor_that_comes_twice_is_not_taken(
    fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    once = IExecutionContext._emit
    monkeypatch.setattr(IExecutionContext, "_emit", lambda *a: (once(*a), once(*a))[0])
    with pytest.raises(ModelError, match="no value of 'm', or more than one"):
        list(opened(chain(tmp_path / "a.onnx")).run(rows(), ["m"]))


@pytest.mark.parametrize("feed", [np.zeros((2, 100), np.float64), np.zeros((3, 100), np.float32)])
def test_on_a_fake_bad_feeds_are_refused(fake: FakeTensorrt, tmp_path: Path, feed: Any) -> None:
    with pytest.raises(FeedError, match="'x'"):
        opened(chain(tmp_path / "a.onnx")).run({"x": feed}, ["y"])


# ---- what is missing, or refused: no library needed


def test_on_a_fake_strong_typing_refuses_precisions_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_fake_tensorrt(monkeypatch, "11.4.0.106")
    path = chain(tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="strongly typed") as caught:
        opened(path, precision="fp16")
    assert "convert the ONNX file itself to fp16" in caught.value.hint
    with pytest.raises(UsageError, match="no builder flag FP16"):
        opened(path, flags="FP16")
    assert opened(path).graph().tappable() == ("m", "r", "y")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "all"}, "strategy='all' is not known"),
        ({"precision": "fp8"}, "precision='fp8' is not known"),
        ({"library": "onnx"}, "library='onnx' is not known"),
        ({"optimization_level": "9"}, "over 5"),
        ({"workspace": "1G"}, "not a number"),
        ({"flags": "FAST"}, "no builder flag FAST"),
        ({"max_workspace_size": "1"}, "no option 'max_workspace_size'"),
    ],
)
def test_on_a_fake_unknown_options(fake: FakeTensorrt, tmp_path: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        opened(chain(tmp_path / "a.onnx"), **options)


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0"])
def test_on_a_fake_old_versions_are_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install_fake_tensorrt(monkeypatch, version)
    with pytest.raises(MissingDependencyError, match=rf"tensorrt {version} is too old.*10\.0 or later"):
        find_library("tensorrt")


def test_on_a_fake_an_empty_namespace_is_not_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PyPI package tensorrt-stubs makes `import tensorrt` succeed."""
    monkeypatch.delattr(install_fake_tensorrt(monkeypatch), "Builder")
    with pytest.raises(MissingDependencyError, match="empty namespace"):
        find_library("tensorrt")


def test_on_a_fake_a_machine_without_a_gpu(fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    backend = opened(chain(tmp_path / "a.onnx"))
    backend.graph()
    for state, driver, said in (
        (fake_tensorrt.FakeError.cudaErrorNoDevice, 13000, "no GPU"),
        (fake_tensorrt.FakeError.cudaErrorInsufficientDriver, 0, "no NVIDIA driver"),
        (fake_tensorrt.FakeError.cudaErrorInsufficientDriver, 12040, "serves CUDA 12 at most"),
    ):
        fake.cudart.state, fake.cudart.driver = state, driver
        with pytest.raises(ModelError, match=said):
            list(backend.run(rows(), ["y"]))
    assert not Builder.built  # it is said before anything is built

    def null(self: Any, log: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(Builder, "__init__", null)
    with pytest.raises(ModelError, match="cannot make a builder"):
        opened(chain(tmp_path / "a.onnx")).graph()


@pytest.mark.parametrize("data", [b"", b"ftrt", b"not an engine", bytes(64), (3).to_bytes(4, "little") + b"{}x"])
def test_a_file_that_is_no_engine(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="not a TensorRT engine"):
        open_model(path, in_process=True)


def test_metadata_lists_onnx_nodes() -> None:
    assert onnx_names("[ONNX Layer: /a/Conv][ONNX Layer: /b][ONNX Layer: /a/Conv]") == ["/a/Conv", "/b"]
    assert onnx_names("") == []


# ---- the real TensorRT-RTX: it parses, marks and builds without a GPU, and loads nothing


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install .[tensorrt-rtx]")
    return find_library("rtx")


MODELS = {"chain": chain, "loop": loop, "dynamic": dynamic, "quantized": quantized, "halves": halves}


def prepared(rtx: Library, path: Path, strategy: str, overrides: Feeds) -> tuple[OnnxSource, Network, Settings, Feeds]:
    settings = Settings(strategy=strategy)
    source = OnnxSource(str(path), rtx, make_log(rtx), settings)
    graph = source.graph()
    sizes = {"N": 2, "W": 5}
    feeds = {}
    for name in graph.inputs:
        info = graph.tensors[name]
        feeds[name] = np.ones([d if isinstance(d, int) else sizes[str(d)] for d in info.shape or ()], info.dtype)
    parsed = source.parsed(overrides)
    source.mark(parsed, [] if strategy == "unfused" else graph.tappable(), overrides)
    return source, parsed, settings, feeds | source.stand_ins(overrides)


@pytest.mark.parametrize("strategy", _tensorrt_network.STRATEGIES)
@pytest.mark.parametrize("model", MODELS)
def test_real_rtx_builds_with_every_strategy(rtx: Library, tmp_path: Path, model: str, strategy: str) -> None:
    _, parsed, settings, feeds = prepared(rtx, MODELS[model](tmp_path / "a.onnx"), strategy, {})
    plan = bytes(memoryview(build(parsed, settings, feeds)))
    assert plan[:4] == b"vtrt"
    assert ".".join(map(str, plan[24:28])) == rtx.trt.__version__


@pytest.mark.parametrize("strategy", ["debug", "outputs", "none"])
@pytest.mark.parametrize("model", ["cnn.onnx", "attention.onnx", "lstm.onnx", "cnn_opset_b.onnx"])
def test_real_rtx_builds_the_bundled_models(rtx: Library, fixtures: Path, model: str, strategy: str) -> None:
    _, parsed, settings, feeds = prepared(rtx, fixtures / model, strategy, {})
    assert build(parsed, settings, feeds).nbytes


@pytest.mark.parametrize("model", ["cnn.onnx", "attention.onnx", "lstm.onnx", "cnn_opset_b.onnx"])
def test_real_rtx_knows_every_tensor_by_its_onnx_name(rtx: Library, fixtures: Path, model: str) -> None:
    here = open_model(fixtures / model, in_process=True).graph()
    there = TensorrtBackend(str(fixtures / model), {"library": "rtx"}).graph()
    assert there.tappable() == here.tappable()
    assert [node.canonical for node in there.nodes] == [node.canonical for node in here.nodes]
    for name in there.tappable():
        assert there.tensors[name].static_shape == here.tensors[name].static_shape
        assert there.tensors[name].dtype == here.tensors[name].dtype


def test_real_rtx_marks_what_it_is_told_to(rtx: Library, tmp_path: Path) -> None:
    path = loop(tmp_path / "l.onnx")
    _, debug, _, _ = prepared(rtx, path, "debug", {})
    assert [name for name in debug.tensors if debug.network.is_debug_tensor(debug.tensors[name])] == ["r", "last"]
    assert list(debug.outputs) == ["y", "all"]
    _, outputs, _, _ = prepared(rtx, path, "outputs", {})
    network = outputs.network
    assert [network.get_output(i).name for i in range(network.num_outputs)] == ["y", "all", "r", "last"]


def test_real_rtx_builds_with_everything_overridden(rtx: Library, fixtures: Path) -> None:
    graph = TensorrtBackend(str(fixtures / "attention.onnx"), {"library": "rtx"}).graph()
    inner = [name for name in graph.tappable() if name not in graph.outputs]
    overrides = {name: np.ones(graph.tensors[name].static_shape or (), np.float32) for name in inner}
    weight = "attention.query.weight"
    overrides[weight] = np.ones(graph.tensors[weight].static_shape or (), np.float32)
    source, parsed, settings, feeds = prepared(rtx, fixtures / "attention.onnx", "debug", overrides)
    read = {name for node in graph.nodes for name in node.inputs} & set(inner)
    assert {name.removesuffix("::in") for name in parsed.inputs} == read | {"input"}
    assert set(source.stand_ins(overrides)) == {f"{name}::in" for name in read}  # a weight is no input
    assert build(parsed, settings, feeds).nbytes


def test_real_rtx_reads_external_data(rtx: Library, tmp_path: Path) -> None:
    path = chain(tmp_path / "a.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    _, parsed, settings, feeds = prepared(rtx, path, "debug", {})
    assert build(parsed, settings, feeds).nbytes


def test_real_rtx_metadata_names_the_onnx_nodes_of_a_fused_layer(rtx: Library, fixtures: Path) -> None:
    """Without a GPU no inspector can be asked; the builder's verbose log holds the same metadata."""
    said: list[str] = []
    trt = rtx.trt

    class Verbose(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if "metadata: " in message:
                said.append(message.split("metadata: ", 1)[1])

        def take(self) -> str:
            return ""

    source = OnnxSource(str(fixtures / "cnn.onnx"), rtx, Verbose(), Settings(strategy="none"))
    build(source.parsed({}), Settings(strategy="none"), {})
    fused = {name for text in said for name in onnx_names(text)}
    assert fused == {node.name for node in source.graph().nodes}


def test_real_rtx_says_which_node_it_cannot_parse(rtx: Library, tmp_path: Path) -> None:
    nodes = [helper.make_node("NoSuchOp", ["x"], ["y"], name="/head/Odd", domain="unheard")]
    path = save(tmp_path / "a.onnx", nodes, [value("x", [2, 4])], [value("y", [2, 4])])
    with pytest.raises(ModelError, match="/head/Odd"):
        TensorrtBackend(str(path), {"library": "rtx"}).graph()


def test_real_rtx_takes_the_options_that_it_has_and_refuses_the_others(rtx: Library, tmp_path: Path) -> None:
    for option, refused in (("precision", "fp16"), ("timing_cache", "a.cache"), ("flags", "FP8")):
        with pytest.raises(UsageError) as caught:
            Settings.parse({option: refused}, rtx)
        assert caught.value.hint
    told = {"precision": "tf32", "optimization_level": "1", "workspace": "64", "flags": "SPARSE_WEIGHTS"}
    settings = Settings.parse(told, rtx)
    source = OnnxSource(str(chain(tmp_path / "a.onnx")), rtx, make_log(rtx), settings)
    assert build(source.parsed({}), settings, {}).nbytes


def test_real_rtx_without_a_gpu_says_so_and_lists_layers(rtx: Library, fixtures: Path) -> None:
    trouble = device_trouble()
    if not trouble:
        pytest.skip("there is a GPU here")
    told = [sys.executable, "-m", "aligndbg"]
    listed = subprocess.run(
        [*told, "layers", f"trt:{fixtures / 'cnn.onnx'}"], capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0
    assert "CONVOLUTION" in listed.stdout
    command = [*told, "capture", f"trt:{fixtures / 'cnn.onnx'}", "-o", "never.safetensors"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert f"TensorRT engines need a GPU: {trouble}" in refused.stderr
    assert "diff the trace here" in refused.stderr
    assert "Traceback" not in refused.stderr


# ---- a GPU


def gpu_library() -> str:
    """Why nothing can be run on a GPU here, or ""."""
    try:
        find_library()
    except MissingDependencyError as error:
        return error.fact
    return device_trouble()


@pytest.fixture(scope="module")
def gpu() -> None:
    reason = gpu_library()
    if reason:
        pytest.skip(reason)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["debug", "outputs", "none"])
@pytest.mark.parametrize("model", ["cnn.onnx", "attention.onnx", "lstm.onnx"])
def test_gpu_agrees_with_onnx_runtime(gpu: None, fixtures: Path, model: str, strategy: str) -> None:
    result = aligndbg.diff(fixtures / model, f"trt:{fixtures / model}?strategy={strategy}")
    assert result.verdict == "aligned"


@pytest.mark.gpu
def test_gpu_loops_dynamic_sizes_and_overrides(gpu: None, tmp_path: Path) -> None:
    assert aligndbg.diff(loop(tmp_path / "l.onnx"), f"trt:{tmp_path / 'l.onnx'}").verdict == "aligned"
    found = aligndbg.diff(dynamic(tmp_path / "d.onnx"), f"trt:{tmp_path / 'd.onnx'}", shapes=["x=2x2x5"])
    assert found.verdict == "aligned"
    backend = opened(chain(tmp_path / "a.onnx"))
    values = dict(backend.run(rows(), ["m", "r", "y"], {"r": np.zeros((2, 100), np.float32)}))
    assert np.allclose(values["y"], 0.5)
    assert values["r"].max() > 0
