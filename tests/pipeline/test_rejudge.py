"""Saving a diff, reading it, and judging it by other tolerances: as a run with these would."""

from __future__ import annotations

import gzip
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg import Diff, MemoryBackend, MemoryNode
from aligndbg.cli.main import main
from aligndbg.core.errors import ModelError, UsageError
from aligndbg.core.types import Cause

Options = dict[str, Any]


@pytest.fixture(scope="module", params=["cnn_weight_fault.tflite", "cnn_int8.tflite"])
def pair(request: pytest.FixtureRequest, fixtures: Path) -> tuple[Path, Path]:
    return fixtures / "cnn.onnx", fixtures / request.param


@pytest.fixture(scope="module")
def saved(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "result.diff"
    aligndbg.diff(*pair).save(path)
    return path


def test_what_is_saved_comes_back_whole(fixtures: Path, tmp_path: Path) -> None:
    found = aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite")
    path = tmp_path / "result.diff"
    found.save(path)
    again = Diff.load(path)
    assert again.to_json() == found.to_json()
    assert again.faults[0].cause == found.faults[0].cause
    assert again.faults[0].cause is not None
    assert again.faults[0].cause.kind == "weight"
    assert again.summary(all_rows=True) == found.summary(all_rows=True)
    assert again.to_html() == found.to_html()
    assert again.graphs[0].nodes == found.graphs[0].nodes
    assert path.stat().st_size < 100_000


RULES: list[Options] = [
    {"min_cosine": 0.9},
    {"atol": 1e-2},
    {"atol": 1e-4, "rtol": 1e-4},
    {"rtol": 0.5, "atol": 0.5},
    {"min_sqnr": 40.0},
    {"tolerances": ["op=Conv:atol=1e-3", "name=/prob*:min_cosine=0.5"]},
    {"min_coverage": 1.0},
]


@pytest.mark.parametrize("options", RULES, ids=str)
def test_judged_again_is_judged_as_a_new_run_would(pair: tuple[Path, Path], saved: Path, options: Options) -> None:
    again, new = aligndbg.judge(saved, **options), aligndbg.diff(*pair, **options)
    assert again.verdict == new.verdict
    assert [(f.reference, f.candidate) for f in again.faults] == [(f.reference, f.candidate) for f in new.faults]
    assert {m.pair.reference: m.status for m in again.pairs} == {m.pair.reference: m.status for m in new.pairs}
    for ours, theirs in zip(again.pairs, new.pairs, strict=True):
        counted = theirs.metrics.violations
        if ours.metrics.violations is not None or counted is None:
            assert ours.metrics.violations == counted
        else:
            least, most = (int(n) for n in ours.metrics.reasons["violations"].split(" of ")[0].split(" to "))
            assert 1 <= least <= counted <= most


def test_a_fault_keeps_its_cause_and_a_new_one_has_none(fixtures: Path) -> None:
    found = aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite")
    (before,) = found.faults
    after = {f.reference: f.cause for f in aligndbg.judge(found, atol=1e-8).faults}
    assert len(after) > 1
    assert after.pop(before.reference) == before.cause
    assert set(after.values()) == {None}


def test_another_network_stays_one_fault(fixtures: Path) -> None:
    other = Cause("different_network", "this is another network")
    found = replace(aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"), causes=(other,))
    assert len(aligndbg.judge(found, atol=1e-8).faults) == 1


def test_a_run_without_details_cannot_be_judged_again(fixtures: Path) -> None:
    found = aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn.tflite", details=False)
    assert found.basis is None
    assert all(m.metrics.joint is None for m in found.pairs)
    with pytest.raises(UsageError, match="kept no details"):
        aligndbg.judge(found, atol=1e-3)


def test_no_tolerance_keeps_those_of_the_run(fixtures: Path, tmp_path: Path) -> None:
    found = aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn_int8.tflite", atol=1e-3)
    found.save(tmp_path / "strict.diff")
    assert found.verdict == "diverged"
    assert aligndbg.judge(tmp_path / "strict.diff").to_json() == found.to_json()
    loose = aligndbg.judge(tmp_path / "strict.diff", min_cosine=0.9)
    assert loose.verdict == "aligned"
    back = aligndbg.judge(loose, atol=1e-3)
    assert [m.status for m in back.pairs] == [m.status for m in found.pairs]
    assert [f.reference for f in back.faults] == [f.reference for f in found.faults]
    assert sum("judged again" in w for w in back.warnings) == 1


def test_an_ambiguous_layout_is_judged_in_each_way_that_fits(tmp_path: Path) -> None:
    """C == H == W and values that have diverged: the layout is guessed, and kept open."""

    def model(scale: float) -> MemoryBackend:
        def mixed(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return (np.sort(x.reshape(-1))[::-1].reshape(x.shape) * scale + np.sin(7 * x)).astype(np.float32)

        nodes = [MemoryNode("Mul", lambda x: x * 2, ("x",), ("m",)), MemoryNode("Mix", mixed, ("m",), ("y",))]
        return MemoryBackend(inputs={"x": (4, 4)}, nodes=nodes, outputs=["y"])

    found = aligndbg.diff(model(1.0), model(-3.0), isolate=False)
    found.save(tmp_path / "x.diff")
    for options in ({"atol": 1e9}, {"atol": 1e-6}, {"min_cosine": 0.2}):
        new = aligndbg.diff(model(1.0), model(-3.0), isolate=False, **options)
        again = aligndbg.judge(tmp_path / "x.diff", **options)
        assert [(m.status, m.reason) for m in again.pairs] == [(m.status, m.reason) for m in new.pairs]


def test_several_samples_cannot_be_judged_again(fixtures: Path) -> None:
    found = aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn.tflite", samples=2, isolate=False)
    with pytest.raises(UsageError, match="several samples"):
        aligndbg.judge(found, atol=1e-3)


def test_a_limit_too_close_to_call_is_refused(saved: Path) -> None:
    """On the hull, but for rounding: neither yes nor no can be said."""
    found = Diff.load(saved)
    m = max(found.pairs, key=lambda m: len(m.metrics.joint.corners))
    (r, e), rtol = m.metrics.joint.corners[0], 1e-6
    atol = (e - rtol * r) * (1 + 1e-14)
    rule = f"name={m.pair.reference}:atol={atol!r},rtol={rtol}"
    least, most = m.metrics.joint.violations(atol, rtol)
    if least == 0 < most:
        with pytest.raises(UsageError, match="cannot be told"):
            aligndbg.judge(found, tolerances=[rule])
    else:  # another corner decides it
        assert least >= 1


def test_rules_are_checked_as_in_a_diff(saved: Path) -> None:
    for options in (
        {"atol": -1.0},
        {"tolerances": ["op=Nope:atol=1"]},
        {"tolerances": ["atol"]},
        {"min_coverage": 2.0},
    ):
        with pytest.raises(UsageError):
            aligndbg.judge(saved, **options)


def test_from_the_command_line(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, json, csv = (str(tmp_path / name) for name in ("a.diff", "a.json", "a.csv"))
    assert main(["diff", *map(str, pair), "--save", kept]) in (0, 1)
    ran = capsys.readouterr().out
    assert main(["judge", kept]) in (0, 1)
    assert capsys.readouterr().out == ran
    assert main(["judge", kept, "--min-cosine", "0.9", "--json", json, "--csv", csv]) == 0
    assert main(["judge", kept, "--atol", "1e-9"]) == 1
    assert Path(json).is_file()
    assert Path(csv).is_file()


@pytest.mark.parametrize("damage", ["text", "cut", "other", "newer", "pickle", "missing", "folder"])
def test_a_file_that_is_no_saved_diff_is_said_to_be_none(
    saved: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import msgspec

    whole = saved.read_bytes()
    data = gzip.decompress(whole)
    spoiled = {
        "text": b"no gzip at all",
        "cut": whole[: len(whole) // 2],
        "other": gzip.compress(
            msgspec.msgpack.encode({"format": "aligndbg.saved/2", "version": "0", "diff": {"a": 1}})
        ),
        "newer": gzip.compress(data.replace(b"aligndbg.saved/2", b"aligndbg.saved/9")),
        "pickle": gzip.compress(data.replace(b"'<f8'", b"'|O8'").replace(b"'<i8'", b"'|O8'")),
    }
    path = tmp_path / "x.diff"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(spoiled[damage])
    with pytest.raises(ModelError):
        Diff.load(path)
    assert main(["judge", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_hostile_names_survive(tmp_path: Path) -> None:
    names = ("<b>", "\x1b[2J\n", "; \u202e <i>")
    nodes = [MemoryNode("Mul", lambda x: x * 2 + 1, ("x",), (names[0],))]
    nodes += [MemoryNode("Tanh", np.tanh, (a,), (b,), name=b) for a, b in pairwise(names)]
    model = MemoryBackend(inputs={"x": (3, 4)}, nodes=nodes, outputs=[names[-1]], name="\udcff.onnx")
    found = aligndbg.diff(model, model)
    found.save(tmp_path / "x.diff")
    assert Diff.load(tmp_path / "x.diff").to_json() == found.to_json()


@pytest.mark.parametrize(
    "options", [{"atol": 1e-3}, {"min_cosine": 0.99}, {"min_euclid": 0.9}, {"min_sqnr": 20.0}], ids=str
)
@pytest.mark.parametrize(
    ("offset", "other"),
    [(0.0, -1e9), (0.3, -1e9), (0.0, -65504.0), (0.0, -np.inf)],
    ids=["equal", "rest", "mask", "inf"],
)
def test_a_mask_is_judged_again_by_the_same_numbers(
    tmp_path: Path, options: Options, offset: float, other: float
) -> None:
    mask = np.triu(np.ones((8, 8), bool), 1)

    def model(huge: float, more: float) -> MemoryBackend:
        def masked(x: Any) -> Any:
            return np.where(mask, np.float32(huge), x + np.float32(more))

        nodes = [MemoryNode("Sin", np.sin, ("x",), ("s",)), MemoryNode("Where", masked, ("s",), ("y",))]
        return MemoryBackend(inputs={"x": (4, 8, 8)}, nodes=nodes, outputs=["y"])

    sides = model(-1e9, 0.0), model(other, offset)
    found = aligndbg.diff(*sides)
    found.save(tmp_path / "x.diff")
    new, again = aligndbg.diff(*sides, **options), aligndbg.judge(tmp_path / "x.diff", **options)
    assert again.verdict == new.verdict
    assert [(m.status, m.reason) for m in again.pairs] == [(m.status, m.reason) for m in new.pairs]
    assert [m.metrics.masked for m in again.pairs] == [m.metrics.masked for m in new.pairs]
    assert [str(m.metrics.rel_l2) for m in again.pairs] == [str(m.metrics.rel_l2) for m in new.pairs]
