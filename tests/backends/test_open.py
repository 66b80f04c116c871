"""From what a user writes to an open backend, and what is said when it cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aligndbg.backends import open as _open
from aligndbg.backends.base import BaseBackend
from aligndbg.backends.memory import MemoryBackend
from aligndbg.backends.onnx.backend import OnnxBackend
from aligndbg.backends.open import open_model
from aligndbg.backends.recorded import RecordedBackend
from aligndbg.backends.registry import REGISTRY, Entry
from aligndbg.backends.worker.client import WorkerBackend
from aligndbg.core.errors import AligndbgError, MissingDependencyError, ModelError, UsageError
from aligndbg.core.types import Backend, ModelInfo


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with relu.onnx, dump.npz and some of odd names."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for name in ("relu.onnx", "a?b=c.onnx", "Upper.ONNX", "onnx:odd.onnx", "c+d e.onnx"):
        onnx.save(model, tmp_path / name)
    np.savez(tmp_path / "dump.npz", x=np.zeros(1))
    (tmp_path / "sub.onnx").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(model: str | os.PathLike[str], **options: bool) -> Backend:
    return open_model(model, in_process=True, **options)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("relu.onnx", "relu.onnx"),
        ("Upper.ONNX", "Upper.ONNX"),
        ("onnx:relu.onnx", "relu.onnx"),
        ("a?b=c.onnx", "a?b=c.onnx"),
        (Path("a?b=c.onnx"), "a?b=c.onnx"),
        ("onnx:odd.onnx", "onnx:odd.onnx"),
        ("c+d e.onnx", "c+d e.onnx"),
    ],
)
def test_paths_and_prefixes(folder: Path, model: str | Path, path: str) -> None:
    backend = opened(model)
    assert isinstance(backend, OnnxBackend)
    assert backend.info.path == path


def test_options_as_a_query(folder: Path) -> None:
    assert opened("relu.onnx?graph_optimization=basic&threads=%31").info.options["graph_optimization"] == "basic"
    assert opened("onnx:relu.onnx?threads=%31").info.options["threads"] == "1"
    assert opened("relu.onnx?").info.path == "relu.onnx"


def test_a_worker_unless_in_process(folder: Path) -> None:
    backend = open_model("relu.onnx", timeout=60)
    assert isinstance(backend, WorkerBackend)
    values = dict(backend.run({"x": np.array([-1, 1], np.float32)}, ["y"]))
    assert values["y"].tolist() == [0, 1]
    assert backend.info.backend == "onnx"
    backend.close()
    assert isinstance(open_model("dump.npz"), RecordedBackend)


def test_a_relative_path_survives_a_change_of_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_model("relu.onnx")
    assert isinstance(backend, WorkerBackend)
    backend.ready()
    backend._drop()  # as after a crash: the next call starts another child
    monkeypatch.chdir("/")
    assert backend.graph().outputs == ("y",)
    backend.close()


def test_a_backend_passes_through(folder: Path) -> None:
    memory = MemoryBackend(inputs={"x": (1,)}, nodes=[], outputs=["x"])
    assert open_model(memory) is memory
    worker = open_model("relu.onnx")
    assert open_model(worker) is worker
    worker.close()


REFUSED: list[tuple[str, type[AligndbgError], str, str]] = [
    ("relu.onx", ModelError, "no such file", "relu.onnx"),
    ("model.pb", ModelError, "no such file", ""),
    ("there/relu.onnx", ModelError, "no such file", "no folder there"),
    ("sub.onnx", ModelError, "a folder", ""),
    ("sub.onnx/", ModelError, "a folder", ""),
    ("onnx:rel.onnx", ModelError, "no such file", "relu.onnx"),
    ("onx:relu.onnx", UsageError, "unknown backend 'onx'", "onnx"),
    ("relu.onnx?graph_optimisation=all", UsageError, "no option 'graph_optimisation'", "graph_optimization"),
    ("relu.onnx?threads", UsageError, "'threads' is not name=value", ""),
    ("relu.onnx?threads=1&threads=2", UsageError, "'threads' is given twice", ""),
    ("dump.npz?x=1", UsageError, "no option 'x'", "it takes none"),
    ("recorded:thing", UsageError, "kind of trace", ".npz"),
    ("memory:thing", UsageError, "made in Python", ""),
    ("C:\\models\\net.onnx", ModelError, "no such file", ""),
    ("http://host/net.onnx", ModelError, "no such file", ""),
    ("", ModelError, "no such file", ""),
]


@pytest.mark.parametrize(("model", "kind", "fact", "hint"), REFUSED, ids=[case[0] or "nothing" for case in REFUSED])
def test_refusals(folder: Path, model: str, kind: type[AligndbgError], fact: str, hint: str) -> None:
    with pytest.raises(kind) as caught:
        opened(model)
    assert fact in caught.value.fact
    assert caught.value.hint
    assert hint in caught.value.hint


def test_an_unknown_kind_lists_the_known_ones(folder: Path) -> None:
    Path("net.caffemodel").touch()
    Path("net").touch()
    for name, fact in (("net.caffemodel", "'.caffemodel'"), ("net", "does not say")):
        with pytest.raises(UsageError, match=fact) as caught:
            opened(name)
        assert all(suffix in caught.value.hint for entry in REGISTRY.values() for suffix in entry.suffixes)
    with pytest.raises(UsageError, match="cannot open a int"):
        open_model(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_bad_timeout(folder: Path, timeout: float) -> None:
    with pytest.raises(UsageError, match="timeout"):
        open_model("relu.onnx", timeout=timeout)
    with pytest.raises(UsageError, match="timeout"):
        open_model(MemoryBackend(inputs={"x": (1,)}, nodes=[], outputs=["x"]), timeout=timeout)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(folder: Path) -> None:
    Path("relu.onnx").chmod(0)
    with pytest.raises(ModelError, match="no permission"):
        opened("relu.onnx")


@pytest.mark.parametrize(("extra", "command"), [("", '"aligndbg"'), ("caffe", '"aligndbg[caffe]"')])
def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, extra: str, command: str) -> None:
    entry = replace(REGISTRY["onnx"], extra=extra, needs=("onnx", "no_such_package"))
    monkeypatch.setitem(REGISTRY, "onnx", entry)
    with pytest.raises(MissingDependencyError, match="no_such_package") as caught:
        opened("relu.onnx")
    assert caught.value.hint == f"pip install {command}"


def test_the_longest_suffix_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []

    def choose(backend: str, *_: object) -> None:
        chosen.append(backend)

    monkeypatch.setattr(_open, "check_options", choose)
    monkeypatch.setitem(REGISTRY, "short", Entry("short", REGISTRY["onnx"].target, (".model",)))
    monkeypatch.setitem(REGISTRY, "long", Entry("long", REGISTRY["onnx"].target, (".big.model",)))
    for name in ("a.model", "a.big.model"):
        Path("relu.onnx").rename(name)
        opened(name)
        Path(name).rename("relu.onnx")
    assert chosen == ["short", "long"]


class Told(BaseBackend):
    """Tells what it was opened with."""

    OPTIONS: ClassVar[Mapping[str, str]] = {"bin": "the weights"}
    capabilities = frozenset({"graph"})

    def __init__(self, target: str, options: Mapping[str, str]) -> None:
        self.info = ModelInfo(target, "told", options=dict(options))


@pytest.fixture
def two_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends of a folder, and of two kinds of two files that share the second suffix."""
    told = f"{__name__}:Told"
    for name, end in (("one", ".graph"), ("other", ".net")):
        monkeypatch.setitem(REGISTRY, name, Entry(name, told, (end,), companions={end: ".bin"}))
    monkeypatch.setitem(REGISTRY, "whole", Entry("whole", told, folders=("saved.pb", "saved.txt")))
    for file in ("a.graph", "a.bin", "b.net", "b.bin", "lone.net", "alone.bin", "w.bin"):
        Path(file).touch()
    Path("saved").mkdir()
    Path("saved/saved.txt").touch()


@pytest.mark.parametrize(
    ("model", "path", "weights"),
    [
        ("a.graph", "a.graph", "a.bin"),
        ("a.bin", "a.graph", "a.bin"),
        ("b.bin", "b.net", "b.bin"),
        (Path("b.bin"), "b.net", "b.bin"),
        ("other:b.bin", "b.net", "b.bin"),
        ("lone.net?bin=w.bin", "lone.net", "w.bin"),
        ("saved", "saved", None),
        ("whole:saved/", "saved/", None),
    ],
)
@pytest.mark.usefixtures("two_files")
def test_folders_and_files_with_companions(model: str | Path, path: str, weights: str | None) -> None:
    backend = opened(model)
    assert (backend.info.path, backend.info.options.get("bin")) == (path, weights)


@pytest.mark.parametrize(
    ("model", "fact", "hint"),
    [
        ("lone.net", "lone.bin is not beside it", "say where it is: lone.net?bin=FILE"),
        ("alone.bin", "alone.graph or alone.net is not beside it", "put it there"),
        ("one:alone.bin", "alone.graph is not beside it", "put it there"),
        ("lone.net?bin=no.bin", "no such file", "w.bin"),
        ("c.net", "no such file", "b.net"),
        ("c.bin", "no such file", "a.bin"),
        ("whole:sub.onnx", "a folder without saved.pb or saved.txt", "holds it"),
    ],
)
@pytest.mark.usefixtures("two_files")
def test_companions_that_are_missing(model: str, fact: str, hint: str) -> None:
    with pytest.raises(ModelError, match=fact) as caught:
        opened(model)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("target", "says"),
    [("no_such_module:C", "cannot be loaded"), ("pathlib:Path", "no subclass of BaseBackend")],
)
def test_a_class_that_is_no_backend(folder: Path, monkeypatch: pytest.MonkeyPatch, target: str, says: str) -> None:
    monkeypatch.setitem(REGISTRY, "odd", Entry("odd", target, (".odd",)))
    Path("a.odd").touch()
    with pytest.raises(UsageError, match=says):
        opened("a.odd")


@pytest.mark.parametrize("make", [open_model, opened])
def test_a_file_that_is_no_model(folder: Path, make: Callable[[str], Backend]) -> None:
    Path("bad.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError):
        make("bad.onnx").graph()
