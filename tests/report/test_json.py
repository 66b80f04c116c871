"""JSON: strict, ASCII, reversible for every name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np

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
