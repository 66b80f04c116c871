"""The command line in a process of its own, and files that are no models: exit codes, streams, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import environment, refused, strict


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    ("candidate", "code"), [("cnn.tflite", 0), ("cnn_weight_fault.tflite", 1)], ids=["aligned", "diverged"]
)
def test_a_broken_pipe_changes_no_result(
    fixtures: Path, tmp_path: Path, closed_pipe: int, candidate: str, code: int
) -> None:
    command = [sys.executable, "-m", "aligndbg", "diff", fixtures / "cnn.onnx", fixtures / candidate]
    done = subprocess.run(
        [*command, "--json", tmp_path / "out.json", "--all"],
        stdout=closed_pipe,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert strict((tmp_path / "out.json").read_text())["verdict"] == ("aligned", "diverged")[code]


@pytest.mark.parametrize(
    "command", [["demo"], ["doctor"], ["layers", "cnn.onnx"], ["capture", "cnn.onnx", "-o"], ["--help"]]
)
def test_no_command_minds_a_closed_pipe(fixtures: Path, tmp_path: Path, closed_pipe: int, command: list[str]) -> None:
    argv = [str(fixtures / word) if word.endswith(".onnx") else word for word in command]
    argv += [str(tmp_path / "trace.npz")] if command[-1] == "-o" else []
    done = subprocess.run(
        [sys.executable, "-m", "aligndbg", *argv],
        stdout=closed_pipe,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_of_its_own_gives_the_same_text(run: Any, fixtures: Path) -> None:
    argv = ["diff", str(fixtures / "cnn.onnx"), str(fixtures / "cnn_weight_fault.tflite")]
    done = subprocess.run(
        [sys.executable, "-m", "aligndbg", *argv], capture_output=True, text=True, env=environment(), check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == run(*argv).out


def test_a_terminal_without_unicode_gets_the_text_all_the_same(fixtures: Path) -> None:
    argv = ["diff", str(fixtures / "cnn.onnx"), str(fixtures / "cnn_weight_fault.tflite")]
    done = subprocess.run(
        [sys.executable, "-m", "aligndbg", *argv],
        capture_output=True,
        env=environment(PYTHONIOENCODING="ascii"),
        check=False,
    )
    assert done.returncode == 1
    assert b"/mix/Relu_output_0" in done.stdout
    assert not done.stderr


@pytest.fixture
def damaged(tmp_path: Path, fixtures: Path) -> Path:
    """A folder of files that are no models."""
    for suffix in ("onnx", "tflite"):
        whole = (fixtures / f"cnn.{suffix}").read_bytes()
        (tmp_path / f"truncated.{suffix}").write_bytes(whole[: len(whole) // 2])
        (tmp_path / f"empty.{suffix}").touch()
        (tmp_path / f"noise.{suffix}").write_bytes(np.random.default_rng(0).bytes(5000))
        (tmp_path / f"folder.{suffix}").mkdir()
    (tmp_path / "empty.npz").touch()
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "model.xyz").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *(f"{kind}.{suffix}" for kind in ("truncated", "empty", "noise", "folder") for suffix in ("onnx", "tflite")),
        "empty.npz",
        "noise.safetensors",
        "missing.onnx",
        "missing.tflite",
        "missing.npz",
        "model.xyz",
        "folder",
        "no/such/folder/model.onnx",
    ],
)
def test_a_file_that_is_no_model(run: Any, fixtures: Path, damaged: Path, name: str) -> None:
    refused(run("diff", damaged / name, fixtures / "cnn.tflite"), Path(name).name)
    refused(run("diff", fixtures / "cnn.onnx", damaged / name), Path(name).name)
    refused(run("layers", damaged / name), Path(name).name)


def test_an_unknown_kind_lists_the_known_ones(run: Any, damaged: Path, fixtures: Path) -> None:
    refused(run("diff", damaged / "model.xyz", fixtures / "cnn.tflite"), ".onnx", ".tflite", ".npz", ".safetensors")


def test_a_missing_file_gets_the_nearest_name(run: Any, fixtures: Path) -> None:
    refused(run("diff", fixtures / "cnn_int.tflite", fixtures / "cnn.tflite"), "cnn_int8.tflite")
