"""The zoo of benchmarks/: its six small networks, which need torch alone, are made, built, diffed clean and planted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(BENCHMARKS))  # the bench is no part of the package

from plants.bench import Bench, Finding, PairOfModels  # noqa: E402
from zoo.builds import BUILDS, build  # noqa: E402
from zoo.clean import clean, is_false  # noqa: E402
from zoo.files import cases, file_of, rows  # noqa: E402
from zoo.nets import NETS, SMALL, make  # noqa: E402
from zoo.planted import drawn, grade, planted  # noqa: E402
from zoo.tables import clean_table, false_list, planted_list, planted_table, trial_text  # noqa: E402

QUICK = ("dyn", "ts", "ort")  # these need no package more than torch's exporters do


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def built(folder: Path, net: str) -> dict[str, dict[str, Any]]:
    path = folder / net / "build.json"
    said: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else build(net, folder / net, QUICK)
    return said


@pytest.mark.parametrize("net", SMALL)
def test_what_is_built_of_a_small_net_is_clean(folder: Path, net: str, tmp_path: Path) -> None:
    said = built(folder, net)
    assert [key for key in said if "seconds" not in said[key]] == []
    assert all(max(said[key]["off"]) < 1e-5 for key in said)
    todo = list(cases(folder, [net], ["dyn~ts", "dyn~ort"]))
    assert len(todo) == 2
    found = list(clean(todo, tmp_path / "rows"))
    assert [row for row in found if is_false(row)] == []
    assert list(clean(todo, tmp_path / "rows")) == [], "what is known is not diffed again"


@pytest.mark.parametrize("net", SMALL)
def test_a_fault_in_a_small_net_is_located(folder: Path, net: str, tmp_path: Path) -> None:
    built(folder, net)
    draws = drawn(list(cases(folder, [net], ["dyn~ts"])), seed=13, trials=1)
    (row,) = planted(draws, 1, tmp_path / "rows")
    (plant,) = row["plants"]
    assert plant["strength"] == "solid", "choose another seed: nothing could find this plant"
    assert (plant["grade"], row["invented"]) == ("exact", [])
    assert list(planted(draws, 1, tmp_path / "rows")) == [], "what is known is not planted again"


def test_a_program_and_its_export(tmp_path: Path) -> None:
    build("small_squeezed", tmp_path / "small_squeezed", ["dyn", "pt2"])
    (row,) = clean(list(cases(tmp_path, pairs=["dyn~pt2"])), tmp_path / "rows")
    assert (row["verdict"], row["faults"], row["accounted"]) == ("aligned", [], 1.0)


def test_the_nets_are_seeded_and_have_no_parameter_that_hides_the_rest() -> None:
    assert len(NETS) >= 40
    for name in SMALL:
        (one, inputs), (two, again) = make(name), make(name)
        with torch.no_grad():
            assert torch.equal(one(*inputs.values()), two(*again.values()))
        assert all(p.std() > 1e-3 for p in one.parameters() if p.numel() > 1), name
        assert not one.training


def test_a_build_that_fails_says_why_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxslim", None)  # as where it is not installed
    monkeypatch.setitem(BUILDS, "sim", lambda net, folder: file_of(folder, "sim").write_bytes(b"no model"))
    said = build("small_cnn", tmp_path, ["sim", "slim"])
    assert said["slim"]["failed"].startswith("ModuleNotFoundError")
    assert "refused" in said["sim"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build.json", "in.npz"]


def test_words_and_masks_are_the_nets_own_for_every_seed(folder: Path) -> None:
    built(folder, "small_encoder")
    own = np.load(folder / "small_encoder" / "in.npz")
    pair = PairOfModels("small_encoder/dyn.onnx", "small_encoder/ts.onnx", "small_encoder/in.npz")
    feeds = Bench(folder, None).clean(pair, 1).feeds
    assert all(np.array_equal(feeds[name], own[name]) for name in own)


def test_trials_are_spread_over_nets_then_pairs(tmp_path: Path) -> None:
    for net in ("a", "b"):
        (tmp_path / net).mkdir()
        for name in ("build.json", "dyn.onnx", "ts.onnx", "sim.onnx"):
            (tmp_path / net / name).touch()
    todo = list(cases(tmp_path))
    draws = drawn(todo, 3, 4)
    assert len({(case.net, case.pair) for case, _ in draws}) == 4
    assert [number for _, number in draws] == [300000, 300001, 300002, 300003]


def test_grades() -> None:
    plant = None
    assert [grade(Finding(plant, how, 1.0)) for how in ("exact", "fused", "region", "wide", "absent", "missed")] == [
        *("exact", "exact", "region", "near", "near", "missed")
    ]
    assert grade(Finding(plant, "missed", 1.0, beside="Conv a : Conv b")) == "near"


FAULT = {
    "at": ["a", "b"],
    "operators": ["Conv", "Conv"],
    "region": [1, 1],
    "cause": None,
    "summary": None,
    "error": "1",
}
TOLD = {"tensors": 10, "compared": 9, "accounted": 0.9, "isolation_runs": 1, "seconds": 1.0, "command": "again"}
CLEAN = [
    {"net": "a", "pair": "dyn~ts", "verdict": "aligned", "faults": [], **TOLD},
    {"net": "b", "pair": "dyn~ts", "verdict": "diverged", "faults": [FAULT], **TOLD},
    {"net": "b", "pair": "dyn~qdq", "verdict": "diverged", "faults": [], **TOLD},
    {"net": "c", "pair": "dyn~qdq", "verdict": "", "error": "refused", "seconds": 1.0, "command": "again"},
]
PLANT = {"kind": "scale", "plant": "scale in Conv", "by": "", "said": "weight: ...", "strength": "solid"}
PLANTED = {"net": "a", "pair": "dyn~ts", "side": "candidate", "faults": 1, "seconds": 1.0, "command": "again"}


def test_the_tables_count_what_is_false_and_say_how_to_repeat_it() -> None:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in clean_table(CLEAN).splitlines()]
    assert [line[:4] for line in lines[2:]] == [
        ["dyn : ts", "2", "1", "1"],
        ["dyn : qdq", "2", "0", "1"],
        ["all", "4", "1", "2"],
    ]
    told = false_list(CLEAN)
    assert "- b dyn~ts: diverged, 1 faults" in told
    assert "- c dyn~qdq: refused" in told
    assert told.count("`again`") == 2


def test_the_table_of_plants_sets_weak_ones_apart() -> None:
    found = [
        {**PLANTED, "trial": 100000, "invented": ["x"], "plants": [{**PLANT, "grade": "exact", "cause": "right"}]},
        {**PLANTED, "trial": 100001, "invented": [], "plants": [{**PLANT, "grade": "missed", "cause": ""}]},
        {
            **PLANTED,
            "trial": 100002,
            "invented": [],
            "plants": [{**PLANT, "grade": "missed", "strength": "weak", "cause": ""}],
        },
    ]
    cells = [cell.strip() for cell in planted_table(found).splitlines()[2].strip("|").split("|")]
    assert cells[:13] == ["1", "1", "3", "0", "2", "1", "0", "0", "1", "1", "1", "0", "0"]
    assert "INVENTED x" in planted_list(found)
    assert planted_list(found).count("`again`") == 2


def test_the_table_of_plants_counts_regions_that_ran_on_both_sides() -> None:
    located = {**PLANT, "grade": "exact", "cause": "right", "by": "Conv a : Conv b"}
    reasons: list[dict[str, str] | None] = [{}, {}, {"candidate": "no such operator"}, None]
    plants = [{**located, "not_run": why} for why in reasons]
    row = {**PLANTED, "trial": 100000, "invented": [], "plants": [*plants, located]}
    assert "| 2 of 3 (66.7%) |" in planted_table([row])
    assert "| - |" in planted_table([{**row, "plants": [located]}])
    assert trial_text(row).count("not run: candidate: no such operator") == 1


def test_the_command_prints_the_tables(tmp_path: Path) -> None:
    (tmp_path / "clean.jsonl").write_text("\n".join(map(json.dumps, CLEAN)))
    command = [sys.executable, "-m", "benchmarks.zoo", "tables", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert clean_table(rows(tmp_path / "clean.jsonl")) in done.stdout
