"""Many samples: where they come from, what is kept of them, and that sharing them out changes nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import aligndbg
from aligndbg.backends.open import absolute
from aligndbg.core.errors import ModelError, UsageError
from aligndbg.feeds.samples import list_samples
from aligndbg.pipeline.merge import Partial, merge, result_of

SHAPE = (1, 3, 32, 40)


@pytest.fixture(scope="module")
def pair(fixtures: Path) -> tuple[Path, Path]:
    return fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"


@pytest.fixture(scope="module")
def name(pair: tuple[Path, Path]) -> str:
    return aligndbg.layers(pair[0]).inputs[0]


def document(diff: aligndbg.Diff) -> dict[str, Any]:
    """All that a diff found; how long it took differs from run to run."""
    found: dict[str, Any] = json.loads(diff.to_json())
    del found["timing"], found["memory"]
    return found


def inputs(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).uniform(size=(count, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def singles(pair: tuple[Path, Path], name: str) -> list[aligndbg.Diff]:
    return [aligndbg.diff(*pair, {name: x}, isolate=False, checks=False) for x in inputs(5)]


def test_the_statistics_are_those_of_the_samples(singles: list[aligndbg.Diff]) -> None:
    found = result_of([Partial.of(k, f"s{k}", diff) for k, diff in enumerate(singles)])
    for i, measured in enumerate(found.pairs):
        errors = [diff.pairs[i].metrics.rel_l2 for diff in singles]
        assert measured.samples is not None
        assert (measured.samples["count"], measured.samples["of"]) == (5, 5)
        assert measured.samples["rel_l2_worst"] == max(errors)
        assert measured.samples["rel_l2_median"] == np.median(errors)
        assert measured.samples["rel_l2_p90"] == np.quantile(errors, 0.9)
        worst = measured.samples["worst_sample"]
        assert measured.metrics == singles[worst].pairs[i].metrics
    assert [row["name"] for row in found.samples] == ["s0", "s1", "s2", "s3", "s4"]
    assert [row["verdict"] for row in found.samples] == [diff.verdict for diff in singles]


def test_merging_in_any_order_and_grouping_gives_the_same(singles: list[aligndbg.Diff]) -> None:
    partials = [Partial.of(k, f"s{k}", diff) for k, diff in enumerate(singles)]
    serial = document(result_of(partials))
    for seed in range(5):
        shuffled = random.Random(seed).sample(partials, len(partials))
        cut = seed % 4 + 1
        grouped = [reduce(merge, shuffled[:cut]), reduce(merge, shuffled[cut:])]
        assert document(result_of(grouped)) == serial


def test_nan_is_the_worst_and_is_counted(singles: list[aligndbg.Diff]) -> None:
    from dataclasses import replace

    first = singles[1].pairs[0]
    broken = replace(first, metrics=replace(first.metrics, rel_l2=float("nan")))
    second = replace(singles[1], pairs=(broken, *singles[1].pairs[1:]))
    found = result_of([Partial.of(0, "a", singles[0]), Partial.of(1, "b", second)]).pairs[0]
    assert found.samples is not None
    assert (found.samples["worst_name"], found.samples["rel_l2_undefined"]) == ("b", 1)
    assert found.samples["rel_l2_worst"] == singles[0].pairs[0].metrics.rel_l2


# ---- datasets


def test_a_folder_and_an_npz_of_the_same_samples_give_the_same(
    pair: tuple[Path, Path], name: str, tmp_path: Path
) -> None:
    x = inputs(3)
    folder = tmp_path / "folder"
    folder.mkdir()
    for k in range(3):
        np.savez(folder / f"{k}.npz", **{name: x[k]})
    np.savez(tmp_path / "stacked.npz", **{name: x})
    np.savez(tmp_path / "batch.npz", **{name: x[:, 0]})  # the samples in the place of the batch
    found = [
        aligndbg.diff(*pair, dataset=path, isolate=False, checks=False)
        for path in (folder, tmp_path / "stacked.npz", tmp_path / "batch.npz")
    ]
    assert [len(diff.samples) for diff in found] == [3, 3, 3]
    assert [row["name"] for row in found[0].samples] == ["0.npz", "1.npz", "2.npz"]
    errors = [[row["output_rel_l2"] for row in diff.samples] for diff in found]
    assert errors[0] == errors[1] == errors[2]
    assert len(set(errors[0])) == 3
    assert found[1].samples[2]["name"] == "row 2"


def test_the_first_samples_of_a_dataset(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((5, 2)))
    assert [sample.row for sample in list_samples(tmp_path / "d.npz", 2, 0)] == [0, 1]
    assert [sample.seed for sample in list_samples(None, 3, 7)] == [7, 8, 9]


def test_what_is_no_dataset(tmp_path: Path) -> None:
    np.savez(tmp_path / "uneven.npz", x=np.zeros((5, 2)), y=np.zeros((4, 2)))
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 2)))
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "notes.txt").touch()
    (tmp_path / "none").mkdir()
    for path, count, said in (
        ("uneven.npz", None, "4, 5 rows"),
        ("empty.npz", None, "holds no sample"),
        ("mixed", None, "'notes.txt' is not a sample"),
        ("none", None, "holds no sample"),
        ("missing", None, "not a dataset"),
        ("empty.npz", 3, "holds 0 samples, not 3"),
    ):
        with pytest.raises(UsageError, match=said):
            list_samples(tmp_path / path, count, 0)


def test_a_bad_sample_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", inputs(1)[0])
    (tmp_path / "b.npy").write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"b\.npy"):
        aligndbg.diff(*pair, dataset=tmp_path, isolate=False, checks=False)


def test_options_that_do_not_go_together(pair: tuple[Path, Path], tmp_path: Path) -> None:
    aligndbg.capture(pair[0], output=tmp_path / "t.npz")
    for arguments, said in (
        ({"samples": 2, "inputs": inputs(1)[0]}, "random inputs or a dataset"),
        ({"samples": 2, "workers": 2, "scheduler": "tcp://localhost:1"}, "both workers and a scheduler"),
        ({"samples": 0}, "samples is 0"),
        ({"samples": 2, "workers": 0}, "workers is 0"),
    ):
        with pytest.raises(UsageError, match=said):
            aligndbg.diff(*pair, **arguments)
    with pytest.raises(UsageError, match="a trace is of one input"):
        aligndbg.diff(tmp_path / "t.npz", pair[1], samples=2)
    model = aligndbg.open_model(pair[0])
    with pytest.raises(UsageError, match="cannot be sent"):
        aligndbg.diff(model, pair[1], samples=2, workers=2)
    model.close()


# ---- several processes


@pytest.fixture(scope="module")
def serial(pair: tuple[Path, Path]) -> dict[str, Any]:
    return document(aligndbg.diff(*pair, samples=4))


def test_workers_give_what_one_process_gives(pair: tuple[Path, Path], serial: dict[str, Any]) -> None:
    steps = []
    found = aligndbg.diff(*pair, samples=4, workers=2, progress=lambda *step: steps.append(step))
    assert document(found) == serial
    assert len(found.faults) == 1
    assert steps[-1] == ("samples", 4, 4)


def test_errors_of_workers_are_errors_here(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"bad")
    with pytest.raises(ModelError, match=r"bad\.tflite"):
        aligndbg.diff(pair[0], tmp_path / "bad.tflite", samples=3, workers=2)


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(pair: tuple[Path, Path], tmp_path: Path, number: signal.Signals) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-m", "aligndbg", "diff", *map(str, pair), "--samples", "4000", "--workers", "2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        below: list[psutil.Process] = []
        end = time.monotonic() + 60
        while len(below) < 6 and time.monotonic() < end:  # two workers, two runtimes each (and a resource tracker)
            below = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.05)
        assert len(below) >= 6
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert not psutil.wait_procs(below, timeout=15)[1]
    assert out == ""
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert err == f"aligndbg: interrupted ({number.name}); an output that was not complete is not there\n"


def test_a_dask_cluster_gives_what_one_process_gives(
    pair: tuple[Path, Path], serial: dict[str, Any], tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        assert document(aligndbg.diff(*pair, samples=4, scheduler=address)) == serial
        (tmp_path / "bad.tflite").write_bytes(b"bad")
        with pytest.raises(ModelError, match=r"bad\.tflite"):
            aligndbg.diff(pair[0], tmp_path / "bad.tflite", samples=2, scheduler=address)


def test_a_scheduler_that_is_not_there(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("aligndbg.pipeline.many.CONNECT", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(UsageError, match="cannot be reached"):
            aligndbg.diff(*pair, samples=2, scheduler=address)


def test_a_job_crosses_with_paths_that_hold_anywhere(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pair[0].parent
    monkeypatch.chdir(folder)
    for model, sent in (
        (pair[0].name, f"{pair[0]}"),
        (f"onnx:{pair[0].name}?threads=1", f"onnx:{pair[0]}?threads=1"),
        (f"{pair[1].name}?kernels=ref", f"{pair[1]}?kernels=ref"),
        ("torch:torch_networks.py:build", f"torch:{folder / 'torch_networks.py'}:build"),
        ("torch:package.module:build", "torch:package.module:build"),
        ("onnx:x.onnx", "onnx:x.onnx"),
    ):
        assert absolute(model) == sent


def test_the_faulty_operators_of_the_worst_sample_are_written(pair: tuple[Path, Path], tmp_path: Path) -> None:
    serial, shared = tmp_path / "serial", tmp_path / "shared"
    aligndbg.diff(*pair, samples=2, repro=serial)
    found = aligndbg.diff(*pair, samples=2, workers=2, repro=shared)
    assert len(found.faults) == 1
    aligndbg.diff(*pair, repro=tmp_path / "single", seed=int(found.verdict_reason.split("seed ")[1][0]))
    written = []
    for folder in (tmp_path / "single", serial, shared):
        assert [f.name for f in folder.iterdir()] == ["fault_1"]
        with np.load(folder / "fault_1" / "tensors.npz") as tensors:
            written.append({name: tensors[name].tobytes() for name in tensors})
    assert written[0] == written[1] == written[2]


# ---- torch


NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x, scale=None):
        y = torch.relu(self.conv(x))
        return y if scale is None else y * scale
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A factory whose weights are random: of the seed that it is opened with."""
    pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def test_torch_factories_are_sent_and_made_of_one_seed(net: Path) -> None:
    model = f"torch:{net}:Net"
    options: dict[str, Any] = {"samples": 3, "shapes": ["1x3x8x8"], "seed": 5}
    serial = aligndbg.diff(model, f"{model}?threads=1", **options)
    assert [row["name"] for row in serial.samples] == ["seed 5", "seed 6", "seed 7"]
    assert serial.verdict == "aligned"  # both sides drew the same weights
    assert document(aligndbg.diff(model, f"{model}?threads=1", workers=2, **options)) == document(serial)


def test_a_live_module_is_compared_here_only(net: Path, tmp_path: Path) -> None:
    import torch

    words: dict[str, Any] = {}
    exec(NET, words)
    torch.manual_seed(0)
    live = words["Net"]()
    found = aligndbg.diff(live, live, samples=2, shapes=["1x3x8x8"])
    assert (found.verdict, len(found.samples)) == ("aligned", 2)
    for shared in ({"workers": 2}, {"samples": 2, "workers": 2}, {"samples": 2, "scheduler": "tcp://127.0.0.1:9"}):
        with pytest.raises(UsageError, match="a Net cannot be sent to another process"):
            aligndbg.diff(live, f"torch:{net}:Net", **shared)


def test_a_sample_is_fed_as_if_it_were_the_first(net: Path) -> None:
    """A torch module has no shapes: what the first sample was fed does not open other ways to feed the next."""
    options: dict[str, Any] = {"samples": 3, "shapes": ["1x3x8x8"], "isolate": False, "checks": False}
    serial = aligndbg.diff(f"torch:{net}:Net?seed=1", f"torch:{net}:Net", **options)
    assert serial.verdict == "diverged"
    for row in serial.samples:
        single = aligndbg.diff(
            f"torch:{net}:Net?seed=1", f"torch:{net}:Net?seed=0", **options | {"samples": 1, "seed": row["sample"]}
        )
        assert row["output_rel_l2"] == single.pairs[-1].metrics.rel_l2


def test_rows_say_what_a_torch_module_is_fed(net: Path, tmp_path: Path) -> None:
    model = f"torch:{net}:Net"
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(2, 3, 8, 8)).astype(np.float32), "scale": np.full((2, 1), 3, np.float32)}
    np.savez(tmp_path / "d.npz", **arrays)
    found = aligndbg.diff(model, f"{model}?inputs=x,scale", dataset=tmp_path / "d.npz")
    assert len(found.samples) == 2
    assert [line.split(" ->")[0] for line in found.inputs] == ["x", "scale"]


def test_the_command_line_shows_how_samples_spread(pair: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["diff", *map(str, pair), "--samples", "3", "--no-isolate", "--csv", tmp_path / "d.csv"]
    done = subprocess.run(
        [sys.executable, "-m", "aligndbg", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "worst of 3 samples" in done.stdout
    assert "median" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "rel_l2_p99" in (tmp_path / "d.csv").read_text().splitlines()[0]
