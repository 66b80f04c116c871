"""Diff -> DataFrame."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import aligndbg
from aligndbg import MemoryBackend, MemoryNode
from aligndbg.core.errors import MissingDependencyError
from aligndbg.diff_result import Diff
from aligndbg.measure.results import Metrics
from aligndbg.report.frame import COLUMNS, EFFECT_COLUMNS, METRIC_COLUMNS, to_frame
from aligndbg.report.table import TableView


def test_every_metric_is_a_column() -> None:
    """But those that are no number, or the same for both sides."""
    left_out = {"count", "nonfinite_mismatch", "worst_index", "reasons", "joint"}
    assert set(METRIC_COLUMNS) == {f.name for f in fields(Metrics)} - left_out


def test_one_row_a_pair(diverged: Diff) -> None:
    frame = to_frame(diverged)
    assert list(frame["reference"]) == ["scaled", "shifted", "y"]
    assert list(frame["status"]) == ["pass", "fault", "drift"]
    assert list(frame["output"]) == [False, False, True]
    assert set(frame["shape"]) == {"2x3x4"}
    assert frame["isolated_max_abs"][1] == pytest.approx(0.5)
    assert frame["rel_l2"][2] > 0.1 > 1e-6 > frame["isolated_rel_l2"][2]


def test_a_fault_has_its_cause(diverged: Diff) -> None:
    (fault,) = diverged.faults
    assert fault.cause is not None
    frame = to_frame(diverged)
    assert list(frame["cause"]) == ["", fault.cause.kind, ""]
    assert list(frame["cause_summary"]) == ["", fault.cause.summary, ""]


def test_dtypes_do_not_depend_on_the_values(aligned: Diff, silent: Diff) -> None:
    one, two = to_frame(aligned), to_frame(silent)
    assert list(one.columns) == list(two.columns)
    assert all(str(one[c].dtype) == str(two[c].dtype) for c in one.columns)
    assert {str(one[c].dtype) for c in one.columns if c not in COLUMNS} == {"float64"}


def test_a_diff_without_pairs_has_the_same_columns_and_dtypes(aligned: Diff) -> None:
    full, empty = to_frame(aligned), to_frame(replace(aligned, pairs=()))
    assert len(empty) == 0
    assert list(empty.columns) == list(full.columns)
    assert [str(t) for t in empty.dtypes] == [str(t) for t in full.dtypes]
    assert {str(empty[c].dtype) for c in COLUMNS} == {"string", "float64", "bool"}


def test_undefined_is_nan_and_never_zero(silent: Diff) -> None:
    last = to_frame(silent).iloc[-1]
    assert math.isnan(last["rel_l2"])
    assert math.isnan(last["cosine"])
    assert math.isnan(last["lsb_max"])
    assert last["status"] == "unknown"


def test_the_columns_are_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reports.md").read_text().split("## Data frame\n", 1)[1]
    dtypes = {
        name: row.split("|")[2].strip()
        for row in text.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    expected = dict.fromkeys(COLUMNS, "string") | dict.fromkeys(EFFECT_COLUMNS, "float64")
    expected |= {"confidence": "float64", "output": "bool"}
    assert dtypes == expected


def test_parquet_keeps_names_types_and_undefined(diverged: Diff, silent: Diff, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for diff in (diverged, silent):
        diff.to_parquet(tmp_path / "x.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), to_frame(diff))


def test_parquet_without_pyarrow_is_an_error(diverged: Diff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pyarrow"):
        diverged.to_parquet(tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


def test_a_mask_is_counted() -> None:
    mask = np.triu(np.ones((8, 8), bool), 1)
    nodes = [MemoryNode("Where", lambda x: np.where(mask, np.float32(-1e9), x), ("x",), ("y",))]
    model = MemoryBackend(inputs={"x": (8, 8)}, nodes=nodes, outputs=["y"])
    found = aligndbg.diff(model, model)
    frame = to_frame(found)
    assert (frame["masked"][0], frame["isolated_masked"][0]) == (28, 28)
    assert re.search(r"y +28\b", found.summary(view=TableView(columns=("reference", "masked"))))
    document = json.loads(found.to_json())
    assert document["pairs"][0]["metrics"]["masked"]["count"] == 28
