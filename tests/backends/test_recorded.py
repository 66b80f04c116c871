"""Trace files as backends: what they say of themselves, and that they do not run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.backends.recorded import RecordedBackend
from aligndbg.core.errors import ModelError, UnsupportedError
from aligndbg.trace.capture import capture
from aligndbg.trace.writer import write_trace


@pytest.fixture(params=[".npz", ".safetensors"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    model = MemoryBackend(inputs={"x": (2,)}, nodes=[MemoryNode("Neg", np.negative, ("x",), ("y",))], outputs=["y"])
    path = tmp_path / f"trace{request.param}"
    write_trace(path, capture(model, {"x": np.ones(2, np.float32)}))
    return path


def test_our_own_trace(path: Path) -> None:
    backend = RecordedBackend(str(path), {})
    assert backend.capabilities == {"graph"}
    assert [node.op_type for node in backend.graph().nodes] == ["Neg"]
    assert (backend.info.path, backend.info.backend) == (str(path), "recorded")
    assert backend.info.version == f"memory numpy {np.__version__}"
    assert backend.trace().info.backend == "memory"
    assert backend.trace().values["y"].tolist() == [-1, -1]


def test_values_outlive_close_and_the_file(path: Path) -> None:
    backend = RecordedBackend(str(path), {})
    value = backend.trace().values["y"]
    backend.close()
    path.unlink()
    assert value.tolist() == [-1, -1]


def test_anyones_dump(tmp_path: Path) -> None:
    np.savez(tmp_path / "dump.npz", conv1_Conv=np.zeros((1, 3)), names=np.array(["a"]))
    backend = RecordedBackend(str(tmp_path / "dump.npz"), {})
    assert backend.capabilities == frozenset()
    assert backend.graph().nodes == ()
    assert backend.graph().tensors["conv1_Conv"].shape == (1, 3)
    assert backend.info.version == "npz"
    assert list(backend.trace().missing) == ["names"]


def test_it_does_not_run(path: Path) -> None:
    with pytest.raises(UnsupportedError, match="cannot be run") as caught:
        RecordedBackend(str(path), {}).run({}, ["y"])
    assert "model file" in caught.value.hint


def test_python_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{}], object))
    with pytest.raises(ModelError, match="Python objects"):
        RecordedBackend(str(path), {})
