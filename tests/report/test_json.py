"""JSON: strict, ASCII, reversible for every name, and written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligndbg.core.errors import UsageError
from aligndbg.core.files import write_text
from aligndbg.core.jsonable import plain_value
from aligndbg.core.types import Cause
from aligndbg.diff_result import Diff
from aligndbg.report.json import SCHEMA, as_dict, to_json


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def read(diff: Diff) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(to_json(diff), parse_constant=refuse)
    return document


def test_the_text_is_the_dict(diverged: Diff) -> None:
    assert read(diverged) == as_dict(diverged)
    assert read(diverged)["schema"] == SCHEMA == "aligndbg.diff/1"


def test_undefined_numbers_are_words(silent: Diff) -> None:
    metrics = read(silent)["pairs"][-1]["metrics"]
    assert metrics["rel_l2"] == metrics["cosine"] == "nan"
    assert metrics["max_abs"] == 0
    assert metrics["violations"] is None


def test_a_cause_has_its_numbers(diverged: Diff) -> None:
    cause = Cause(
        "padding", "SAME (0,1) against (1,1)", 0.31, math.inf, {"pads": np.array([1, 1]), "axis": np.int64(2)}
    )
    (fault,) = read(replace(diverged, faults=(replace(diverged.faults[0], cause=cause),)))["faults"]
    assert fault["cause"] == {
        "kind": "padding",
        "summary": "SAME (0,1) against (1,1)",
        "before": 0.31,
        "after": "inf",
        "details": {"pads": [1, 1], "axis": 2},
    }


def test_a_fault_of_one_side_only_has_null(diverged: Diff) -> None:
    (fault,) = read(replace(diverged, faults=(replace(diverged.faults[0], candidate=None),)))["faults"]
    assert fault["candidate"] is None


def test_tensors_are_all_that_were_counted_or_skipped(diverged: Diff) -> None:
    document = read(diverged)
    for side in ("reference", "candidate"):
        counted = sum(document["coverage"][side].values()) + len(document["skipped"][side])
        assert document[side]["tensors"] == counted == 3


def test_hostile_names_come_back_as_they_were(hostile: Diff) -> None:
    text = to_json(hostile)
    assert text.isascii()
    assert all(ch.isprintable() or ch == "\n" for ch in text)
    assert [p["reference"] for p in json.loads(text)["pairs"]] == [m.pair.reference for m in hostile.pairs]


def test_names_that_are_no_unicode_stay_readable() -> None:
    """TFLite names may be any bytes; Python holds what is no UTF-8 as lone surrogates, which no JSON reader takes."""
    name = b"conv\xff".decode("utf-8", "surrogateescape")
    assert plain_value({name: name}) == {"conv\\udcff": "conv\\udcff"}


class Colour(StrEnum):
    RED = "red"


@dataclass
class Point:
    x: float
    y: tuple[int, ...]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (np.bool_(True), True),
        (3, 3),
        (np.int8(-3), -3),
        (np.float32(0.5), 0.5),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (np.float64(math.inf), "inf"),
        (Colour.RED, "red"),
        (Point(math.nan, (1, 2)), {"x": "nan", "y": [1, 2]}),
        (np.array([[1.0, math.nan]]), [[1.0, "nan"]]),
        ({"a": (1, {2})}, {"a": [1, [2]]}),
        (frozenset({"b"}), ["b"]),
    ],
)
def test_plain_value(value: Any, plain: Any) -> None:
    made = plain_value(value)
    assert made == plain
    assert type(made) is type(plain)
    json.dumps(made, allow_nan=False)


# --- writing -------------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_and_with_ordinary_rights(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        write_text(tmp_path / "a.json", "ü\n")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.json").read_bytes() == "ü\n".encode()
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


@pytest.mark.parametrize("place", ["missing/a.json", ".", "file/a.json", "x" * 300])
def test_a_place_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("old")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        write_text(place, "text")
    assert place in str(caught.value)
    assert caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match="No space left"):
        write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_relative_path_and_a_dash_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text("a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"
