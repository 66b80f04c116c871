"""Options and their values: what is refused, before anything runs, and what reaches the backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import environment, refused, strict


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nowhere:{}/cnn.onnx", ("nowhere", "onnx", "tflite")),
        ("memory:x", ("memory",)),
        ("{}/cnn.onnx?optimization=all", ("optimization", "graph_optimization")),
        ("{}/cnn.onnx?graph_optimization=most", ("most", "extended")),
        ("{}/cnn.onnx?threads=many", ("threads",)),
        ("{}/cnn.tflite?kernels=fast", ("fast", "ref")),
        ("{}/cnn.tflite?threads", ("threads",)),
    ],
)
def test_unknown_backends_and_options(run: Any, fixtures: Path, model: str, words: tuple[str, ...]) -> None:
    refused(run("diff", model.format(fixtures), fixtures / "cnn.tflite"), *words)


@pytest.mark.parametrize("kernels", ["xnn", "opt", "ref"])
def test_options_reach_the_backend(run: Any, fixtures: Path, tmp_path: Path, kernels: str) -> None:
    done = run("diff", fixtures / "cnn.onnx", f"{fixtures}/cnn.tflite?kernels={kernels}", "--json", tmp_path / "o.json")
    assert done.code == 0
    assert strict((tmp_path / "o.json").read_text())["candidate"]["options"]["kernels"] == kernels


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--jsn", "x"), ("--jsn",)),
        (("--max-fault", "3"), ("--max-fault",)),  # no abbreviations: an option may be added later
        (("--seed", "x"), ("--seed",)),
        (("--atol",), ("--atol",)),
        (("--atol", "nan"), ("atol",)),
        (("--atol", "-1"), ("atol",)),
        (("--min-coverage", "7"), ("--min-coverage",)),
        (("--max-memory", "-5"), ("--max-memory",)),
        (("--max-memory", "lots"), ("512M",)),
        (("--max-faults", "0"), ("--max-faults",)),
        (("--timeout", "0"), ("--timeout",)),
        (("--resize", "0,4"), ("--resize",)),
        (("--resize", "-1,4"), ("--resize",)),
        (("--mean", "a,b"), ("--mean",)),
        (("--distribution", "cauchy"), ("normal",)),
        (("--val-range", "1"), ("--val-range", "LO,HI")),
        (("--val-range", "0,1", "--input", "x.npy"), ("random",)),
        (("--val-range", "2,1"), ("--val-range", "LO,HI")),
        (("--val-range", "inputt=0,1"), ("inputt", "input")),
        (("--shape", "1x3x0x"), ("--shape",)),
        (("--shape", "1x3x64x64"), ("--shape", "32")),
        (("--tol", "op=Cov:atol=1"), ("op=Cov", "layers")),
        (("--tol", "name=/nowhere/*:atol=1"), ("/nowhere/*",)),
        (("--tol", "op=Conv:atl=1"), ("atl", "atol")),
        (("--tol", "op=Conv"), ("op=Conv",)),
        (("--map", "/mix/Relu_output=x"), ("/mix/Relu_output_0",)),
        (("--map", "/mix/Relu_output_0=StatefulPartitioned"), ("StatefulPartitionedCall",)),
        (("--map", "/mix/Relu_output_0=StatefulPartitionedCall_1:0"), ("/mix/Relu_output_0", "elements")),
        (("--map", "nothing"), ("--map", "reference=candidate")),
        (("--map", "=x"), ("--map",)),
        (("--input-map", "input=x"), ("serving_default",)),
        (("--input-map", "x=y"), ("input",)),
        (("--json", "no/such/folder/out.json"), ("no/such/folder/out.json",)),
        (("--csv", "no/such/folder/out.csv"), ("no/such/folder/out.csv",)),
        (("--html", "no/such/folder/out.html"), ("no/such/folder/out.html",)),
        (("--json", "."), (".",)),
        (("--input", "missing.npz"), ("missing.npz",)),
        (("--input", "nobody=missing.npy"), ("nobody",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_arguments(
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fixtures: Path,
    options: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", *options), *words)
    assert list(tmp_path.iterdir()) == []  # no half-written file is left


def test_no_command_and_unknown_command(run: Any) -> None:
    refused(run())
    refused(run("dif"), "diff")
    refused(run("diff"), "reference")


def test_a_map_file_that_is_no_text(run: Any, fixtures: Path) -> None:
    refused(run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", "--map", fixtures / "cnn.onnx"), "--map")


def test_a_map_that_contradicts_itself(run: Any, fixtures: Path) -> None:
    twice = ("--map", "a=b", "--map", "a=c")
    refused(run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", *twice), "twice")


@pytest.mark.parametrize("option", ["--sort", "--columns"])
def test_an_unknown_column_is_said_before_anything_runs(run: Any, option: str) -> None:
    done = run("diff", "no_such.onnx", "no_such.tflite", option, "rel_l3")
    assert done.code == 2
    assert "rel_l3" in done.err
    assert "rel_l2" in done.err


def test_version_and_help(run: Any) -> None:
    import aligndbg

    assert run("--version").out == f"aligndbg {aligndbg.__version__}\n"
    text = run("--help").out
    assert all(command in text for command in ("diff", "layers", "capture", "demo", "doctor"))
    assert "3 inconclusive" in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom aligndbg.cli.main import main\n"
        "try:\n    main(['diff', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'numpy', 'onnx', 'onnxruntime', 'ai_edge_litert', 'pandas', 'rich', 'matplotlib', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.splitlines()[-1] == "[]"
