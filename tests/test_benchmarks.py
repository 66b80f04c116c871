"""The scripts of benchmarks/ that make tables: they run, and count what is there. What they time is not tested."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

import aligndbg

FOLDER = Path(__file__).parent.parent / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pairs(tmp_path: Path, fixtures: Path) -> Path:
    """A folder as the tables take it: one network in three float files and an int8 one."""
    folder = tmp_path / "pairs" / "cnn"
    folder.mkdir(parents=True)
    for name in ("cnn.onnx", "cnn_opset_b.onnx", "cnn.tflite", "cnn_int8.tflite"):
        shutil.copy(fixtures / name, folder / name)
    return folder.parent


def test_the_table_compares_every_float_pair_then_the_quantized_ones(pairs: Path) -> None:
    cases = list(load("pairs_table").cases_of(pairs / "cnn"))
    assert [(case.reference.name, case.candidate.name, case.quantized) for case in cases] == [
        ("cnn.onnx", "cnn.tflite", False),
        ("cnn_opset_b.onnx", "cnn.tflite", False),
        ("cnn.onnx", "cnn_opset_b.onnx", False),
        ("cnn.onnx", "cnn_int8.tflite", True),
        ("cnn_opset_b.onnx", "cnn_int8.tflite", True),
    ]


def test_stages_of_one_folder_are_not_compared_with_each_other(tmp_path: Path) -> None:
    for name in ("model_1.onnx", "model_2.onnx", "model_1.tflite", "model_2.tflite", "model_quant_1.tflite"):
        (tmp_path / name).touch()
    cases = load("pairs_table").cases_of(tmp_path)
    assert [(case.reference.stem, case.candidate.stem) for case in cases] == [
        ("model_1", "model_1"),
        ("model_2", "model_2"),
        ("model_1", "model_quant_1"),
    ]


def test_the_table_is_markdown_with_one_row_a_pair(pairs: Path) -> None:
    command = [sys.executable, FOLDER / "pairs_table.py", pairs, "--only", "cnn.tflite"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FOLDER.parent)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert [row[:5] for row in rows[2:]] == [
        ["pairs/cnn/cnn.onnx", "pairs/cnn/cnn.tflite", "aligned", "0", "18"],
        ["pairs/cnn/cnn_opset_b.onnx", "pairs/cnn/cnn.tflite", "aligned", "0", "18"],
    ]


def test_the_table_fails_on_a_broken_file(pairs: Path) -> None:
    (pairs / "cnn" / "cnn.tflite").write_bytes(b"no model")
    command = [sys.executable, FOLDER / "pairs_table.py", pairs, "--only", "cnn.onnx"]
    done = subprocess.run([*command], capture_output=True, text=True, check=False, cwd=FOLDER.parent)
    assert done.returncode == 1
    assert "error: " in done.stdout
    assert "Traceback" not in done.stderr


def test_the_base_of_the_cost_fetches_every_tensor(fixtures: Path) -> None:
    cost = load("diff_cost")
    x = np.random.default_rng(0).uniform(size=(1, 3, 32, 40)).astype(np.float32)
    outputs = [name for node in onnx.load(fixtures / "cnn.onnx").graph.node for name in node.output]
    assert cost.run_onnx(fixtures / "cnn.onnx", x) == len(outputs)
    graph = aligndbg.layers(fixtures / "cnn.tflite")
    assert cost.run_tflite(fixtures / "cnn.tflite", x.transpose(0, 2, 3, 1)) == len(graph.tappable())


def test_the_cost_is_measured_in_turns(fixtures: Path) -> None:
    cost = load("diff_cost")
    times = cost.measure(fixtures / "cnn.onnx", fixtures / "cnn.tflite", repeat=1)
    assert list(times) == ["base", *cost.MODES]
    assert all(len(values) == 1 and values[0] > 0 for values in times.values())
