"""What a machine does to a command: signals, time limits, full disks, folders that are read-only or not there."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

import aligndbg

PACKAGE = Path(aligndbg.__file__).parent
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER = 24, 1, 2, 3  # of linux/prctl.h, capability.h

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits as POSIX has them")


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "aligndbg", *map(str, words)]


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A model whose Loop does not end in a lifetime."""
    helper = onnx.helper
    scalar = helper.make_tensor_value_info("", onnx.TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Sin", ["v_in"], ["v_out"]), helper.make_node("Identity", ["go_in"], ["go_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_in", onnx.TensorProto.FLOAT, [64]),
        ],
        [
            helper.make_tensor_value_info("go_out", scalar.type.tensor_type.elem_type, []),
            helper.make_tensor_value_info("v_out", onnx.TensorProto.FLOAT, [64]),
        ],
    )
    trips = onnx.numpy_helper.from_array(np.array(1 << 62), "trips")
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64])],
        [trips],
    )
    path = tmp_path / "endless.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_message_and_nothing_else(endless: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "tmp").mkdir()
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    words = command("capture", endless, "-o", tmp_path / "t.npz")

    def heed() -> None:
        """What runs in the background, or under nohup, inherits that some signals are ignored."""
        signal.signal(number, signal.SIG_DFL)

    pipe = subprocess.PIPE
    with subprocess.Popen(words, stderr=pipe, stdout=pipe, text=True, env=env, preexec_fn=heed) as process:
        children: list[psutil.Process] = []

        def computing() -> bool:
            children[:] = psutil.Process(process.pid).children()
            return bool(children) and sum(children[0].cpu_times()[:2]) > 2

        wait_for(computing)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # else leaving the block would wait for it, and it never ends by itself
    assert (process.returncode, out) == (128 + number, "")
    assert err == f"aligndbg: interrupted ({number.name}); an output that was not complete is not there\n"
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["endless.onnx", "tmp"]
    assert not list((tmp_path / "tmp").iterdir())


def test_the_time_limit_ends_a_model_that_does_not(endless: Path, tmp_path: Path) -> None:
    words = command("capture", endless, "-o", tmp_path / "t.npz", "--timeout", "3")
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"aligndbg: error: {endless}: ran past 3 s and was stopped\n  hint: ")
    assert not (tmp_path / "t.npz").exists()


def limited(size: int) -> Callable[[], None]:
    """For subprocess: no file of that process or its children may grow past `size` bytes, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_leaves_no_output_and_still_the_result(fixtures: Path, tmp_path: Path) -> None:
    words = command("diff", fixtures / "attention.onnx", fixtures / "attention.tflite", "--json", tmp_path / "d.json")
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False, preexec_fn=limited(4096))
    assert done.returncode == 2
    assert "d.json: cannot write: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("ALIGNED")
    assert not list(tmp_path.iterdir())


def test_a_trace_on_a_full_disk_leaves_the_old_one(fixtures: Path, tmp_path: Path) -> None:
    trace = tmp_path / "t.npz"
    trace.write_bytes(b"old")
    words = command("capture", fixtures / "attention.onnx", "-o", trace)
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False, preexec_fn=limited(4096))
    assert done.returncode == 2
    assert "t.npz: cannot write: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]
    assert trace.read_bytes() == b"old"


def without_override() -> None:
    """For subprocess: root obeys the modes of files, as everybody else does."""
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_read_only_install_without_a_home(tmp_path: Path, fixtures: Path) -> None:
    """As a service or a container has it: nothing but the folder for temporary files may be written."""
    site, scratch, work = tmp_path / "site", tmp_path / "scratch", tmp_path / "work"
    shutil.copytree(PACKAGE, site / "aligndbg", ignore=shutil.ignore_patterns("__pycache__"))
    scratch.mkdir()
    work.mkdir()
    for path in (work, site, *site.rglob("*")):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(site), "TMPDIR": str(scratch), "HOME": "/nonexistent"}

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            cwd=work,
            env=env,
            preexec_fn=without_override,
        )

    try:
        done = run("demo")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("DIVERGED")
        done = run("capture", fixtures / "attention.onnx", "-o", "t.npz")
        assert done.returncode == 2
        assert done.stderr.startswith("aligndbg: error: t.npz: cannot write into ")
        assert not [*scratch.iterdir(), *work.iterdir(), *site.rglob("__pycache__")]
    finally:
        for path in (work, site, *site.rglob("*")):
            os.chmod(path, 0o755 if path.is_dir() else 0o644)
