"""What is written and where: tables, CSV, HTML, streams, files that cannot be written, names from a hostile model."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from command_line import refused, strict


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


def test_the_table_shows_what_was_asked_for(run: Any, fixtures: Path) -> None:
    pair = (fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite")
    asked = ("--only", "fault,outputs", "--only", "Soft*", "--sort", "isolated_max_abs", "--columns", "index,status,op")
    done = run("diff", *pair, *asked)
    table = done.out.split("by isolated_max_abs\n", 1)[1].split("\n\n", 1)[0].splitlines()
    assert table[0].split() == ["#", "status", "op"]
    assert [row.split()[1] for row in table[2:3]] == ["fault"]
    assert len(table) > 3


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


def test_outputs_are_checked_before_anything_runs(run: Any, fixtures: Path, tmp_path: Path) -> None:
    model = tmp_path / "a.onnx"
    shutil.copy(fixtures / "attention.onnx", model)
    before = model.read_bytes()
    for words, said in (
        (["--json", tmp_path / "no" / "d.json"], "there is no folder"),
        (["--html", tmp_path], "it is a folder"),
        (["--csv", model], "it is one of the models"),
        (["--json", tmp_path / "d", "--csv", tmp_path / "d"], "two outputs have the same name"),
    ):
        done = run("diff", model, model, *words)
        assert done.code == 2
        assert said in done.err
    assert model.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_name_with_line_breaks_stays_on_one_line(run: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", **{"a\n  hint: run rm -rf\x1b[2J": np.array([{}], object)})
    done = run("layers", tmp_path / "t.npz")
    assert done.code == 2
    assert len(done.err.splitlines()) == 2
    assert "\x1b" not in done.err


@pytest.mark.parametrize("option", ["--repro", "--model-explorer"])
def test_a_folder_that_cannot_be_made_is_said_first(run: Any, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    done = run("diff", "missing.onnx", "missing.tflite", option, tmp_path / "file" / "d")
    assert (done.code, done.out) == (2, "")
    assert f"{tmp_path / 'file' / 'd'}: cannot write into {tmp_path / 'file'}" in done.err


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
