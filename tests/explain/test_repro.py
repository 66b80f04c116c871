"""`--repro`: the folder that it writes shows the difference with the plain runtimes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aligndbg
from aligndbg.core.errors import UsageError


def test_the_script_shows_the_faults_own_error(demo: Path, tmp_path: Path) -> None:
    found = aligndbg.diff(demo / "reference.onnx", demo / "candidate.tflite", repro=tmp_path / "repro", checks=False)
    folder = tmp_path / "repro" / "fault_1"
    assert {p.name for p in folder.iterdir()} == {
        "about.json", "candidate.tflite", "reference.onnx", "repro.py", "tensors.npz",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "repro.py"], cwd=folder, capture_output=True, text=True, check=True)
    said = re.search(r"relative L2: (\S+)", done.stdout)
    assert said is not None
    assert float(said[1]) == pytest.approx(found.faults[0].isolated_error, rel=1e-3)
    assert json.loads((folder / "about.json").read_text())["cause"]["kind"] == "padding"


def test_a_folder_that_cannot_be_written_is_a_usage_error(demo: Path, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        aligndbg.diff(demo / "reference.onnx", demo / "candidate.tflite", repro=taken, checks=False)


def test_a_clean_pair_writes_nothing(fixtures: Path, tmp_path: Path) -> None:
    aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn.tflite", repro=tmp_path / "repro", checks=False)
    assert not (tmp_path / "repro").exists()
