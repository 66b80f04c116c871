"""A backend of a package outside: found by its entry point, only where ours have no answer, and told of when broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg_evaluator
from aligndbg.backends import registry
from aligndbg.backends.doctor import check_backends
from aligndbg.backends.open import open_model
from aligndbg.backends.registry import REGISTRY
from aligndbg.core.errors import UsageError
from aligndbg.core.types import Backend
from aligndbg.testing.conformance import BackendConformance
from aligndbg_evaluator.backend import EvaluatorBackend


def installed(site: Path, **points: str) -> Path:
    """A folder for `sys.path`, as pip leaves one: the evaluator's package, and entry points of the group."""
    package = Path(aligndbg_evaluator.__file__).parent
    shutil.copytree(package, site / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    about = site / "aligndbg_evaluator-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: aligndbg-evaluator\nVersion: 1.0\n")
    lines = [f"{name} = {value}\n" for name, value in points.items()]
    (about / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{''.join(lines)}")
    return site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    points = {"evaluator": "aligndbg_evaluator:ENTRY", "onnx": "aligndbg_evaluator:ENTRY"}
    made = installed(tmp_path / "site", **points, broken="no_such_module:ENTRY", odd="aligndbg_evaluator:__name__")
    monkeypatch.syspath_prepend(made)
    return made


class TestEvaluator(BackendConformance):
    max_overrides = 6

    @pytest.fixture
    def backend(self, fixtures: Path) -> Iterator[Backend]:  # type: ignore[override]
        backend = EvaluatorBackend(str(fixtures / "attention.onnx"), {})
        yield backend
        backend.close()

    @pytest.fixture
    def feeds(self, backend: Backend) -> dict[str, np.ndarray[Any, Any]]:  # type: ignore[override]
        graph, rng = backend.graph(), np.random.default_rng(0)
        return {n: rng.standard_normal(graph.tensors[n].static_shape).astype(np.float32) for n in graph.inputs}


def run_cli(site: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "aligndbg", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_command_line_runs_it_in_a_worker(site: Path, demo: Path) -> None:
    done = run_cli(site, "diff", f"evaluator:{demo / 'reference.onnx'}", demo / "candidate.tflite")
    assert done.returncode == 1, done.stderr
    assert "padding" in done.stdout
    assert run_cli(site, "layers", f"evaluator:{demo / 'reference.onnx'}").returncode == 0


def test_it_is_found_by_name_and_by_suffix_but_ours_win(site: Path, demo: Path, tmp_path: Path) -> None:
    model = shutil.copy(demo / "reference.onnx", tmp_path / "a.onnx.ref")
    for name, backend in ((model, "evaluator"), (f"evaluator:{model}", "evaluator"), (f"onnx:{model}", "onnx")):
        opened = open_model(name, in_process=True)
        assert opened.info.backend == backend
        opened.close()


def test_a_broken_one_is_told_of_only_when_it_is_asked_for(site: Path, demo: Path, tmp_path: Path) -> None:
    open_model(f"evaluator:{demo / 'reference.onnx'}", in_process=True).close()
    with pytest.raises(UsageError, match=r"broken backend of the package aligndbg-evaluator cannot be loaded.*no_such"):
        open_model("broken:a.model")
    with pytest.raises(UsageError, match="is no Entry of that name"):
        open_model("odd:a.model")
    (tmp_path / "a.model").touch()
    with pytest.raises(UsageError, match=r"unknown kind of model '\.model'") as caught:
        open_model(tmp_path / "a.model")
    assert ".onnx.ref" in caught.value.hint
    assert "broken backend" in caught.value.hint


def test_the_doctor_lists_it(site: Path) -> None:
    states = {state.entry.name: state for state in check_backends()}
    assert [*states] == [*REGISTRY, "evaluator", "broken", "odd"]
    assert states["evaluator"].works
    assert not states["broken"].works
    assert "no_such_module" in states["broken"].text
    assert not any(states[name].broken for name in ("broken", "odd"))  # the base install is whole


def test_nobody_looks_for_them_where_ours_do(monkeypatch: pytest.MonkeyPatch, demo: Path) -> None:
    monkeypatch.setattr(registry, "_points", lambda _: pytest.fail("looked"))
    for model in (demo / "reference.onnx", f"onnx:{demo / 'reference.onnx'}"):
        open_model(model, in_process=True).close()
