"""TensorRT on a labelled FAKE that computes with ONNX Runtime: what passes here has not run on TensorRT.

The names that the fake has are checked in test_tensorrt_names.py; the real builder is in test_tensorrt_rtx.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import aligndbg
import fake_tensorrt
from aligndbg import api
from aligndbg.backends.open import open_model
from aligndbg.backends.tensorrt import session
from aligndbg.backends.tensorrt.build import Settings, build, onnx_names
from aligndbg.backends.tensorrt.from_onnx import OnnxSource
from aligndbg.backends.tensorrt.library import find_library, make_log
from aligndbg.cli.main import main
from aligndbg.core.errors import FeedError, MissingDependencyError, ModelError, UnsupportedError, UsageError
from fake_tensorrt import Builder, FakeTensorrt, IExecutionContext, install_fake_tensorrt
from tensorrt_models import chain, dynamic, loop, opened, quantized, rows, save, value


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorrt]:
    made = install_fake_tensorrt(monkeypatch)
    yield made
    assert not made.cudart.blocks, "device memory was left behind"
    assert not made.cudart.streams, "a stream was left behind"


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


def test_on_a_fake_the_command_line_tells_of_the_observer_effect(
    fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    real = api.capture  # in this process: a worker's would not see the fake
    monkeypatch.setattr(api, "capture", lambda model, *a, **k: real(open_model(model, in_process=True), *a, **k))
    assert main(["capture", f"trt:{chain(tmp_path / 'a.onnx')}", "-o", str(tmp_path / "t.npz")]) == 0
    assert "observer effect: 0 (how far" in capsys.readouterr().out


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
    with pytest.raises(ModelError, match="cannot build the engine") as caught:
        list(backend.run(rows(), ["y"]))
    assert "--no-checks" in caught.value.hint
    result = aligndbg.diff(tmp_path / "a.onnx", opened(tmp_path / "a.onnx"), checks=False)
    assert result.verdict == "aligned"


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


def test_on_a_fake_packed_types_are_listed_with_the_reason(
    fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = fake_tensorrt._tensor

    def packed(info: Any) -> Any:
        tensor = real(info)
        tensor.dtype = fake.DataType.INT4 if tensor.name == "m" else tensor.dtype
        return tensor

    monkeypatch.setattr(fake_tensorrt, "_tensor", packed)
    graph = opened(chain(tmp_path / "a.onnx")).graph()
    assert graph.untapped == {"m": "INT4 values are packed, two in a byte, and not read"}
    assert graph.tappable() == ("r", "y")


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


def test_on_a_fake_unfused_tensors_need_static_sizes(fake: FakeTensorrt, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="needs static sizes"):
        opened(dynamic(tmp_path / "d.onnx"), strategy="unfused").graph()
    with pytest.raises(UsageError, match="before there are feeds"):
        opened(chain(tmp_path / "a.onnx"), strategy="unfused", precision="int8", calibration=tmp_path / "c").graph()


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
        graph = open_model(path, in_process=True).graph()
        (node,) = graph.nodes
        assert (node.inputs, node.outputs) == (("x",), ("y", "(inner tensors)"))
        assert "build it from ONNX" in graph.untapped["(inner tensors)"]
        assert graph.tappable() == ("y",)


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

    monkeypatch.setattr(session, "_copied", broken)
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


# ---- what is missing, or refused


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
