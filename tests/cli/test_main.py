"""The command line, run for real on the bundled models: exit codes, the JSON contract, what goes where, errors."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from aligndbg.cli.main import main
from aligndbg.core.types import FLOAT_DTYPES

Document = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]

SHAPE = (1, 3, 32, 40)  # of cnn.onnx's input; cnn.tflite has the channels last


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """`run("diff", ...)` -> Done; a usage error of argparse is an exit code like any other."""

    def call(*argv: str | Path) -> Done:
        capsys.readouterr()
        try:
            code = main([str(a) for a in argv])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text must not depend on the machine that runs the tests."""
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def strict(text: str) -> Document:
    """JSON as the standard has it: no NaN, no Infinity, no key twice."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def once(pairs: list[tuple[str, Any]]) -> Document:
        assert len({key for key, _ in pairs}) == len(pairs), "a key comes twice"
        return dict(pairs)

    document: Document = json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    return document


def node_outputs(path: Path) -> int:
    """The float or quantized values that a model's nodes compute, counted without aligndbg."""
    if path.suffix == ".onnx":
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        types = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output]}
        made = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name]
        return sum(helper.tensor_dtype_to_np_dtype(types[name]).name in FLOAT_DTYPES for name in made)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    fixed = {i for i, t in enumerate(graph.tensors) if model.buffers[t.buffer].data is not None}
    tensors = [graph.tensors[i] for op in graph.operators if not {*op.inputs} <= fixed for i in op.outputs]
    quantized = [t.quantization is not None and t.quantization.scale is not None for t in tensors]
    floats = [t.type == schema.TensorType.FLOAT32 for t in tensors]
    return sum(q or f for q, f in zip(quantized, floats, strict=True))


# --- exit codes and verdicts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "candidate", "code"),
    [
        ("cnn.onnx", "cnn.tflite", 0),
        ("cnn.tflite", "cnn.onnx", 0),
        ("cnn.onnx", "cnn_opset_b.onnx", 0),
        ("cnn_opset_b.onnx", "cnn.tflite", 0),
        ("cnn.onnx", "cnn_fp16.tflite", 0),
        ("cnn.onnx", "cnn_dynamic.tflite", 0),
        ("cnn.onnx", "cnn_int8.tflite", 0),
        ("cnn.tflite", "cnn_int8.tflite", 0),
        ("attention.onnx", "attention.tflite", 0),
        ("lstm.onnx", "lstm.tflite", 0),
        ("cnn.onnx", "cnn_weight_fault.tflite", 1),
        ("cnn_weight_fault.tflite", "cnn.onnx", 1),
    ],
)
def test_exit_code_verdict_and_coverage(
    run: Any, fixtures: Path, tmp_path: Path, reference: str, candidate: str, code: int
) -> None:
    sides = {"reference": fixtures / reference, "candidate": fixtures / candidate}
    done = run("diff", *sides.values(), "--json", tmp_path / "out.json")
    document = strict((tmp_path / "out.json").read_text())
    assert done.code == code
    assert document["verdict"] == ("aligned", "diverged")[code]
    assert bool(document["faults"]) == bool(code)
    assert done.out.startswith(document["verdict"].upper())
    assert done.err == ""
    for side, path in sides.items():
        counts = document["coverage"][side]
        listed = [u["class"] for u in document["unmatched"][side]]
        assert sum(counts.values()) == node_outputs(path)
        assert counts["compared"] == len(document["pairs"])
        assert {kind: listed.count(kind) for kind in counts if kind != "compared"} == {
            kind: count for kind, count in counts.items() if kind != "compared"
        }


def test_the_fault_is_named_at_its_operator(run: Any, fixtures: Path, tmp_path: Path) -> None:
    done = run("diff", fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite", "--json", tmp_path / "out.json")
    document = strict((tmp_path / "out.json").read_text())
    (fault,) = document["faults"]
    assert fault["reference"] == "/mix/Relu_output_0"
    assert fault["region"]["reference"]["nodes"] == ["/mix/Conv", "/mix/Relu"]
    assert fault["candidate_op"] == "CONV_2D"
    assert fault["isolated_unit"] == "rel_l2"
    assert fault["isolated_error"] > 1e-3
    states = {p["reference"]: p["status"] for p in document["pairs"]}
    assert states["/mix/Relu_output_0"] == "fault"
    assert list(states.values()).count("fault") == 1
    assert states["/stem/Clip_output_0"] == "pass"
    assert states["/residual/Add_output_0"] == "drift"
    assert "/mix/Relu_output_0" in done.out


def test_inconclusive_is_3_and_writes_json(run: Any, fixtures: Path, tmp_path: Path) -> None:
    """Zeros in, zeros out: equal values that prove nothing are no agreement."""
    model = tmp_path / "zeros.onnx"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    done = run("diff", model, model, "--json", tmp_path / "out.json")
    document = strict((tmp_path / "out.json").read_text())
    assert (done.code, document["verdict"]) == (3, "inconclusive")
    by_name = {p["reference"]: p for p in document["pairs"]}
    assert by_name["y"]["status"] == "unknown"
    assert by_name["y"]["metrics"]["rel_l2"] == "nan"
    assert by_name["y"]["metrics"]["cosine"] == "nan"
    assert "zero" in by_name["y"]["metrics"]["reasons"]["cosine"]
    assert by_name["a"]["metrics"]["sqnr_db"] == "inf"  # bit-equal


def test_min_coverage_makes_a_poor_comparison_inconclusive(run: Any, fixtures: Path) -> None:
    """The LSTM's loop has state outputs that no tensor of the ONNX side holds: 5 of 8 are compared."""
    pair = fixtures / "lstm.tflite", fixtures / "lstm.onnx"
    assert run("diff", *pair, "--min-coverage", "0.6").code == 0
    done = run("diff", *pair, "--min-coverage", "0.7")
    assert done.code == 3
    assert done.out.startswith("INCONCLUSIVE")
    assert "--min-coverage" in done.out


@pytest.mark.parametrize(
    ("options", "code", "faults"),
    [
        (("--atol", "1"), 0, 0),
        (("--min-cosine", "0.999"), 0, 0),
        (("--min-cosine", "0.9999999999"), 1, 1),
        (("--tol", "op=Relu:min_cosine=0.9"), 1, 0),  # the output stays over its own limit
        (("--tol", "op=Relu:min_cosine=0.9", "--tol", "op=Softmax:atol=0.1"), 0, 0),
        (("--tol", "name=/mix/*:rel_l2=0.5", "--tol", "name=/prob*:rel_l2=0.5"), 0, 0),
        (("--tol", "name=/stem/*:rel_l2=0.5"), 1, 1),
        (("--tol", "name=/mix/*:rel_l2=0.5", "--tol", "op=Relu:rel_l2=1e-4"), 1, 1),  # the later rule wins
    ],
)
def test_the_users_tolerances_decide(
    run: Any, fixtures: Path, tmp_path: Path, options: tuple[str, ...], code: int, faults: int
) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"
    done = run("diff", *pair, *options, "--json", tmp_path / "o.json")
    assert (done.code, len(strict((tmp_path / "o.json").read_text())["faults"])) == (code, faults)


# --- the JSON contract ---------------------------------------------------------------------------------------------

METRICS = ("max_abs", "mean_abs", "rmse", "rel_l2", "cosine", "euclid", "sqnr_db", "mean_reference", "mean_candidate")
KEYS = {
    "": (
        "schema verdict reference candidate coverage pairs unmatched skipped faults truncated checks"
        " timing memory warnings"
    ),
    "side": "path backend version tensors",
    "coverage": "compared unobservable one_sided unmatched",
    "pair": "reference candidate reference_op candidate_op method confidence layout status reason metrics isolated",
    "layout": "kind from_shape permutation alternatives",
    "fault": "reference candidate reference_op candidate_op isolated_error isolated_unit region cause",
    "region": "nodes inputs outputs",
}


def has(document: Document, kind: str) -> None:
    missing = set(KEYS[kind].split()) - document.keys()
    assert not missing, f"{kind}: {missing}"


@pytest.fixture(scope="module", params=["cnn.tflite", "cnn_int8.tflite", "cnn_weight_fault.tflite"])
def document(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, fixtures: Path) -> Document:
    out = tmp_path_factory.mktemp("json") / "out.json"
    main(["diff", str(fixtures / "cnn.onnx"), str(fixtures / request.param), "--json", str(out)])
    return strict(out.read_text())


def test_json_has_every_key_of_the_contract(document: Document) -> None:
    has(document, "")
    assert document["schema"] == "aligndbg.diff/1"
    assert document["verdict"] in ("aligned", "diverged", "inconclusive")
    for side in ("reference", "candidate"):
        has(document[side], "side")
        has(document["coverage"][side], "coverage")
        assert all(isinstance(count, int) for count in document["coverage"][side].values())
        assert isinstance(document[side]["tensors"], int)
        assert document[side]["version"]
        for u in document["unmatched"][side]:
            assert u.keys() >= {"name", "op", "class", "reason"}
            assert u["class"] in ("unobservable", "one_sided", "unmatched")
            assert u["reason"]
        for s in document["skipped"][side]:
            assert s.keys() >= {"name", "op", "reason"}
            assert s["reason"]
    assert document["truncated"] is False
    assert document["checks"].keys() >= {"deterministic", "observer_effect"}
    assert document["checks"]["deterministic"] == {"reference": True, "candidate": True}
    assert document["checks"]["observer_effect"] == {"reference": 0.0, "candidate": 0.0}
    assert document["timing"]
    assert all(isinstance(seconds, float) and seconds >= 0 for seconds in document["timing"].values())
    if sys.platform == "linux":
        assert document["memory"].keys() == document["timing"].keys()
        assert all(isinstance(size, int) and size > 1 << 20 for size in document["memory"].values())
    assert all(isinstance(text, str) for text in document["warnings"])


def is_number(value: Any) -> bool:
    return value in ("nan", "inf", "-inf") or (isinstance(value, int | float) and not isinstance(value, bool))


def test_json_pairs(document: Document) -> None:
    assert document["pairs"]
    for pair in document["pairs"]:
        has(pair, "pair")
        has(pair["layout"], "layout")
        assert pair["method"] in ("value", "structure", "name", "output", "user")
        assert 0 < pair["confidence"] <= 1
        assert pair["status"] in ("pass", "drift", "fault", "unknown")
        assert pair["layout"]["kind"] in ("identity", "permute", "squeeze", "reshape", "ambiguous")
        assert bool(pair["layout"]["alternatives"]) == (pair["layout"]["kind"] == "ambiguous")
        assert sorted(pair["layout"]["permutation"]) == list(range(len(pair["layout"]["from_shape"])))
        assert all(is_number(pair["metrics"][name]) for name in METRICS)
        if pair["isolated"] is None:
            assert pair["reason"]
        else:
            assert pair["isolated"].keys() == pair["metrics"].keys()
    for key in ("reference", "candidate"):
        names = [pair[key] for pair in document["pairs"]]
        assert len(set(names)) == len(names), "one tensor is in two pairs"
        left = {u["name"] for u in document["unmatched"][key]} | {s["name"] for s in document["skipped"][key]}
        assert not left & set(names)


def test_json_layouts_bring_the_candidate_to_the_reference(document: Document, fixtures: Path) -> None:
    """By the formula of the contract: channels last becomes channels first."""
    stem = next(p for p in document["pairs"] if p["reference"] == "/stem/Clip_output_0")
    layout = stem["layout"]
    candidate = np.arange(12 * 16 * 20).reshape(1, 16, 20, 12)
    moved = candidate.reshape(layout["from_shape"]).transpose(layout["permutation"]).reshape(1, 12, 16, 20)
    assert np.array_equal(moved, candidate.transpose(0, 3, 1, 2))


def test_json_faults(document: Document) -> None:
    assert (document["verdict"] == "diverged") == bool(document["faults"])
    for fault in document["faults"]:
        has(fault, "fault")
        assert fault["isolated_unit"] in ("rel_l2", "lsb")
        assert is_number(fault["isolated_error"])
        assert fault["cause"] is None or fault["cause"].keys() >= {"kind", "summary", "before", "after", "details"}
        for side in ("reference", "candidate"):
            has(fault["region"][side], "region")
            assert fault[side] in fault["region"][side]["outputs"]


def test_quantized_pairs_have_steps_and_saturation(run: Any, fixtures: Path, tmp_path: Path) -> None:
    run("diff", fixtures / "cnn.onnx", fixtures / "cnn_int8.tflite", "--json", tmp_path / "out.json")
    pairs = strict((tmp_path / "out.json").read_text())["pairs"]
    assert all(p["metrics"]["lsb_max"] >= p["metrics"]["lsb_mean"] >= 0 for p in pairs)
    assert all(0 <= p["metrics"]["saturated"] <= 1 for p in pairs)
    own = [p["isolated"]["lsb_max"] for p in pairs if p["isolated"]]
    assert len(own) > len(pairs) / 2
    assert max(own) <= 1.5


def test_the_same_run_gives_the_same_json(run: Any, fixtures: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", "--json", tmp_path / name)
    one, two = (strict((tmp_path / name).read_text()) for name in ("one", "two"))
    assert one.pop("timing").keys() == two.pop("timing").keys()
    del one["memory"], two["memory"]
    assert one == two


def test_a_memory_limit_changes_no_number(run: Any, fixtures: Path, tmp_path: Path) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"
    run("diff", *pair, "--json", tmp_path / "free")
    run("diff", *pair, "--json", tmp_path / "tight", "--max-memory", "64K")
    free, tight = (strict((tmp_path / name).read_text()) for name in ("free", "tight"))
    for document in (free, tight):
        del document["timing"], document["memory"]
    assert free == tight


def test_no_isolate_and_no_checks_leave_out_what_they_say(run: Any, fixtures: Path, tmp_path: Path) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"
    done = run("diff", *pair, "--json", tmp_path / "out.json", "--no-isolate", "--no-checks")
    document = strict((tmp_path / "out.json").read_text())
    assert done.code == 1  # the outputs are over tolerance all the same
    assert document["faults"] == []
    assert not document["checks"].keys() & {"deterministic", "observer_effect"}
    assert all(p["isolated"] is None and p["reason"] for p in document["pairs"])
    assert {p["status"] for p in document["pairs"]} == {"pass", "unknown"}


def test_max_faults_cuts_and_says_so(run: Any, tmp_path: Path) -> None:
    def chain(path: Path, factors: tuple[float, float, float]) -> Path:
        nodes, weights = [], []
        for i, factor in enumerate(factors):
            weights.append(numpy_helper.from_array(np.linspace(0.4, 1.6, 24, dtype=np.float32) * factor, f"w{i}"))
            nodes.append(helper.make_node("Mul", ["x" if i == 0 else f"t{i - 1}", f"w{i}"], [f"m{i}"]))
            nodes.append(helper.make_node("Tanh", [f"m{i}"], [f"t{i}"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 24])
        y = helper.make_tensor_value_info("t2", TensorProto.FLOAT, [1, 16, 24])
        graph = helper.make_graph(nodes, "g", [x], [y], weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    good, bad = chain(tmp_path / "good.onnx", (1, 1, 1)), chain(tmp_path / "bad.onnx", (1.3, 0.8, 1.2))
    for limit, count in ((20, 3), (2, 2)):
        done = run("diff", good, bad, "--json", tmp_path / "out.json", "--max-faults", limit)
        document = strict((tmp_path / "out.json").read_text())
        assert done.code == 1
        assert [f["reference"] for f in document["faults"]] == ["m0", "m1", "m2"][:count]
        assert document["truncated"] is (count < 3)
        assert ("--max-faults" in done.out) is (count < 3)


# --- other outputs -------------------------------------------------------------------------------------------------


def test_csv_has_one_row_a_pair(run: Any, fixtures: Path, tmp_path: Path) -> None:
    files = ("--csv", tmp_path / "out.csv", "--json", tmp_path / "out.json")
    run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", *files)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    pairs = strict((tmp_path / "out.json").read_text())["pairs"]
    assert [r["reference"] for r in rows] == [p["reference"] for p in pairs]
    assert [r["status"] for r in rows] == [p["status"] for p in pairs]
    for row, pair in zip(rows, pairs, strict=True):
        assert float(row["rel_l2"]) == pytest.approx(pair["metrics"]["rel_l2"], rel=1e-12)
        assert float(row["isolated_rel_l2"]) == pytest.approx(pair["isolated"]["rel_l2"], rel=1e-12)


def test_html_is_one_page_without_references(run: Any, fixtures: Path, tmp_path: Path) -> None:
    run("diff", fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite", "--html", tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert page.lstrip().startswith("<!doctype html>")
    assert "DIVERGED" in page
    assert "/mix/Relu_output_0" in page
    assert not [word for word in ("http:", "https:", "src=", "href=", "@import", "url(") if word in page]


@pytest.mark.parametrize("candidate", ["cnn.tflite", "cnn_int8.tflite", "cnn_weight_fault.tflite"])
@pytest.mark.parametrize("columns", [None, "60", "132"])
def test_tables_fit_the_width(
    run: Any, monkeypatch: pytest.MonkeyPatch, fixtures: Path, candidate: str, columns: str | None
) -> None:
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    for options in ((), ("--all",)):
        done = run("diff", fixtures / "cnn.onnx", fixtures / candidate, "--no-checks", *options)
        assert max(map(len, done.out.splitlines())) <= int(columns or 80)


def test_what_matters_comes_first(run: Any, fixtures: Path) -> None:
    lines = run("diff", fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite").out.splitlines()
    first = {
        word: next(i for i, line in enumerate(lines) if word in line) for word in ("DIVERGED", "fault 1", "rel L2")
    }
    assert first["DIVERGED"] == 0
    assert first["fault 1"] < first["rel L2"]


@pytest.mark.parametrize("columns", ["80", "140"])
def test_the_headings_are_whole(run: Any, monkeypatch: pytest.MonkeyPatch, fixtures: Path, columns: str) -> None:
    """A number that is cut is worse than none."""
    monkeypatch.setenv("COLUMNS", columns)
    out = run("diff", fixtures / "cnn.onnx", fixtures / "cnn_int8.tflite").out
    heading = next(line for line in out.splitlines() if "rel L2" in line)
    assert heading.split()[:2] == ["status", "reference"]
    assert "LSB" in heading
    rows = [line for line in out.splitlines() if line.split()[:1] in (["pass"], ["drift"])]
    assert rows
    assert not any(row.rstrip().endswith("…") for row in rows)


def test_all_shows_every_pair_and_what_was_not_compared(
    run: Any, monkeypatch: pytest.MonkeyPatch, fixtures: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    pair = fixtures / "cnn.onnx", fixtures / "cnn.tflite"
    short, full = run("diff", *pair).out, run("diff", *pair, "--all").out
    rows = [[line for line in text.splitlines() if line.split()[:1] == ["pass"]] for text in (short, full)]
    assert len(rows[0]) < len(rows[1]) == 18
    assert full.count("reference unobservable: ") == 4
    assert full.count("reference one_sided: ") == 1


def test_tables_to_stdout_and_errors_to_stderr(run: Any, fixtures: Path) -> None:
    fine = run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite")
    bad = run("diff", fixtures / "cnn.onnx", fixtures / "nothing.tflite")
    assert fine.out
    assert not fine.err
    assert not bad.out
    assert bad.err


# --- in a process of its own ---------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "PYTHONIOENCODING")} | more


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


# --- usage errors --------------------------------------------------------------------------------------------------


def refused(done: Done, *words: str) -> None:
    """Exit 2, nothing on stdout, one short message with a hint and no traceback on stderr."""
    assert done.code == 2, done.err
    assert done.out == ""
    assert done.err.startswith("aligndbg: error: ")
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 3
    assert "hint: " in done.err
    for word in words:
        assert word in done.err


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


@pytest.mark.parametrize("output", ["trace.txt", "trace", "no/such/folder/trace.npz"])
def test_capture_to_a_bad_place(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fixtures: Path, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("capture", fixtures / "cnn.onnx", "-o", output), output)


def test_an_unwritable_file_leaves_the_old_one(run: Any, tmp_path: Path, fixtures: Path) -> None:
    """A failed run never leaves half a document under the name."""
    (tmp_path / "out.json").write_text("old")
    refused(run("diff", fixtures / "cnn.onnx", fixtures / "missing.tflite", "--json", tmp_path / "out.json"))
    assert (tmp_path / "out.json").read_text() == "old"


# --- inputs --------------------------------------------------------------------------------------------------------


def image(seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(0, 1, SHAPE).astype(np.float32)


def channels_last(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    """Files to feed, good and bad, in the reference's layout."""
    x = image()
    nan = x.copy()
    nan[0, 1, 2, 3] = np.nan
    np.savez(tmp_path / "x.npz", input=x)
    np.savez(tmp_path / "other_name.npz", pixels=x, input=x)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "nan.npy", nan)
    np.save(tmp_path / "last.npy", channels_last(x))
    np.save(tmp_path / "as_it_lies.npy", x.reshape(1, 32, 40, 3))
    np.save(tmp_path / "bgr.npy", channels_last(x)[..., ::-1])
    np.save(tmp_path / "scaled.npy", channels_last(x) * 2 - 1)
    np.save(tmp_path / "flipped.npy", channels_last(x)[:, :, ::-1])
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04 and no more")
    return tmp_path


@pytest.mark.parametrize("spec", ["x.npz", "x.npy", "input=x.npy"])
def test_inputs_from_files(run: Any, fixtures: Path, feeds: Path, tmp_path: Path, spec: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(feeds)
    done = run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", "--input", spec, "--json", "out.json")
    document = strict((tmp_path / "out.json").read_text())
    assert done.code == 0
    assert document["warnings"] == []
    # 0..1 in, so the stem sees no negative pixel: the statistics differ from those of the default feed
    assert run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", "--json", "default.json").code == 0
    default = strict((tmp_path / "default.json").read_text())
    means = [d["pairs"][0]["metrics"]["mean_reference"] for d in (document, default)]
    assert abs(means[0] - means[1]) > 1e-3


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nan.npy", ("NaN", "(0, 1, 2, 3)", "--allow-nonfinite")),
        ("last.npy", ("1x3x32x40", "1x32x40x3")),
        ("pixels=x.npy", ("pixels", "input")),
        ("other_name.npz", ("pixels", "input")),
        ("words.npy", ("input",)),
        ("objects.npy", ("objects.npy",)),
        ("noise.npz", ("noise.npz",)),
        (".", (".",)),
    ],
)
def test_feeds_that_do_not_fit(
    run: Any, fixtures: Path, feeds: Path, monkeypatch: pytest.MonkeyPatch, spec: str, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(feeds)
    refused(run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", "--input", spec), *words)
    refused(run("capture", fixtures / "cnn.onnx", "-o", "t.npz", "--input", spec), *words)


def test_allow_nonfinite_proves_nothing_but_says_so(run: Any, fixtures: Path, feeds: Path) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn.onnx"
    done = run("diff", *pair, "--input", feeds / "nan.npy", "--allow-nonfinite", "--json", feeds / "out.json")
    document = strict((feeds / "out.json").read_text())
    last = document["pairs"][-1]
    assert last["metrics"]["nan_reference"] > 0
    assert last["status"] == "unknown"
    assert done.code == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("as_it_lies.npy", "layout"),
        ("bgr.npy", "input_channel_order"),
        ("scaled.npy", "input_normalization"),
        ("flipped.npy", "flip"),
    ],
)
def test_a_candidate_fed_apart_is_found_out(run: Any, fixtures: Path, feeds: Path, name: str, kind: str) -> None:
    files = ("--input", feeds / "x.npy", "--candidate-input", feeds / name, "--json", feeds / "out.json")
    done = run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", *files)
    document = strict((feeds / "out.json").read_text())
    assert done.code == 1
    assert any(f"({kind})" in warning for warning in document["warnings"]), document["warnings"]
    assert kind in done.out
    assert document["faults"] == []  # every operator does what it should


def test_a_candidate_fed_alike_is_no_finding(run: Any, fixtures: Path, feeds: Path) -> None:
    files = ("--input", feeds / "x.npy", "--candidate-input", feeds / "last.npy", "--json", feeds / "out.json")
    done = run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", *files)
    assert done.code == 0
    assert strict((feeds / "out.json").read_text())["warnings"] == []


def test_images_go_through_the_preprocessing(run: Any, fixtures: Path, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(3).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    options = ("--resize", "32,40", "--mean", "123.7,116.3,103.5", "--std", "58.4,57.1,57.4", "--keep-aspect-ratio")
    done = run("diff", fixtures / "cnn.onnx", fixtures / "cnn_int8.tflite", "--input", tmp_path / "photo.png", *options)
    assert done.code == 0, done.out + done.err


def test_a_negative_range_is_a_value_not_an_option(run: Any, fixtures: Path, tmp_path: Path) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn.onnx"
    done = run("diff", *pair, "--val-range", "-9,-8", "--json", tmp_path / "o.json")
    assert done.code == 0, done.err
    document = strict((tmp_path / "o.json").read_text())
    other = run("diff", *pair, "--val-range", "8,9", "--json", tmp_path / "p.json")
    assert other.code == 0
    means = [d["pairs"][0]["metrics"]["mean_reference"] for d in (document, strict((tmp_path / "p.json").read_text()))]
    assert means[0] != means[1]


def test_the_seed_is_what_makes_the_feed(run: Any, fixtures: Path, tmp_path: Path) -> None:
    def mean(seed: int) -> float:
        run("diff", fixtures / "cnn.onnx", fixtures / "cnn.onnx", "--seed", seed, "--json", tmp_path / "o.json")
        return float(strict((tmp_path / "o.json").read_text())["pairs"][0]["metrics"]["mean_reference"])

    assert mean(1) == mean(1) != mean(2)


# --- --map ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/mix/Relu_output_0", "/residual/Add_output_0"),
        ("/expand/Conv_output_0", "/expand/Sigmoid_output_0"),  # whose product comes out right all the same
    ],
)
def test_map_wins_over_values(run: Any, fixtures: Path, tmp_path: Path, first: str, second: str) -> None:
    """Two tensors of one shape, forced crosswise: unknown there, and no fault anywhere."""
    pair = fixtures / "cnn.onnx", fixtures / "cnn_opset_b.onnx"
    run("diff", *pair, "--json", tmp_path / "o.json")
    names = {p["reference"]: p["candidate"] for p in strict((tmp_path / "o.json").read_text())["pairs"]}
    crossed = {first: names[second], second: names[first]}
    (tmp_path / "map.txt").write_text("# crosswise\n" + "".join(f"{r}={c}\n" for r, c in crossed.items()))
    done = run("diff", *pair, "--map", tmp_path / "map.txt", "--json", tmp_path / "o.json")
    document = strict((tmp_path / "o.json").read_text())
    forced = {p["reference"]: p for p in document["pairs"] if p["reference"] in crossed}
    assert {r: p["candidate"] for r, p in forced.items()} == crossed
    assert {p["method"] for p in forced.values()} == {"user"}
    assert {p["status"] for p in forced.values()} == {"unknown"}
    assert document["faults"] == []
    assert done.code == 0


# --- traces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_capture_then_diff_in_both_directions(run: Any, fixtures: Path, tmp_path: Path, suffix: str) -> None:
    trace = tmp_path / f"trace.{suffix}"
    done = run("capture", fixtures / "cnn.onnx", "-o", trace)
    assert done.code == 0
    assert str(trace.name) in done.out.replace("\n", "")
    for pair in ((fixtures / "cnn.onnx", trace), (trace, fixtures / "cnn.onnx"), (trace, fixtures / "cnn.tflite")):
        assert run("diff", *pair).code == 0
    assert run("diff", trace, trace).code == 0


def test_a_fault_is_located_on_a_recorded_trace(run: Any, fixtures: Path, tmp_path: Path) -> None:
    run("capture", fixtures / "cnn_weight_fault.tflite", "-o", tmp_path / "t.npz")
    done = run("diff", fixtures / "cnn.onnx", tmp_path / "t.npz", "--json", tmp_path / "o.json")
    (fault,) = strict((tmp_path / "o.json").read_text())["faults"]
    assert done.code == 1
    assert fault["reference"] == "/mix/Relu_output_0"


def test_a_trace_brings_its_own_feeds(run: Any, fixtures: Path, feeds: Path) -> None:
    run("capture", fixtures / "cnn.onnx", "-o", feeds / "t.npz", "--input", feeds / "x.npy")
    assert run("diff", fixtures / "cnn.onnx", feeds / "t.npz", "--input", feeds / "x.npy").code == 0
    np.save(feeds / "other.npy", image(9))
    for pair in ((fixtures / "cnn.onnx", feeds / "t.npz"), (feeds / "t.npz", fixtures / "cnn.onnx")):
        refused(run("diff", *pair, "--input", feeds / "other.npy"), "t.npz", "feeds")


def test_a_trace_without_feeds_requires_them(run: Any, fixtures: Path, feeds: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(fixtures / "cnn.onnx"), providers=["CPUExecutionProvider"])
    (name,) = [o.name for o in session.get_outputs()]
    np.savez(feeds / "others.npz", **{name: session.run(None, {"input": image()})[0]})
    refused(run("diff", fixtures / "cnn.onnx", feeds / "others.npz"), "--input")
    done = run("diff", fixtures / "cnn.onnx", feeds / "others.npz", "--input", feeds / "x.npy", "--min-coverage", "0")
    assert done.code == 0, done.out


# --- the other commands --------------------------------------------------------------------------------------------


def test_layers_lists_every_operator_in_order(run: Any, fixtures: Path) -> None:
    done = run("layers", fixtures / "cnn.onnx")
    ops = [n.op_type for n in onnx.load(fixtures / "cnn.onnx").graph.node]
    rows = [line.split() for line in done.out.splitlines()]
    assert done.code == 0
    assert [row[1] for row in rows if len(row) == 5 and row[0].isdecimal()] == ops
    assert max(map(len, done.out.splitlines())) <= 80
    assert "1x12x16x20" in done.out


def test_layers_of_tflite_say_what_is_quantized(run: Any, fixtures: Path) -> None:
    done = run("layers", fixtures / "cnn_int8.tflite")
    assert done.code == 0
    assert "int8 quantized" in done.out.replace("\n", " ")


def test_demo_shows_the_planted_fault(run: Any) -> None:
    done = run("demo")
    assert done.code == 0
    assert done.out.startswith("DIVERGED")
    assert "/block2/down/" in done.out
    assert len([line for line in done.out.splitlines() if re.match(r"fault \d", line)]) == 1
    assert max(map(len, done.out.splitlines())) <= 80


def test_the_table_shows_what_was_asked_for(run: Any, fixtures: Path) -> None:
    pair = (fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite")
    asked = ("--only", "fault,outputs", "--only", "Soft*", "--sort", "isolated_max_abs", "--columns", "index,status,op")
    done = run("diff", *pair, *asked)
    table = done.out.split("by isolated_max_abs\n", 1)[1].split("\n\n", 1)[0].splitlines()
    assert table[0].split() == ["#", "status", "op"]
    assert [row.split()[1] for row in table[2:3]] == ["fault"]
    assert len(table) > 3


@pytest.mark.parametrize("option", ["--sort", "--columns"])
def test_an_unknown_column_is_said_before_anything_runs(run: Any, option: str) -> None:
    done = run("diff", "no_such.onnx", "no_such.tflite", option, "rel_l3")
    assert done.code == 2
    assert "rel_l3" in done.err
    assert "rel_l2" in done.err


def test_doctor_names_every_backend(run: Any) -> None:
    done = run("doctor")
    assert done.code == 0
    rows = {line.split()[1]: line.split()[0] for line in done.out.splitlines() if line[:4] in ("ok  ", "no  ")}
    assert rows.keys() >= {"onnx", "tflite", "recorded", "memory"}
    assert rows["onnx"] == rows["tflite"] == "ok"


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


# --- names from a hostile model ------------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    "[bold red]loud[/bold red]",
    "\x1b[31mred\x1b[0m",
    "line\nbreak",
    "\u202ertl",
    "\x9b31mc1",
    "a'\"&b",
    "=1+1",
)


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, Path]:
    """Two models whose every name tries something; the second has a fault at the first operator."""
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path, factor in zip(paths, (1.0, 3.0), strict=True):
        weight = numpy_helper.from_array(np.linspace(0.5, factor, 6).astype(np.float32), "\x1b[2Jw")
        nodes, current = [], "<b>x</b>"
        for i, name in enumerate(HOSTILE):
            inputs = [current, "\x1b[2Jw"] if i == 0 else [current]
            nodes.append(
                helper.make_node("Mul" if i == 0 else "Tanh" if i % 2 else "Sin", inputs, [name], name=f"{name}!")
            )
            current = name
        x = helper.make_tensor_value_info("<b>x</b>", TensorProto.FLOAT, [1, 4, 6])
        y = helper.make_tensor_value_info(current, TensorProto.FLOAT, [1, 4, 6])
        graph = helper.make_graph(nodes, "g", [x], [y], [weight])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return paths


def harmless(text: str) -> bool:
    return all(ch.isprintable() or ch == "\n" for ch in text)


def test_names_cannot_drive_the_terminal(run: Any, hostile: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for argv in (("diff", *hostile, "--all"), ("layers", hostile[0])):
        done = run(*argv)
        assert harmless(done.out)
        assert "\\x1b[31mred\\x1b[0m" in done.out
        assert "[bold red]loud[/bold red]" in done.out  # shown as it is, not taken for markup
        assert "line\\x0abreak" in done.out


def test_names_in_error_messages_are_harmless(run: Any, hostile: tuple[Path, Path]) -> None:
    done = run("diff", *hostile, "--map", "x=y")
    assert done.code == 2
    assert harmless(done.err)
    assert "\\x1b[31mred" in done.err
    assert harmless(run("diff", hostile[0], "\x1b[2Jmissing.onnx").err)


def test_names_cannot_break_the_html(run: Any, hostile: tuple[Path, Path], tmp_path: Path) -> None:
    run("diff", *hostile, "--html", tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text()
    assert "<script>alert" not in page
    assert "<b>x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert harmless(page)


def test_names_survive_json_and_csv(run: Any, hostile: tuple[Path, Path], tmp_path: Path) -> None:
    run("diff", *hostile, "--json", tmp_path / "out.json", "--csv", tmp_path / "out.csv")
    text = (tmp_path / "out.json").read_text()
    assert harmless(text)
    assert [p["reference"] for p in strict(text)["pairs"]] == list(HOSTILE)
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as stream:
        assert [row["reference"] for row in csv.DictReader(stream)] == list(HOSTILE)
