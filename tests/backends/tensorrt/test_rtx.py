"""The real TensorRT-RTX: it parses, marks and builds without a GPU, and loads nothing. At the end, what needs a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import aligndbg
from aligndbg.backends.open import open_model
from aligndbg.backends.tensorrt.backend import TensorrtBackend
from aligndbg.backends.tensorrt.build import STRATEGIES, Network, Settings, build, onnx_names
from aligndbg.backends.tensorrt.from_onnx import OnnxSource
from aligndbg.backends.tensorrt.library import Library, find_library, make_log
from aligndbg.backends.tensorrt.session import device_trouble
from aligndbg.core.errors import MissingDependencyError, ModelError, UsageError
from tensorrt_models import Feeds, chain, dynamic, halves, loop, opened, quantized, rows, save, value


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


@pytest.mark.parametrize("strategy", STRATEGIES)
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
