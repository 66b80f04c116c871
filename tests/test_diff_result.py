"""Diff: no truth value, an error on demand, and its reports as strings, frames and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg import DivergedError, MemoryBackend, MemoryNode, Verdict
from aligndbg.core.errors import UsageError
from aligndbg.diff_result import Diff
from aligndbg.report.frame import COLUMNS, EFFECT_COLUMNS, METRIC_COLUMNS


@pytest.fixture(scope="module")
def aligned(fixtures: Path) -> Diff:
    return aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn.tflite")


@pytest.fixture(scope="module")
def diverged(fixtures: Path) -> Diff:
    return aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite")


def test_the_repr_is_one_line(diverged: Diff) -> None:
    assert repr(diverged).startswith("<Diff diverged: 18 pairs, faults: 1; ")
    assert len(repr(diverged)) < 400


def test_diff_has_no_truth_value(aligned: Diff, diverged: Diff) -> None:
    for found in (aligned, diverged):
        with pytest.raises(TypeError, match="verdict"):
            bool(found)
        with pytest.raises(TypeError, match="verdict"):
            assert not found


def test_raise_if_diverged(aligned: Diff, diverged: Diff) -> None:
    aligned.raise_if_diverged()
    with pytest.raises(DivergedError, match="/mix/Relu_output_0") as caught:
        diverged.raise_if_diverged()
    assert isinstance(caught.value, AssertionError)
    with pytest.raises(DivergedError):
        diverged.raise_if_diverged(allow_inconclusive=True)


def test_raise_if_inconclusive_unless_allowed() -> None:
    zero = MemoryBackend(
        inputs={"x": (4,)}, nodes=[MemoryNode("Mul", lambda x: x * np.float32(0), ("x",), ("y",))], outputs=["y"]
    )
    found = aligndbg.diff(zero, zero)
    assert found.verdict is Verdict.INCONCLUSIVE
    with pytest.raises(DivergedError, match="INCONCLUSIVE"):
        found.raise_if_diverged()
    found.raise_if_diverged(allow_inconclusive=True)


def test_frame_has_its_columns_and_dtypes(aligned: Diff) -> None:
    frame = aligned.to_frame()
    own = [f"isolated_{name}" for name in METRIC_COLUMNS]
    assert list(frame.columns) == [*COLUMNS, *METRIC_COLUMNS, *own, *EFFECT_COLUMNS]
    assert list(frame["reference"]) == [m.pair.reference for m in aligned.pairs]
    assert all(str(frame[name].dtype) == "float64" for name in frame.columns if name not in COLUMNS)
    assert str(frame["confidence"].dtype) == "float64"
    assert str(frame["output"].dtype) == "bool"
    assert frame["output"].sum() == 1
    assert (frame["rel_l2"] < 1e-5).all()
    assert frame["lsb_max"].isna().all()  # neither side is quantized
    assert np.isinf(frame["isolated_sqnr_db"]).any()  # some layers are bit-equal


def test_frame_of_nothing_keeps_the_columns() -> None:
    """Two networks of which no tensor fits."""
    one = MemoryBackend(inputs={"x": (4,)}, nodes=[MemoryNode("A", lambda x: x[:3] * 2, ("x",), ("y",))], outputs=["y"])
    two = MemoryBackend(inputs={"x": (4,)}, nodes=[MemoryNode("B", lambda x: x[:2] * 2, ("x",), ("y",))], outputs=["y"])
    found = aligndbg.diff(one, two)
    frame = found.to_frame()
    assert len(frame) == 0
    assert "rel_l2" in frame.columns
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.worst() == []
    assert found.first_divergence is None
    assert "y" in found.summary(all_rows=True)
    assert "INCONCLUSIVE" in found._repr_html_()


def test_repr_html_is_a_fragment_and_escaped(diverged: Diff) -> None:
    text = diverged._repr_html_()
    assert "<html" not in text
    assert "DIVERGED" in text
    assert "/mix/Relu_output_0" in text
    evil = MemoryBackend(
        inputs={"<i>": (4,)},
        nodes=[MemoryNode("<b>op</b>", lambda x: x * 2, ("<i>",), ("<script>alert(1)</script>",), name="<u>node</u>")],
        outputs=["<script>alert(1)</script>"],
        name="<style>path</style>",
    )
    found = aligndbg.diff(evil, evil)
    for shown in (found._repr_html_(), found.to_html()):
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
        assert not [tag for tag in ("<script>alert", "<b>op", "<i>x", "<style>path", "<u>node") if tag in shown]


def test_large_diffs_show_the_worst_rows_in_a_notebook() -> None:
    count = 90

    def chain(bad: int) -> MemoryBackend:
        def step(k: int) -> Any:
            factor = np.float32(1.5 if k == bad else 1)
            return lambda x: np.tanh(x * factor + np.float32(0.01 * k) + np.linspace(-1, 1, 16, dtype=np.float32))

        names = ["x", *(f"t{k}" for k in range(count))]
        nodes = [MemoryNode("Step", step(k), (names[k],), (names[k + 1],)) for k in range(count)]
        return MemoryBackend(inputs={"x": (3, 16)}, nodes=nodes, outputs=[names[-1]])

    found = aligndbg.diff(chain(-1), chain(70))
    assert len(found.pairs) == count
    text = found._repr_html_()
    assert text.count("<tr class=") == 60
    assert f"worst of {count} pairs" in text
    assert found.to_html().count("<tr class=") == count
    assert [fault.reference for fault in found.faults] == ["t70"]


def test_worst_and_first_divergence(diverged: Diff, aligned: Diff) -> None:
    assert diverged.first_divergence is not None
    assert diverged.first_divergence.pair.reference == "/mix/Relu_output_0"
    assert aligned.first_divergence is None
    errors = [m.metrics.rel_l2 for m in diverged.worst(5)]
    assert errors == sorted((m.metrics.rel_l2 for m in diverged.pairs), reverse=True)[:5]


def test_coverage_and_text(diverged: Diff) -> None:
    assert diverged.coverage["reference"].compared == len(diverged.pairs) == 18
    assert str(diverged) == diverged.summary()
    assert max(map(len, diverged.summary(width=80).splitlines())) <= 80
    assert "\x1b" not in diverged.summary()


def test_files_are_what_the_strings_are(diverged: Diff, tmp_path: Path) -> None:
    import pandas as pd

    assert diverged.to_json(tmp_path / "a.json") == (tmp_path / "a.json").read_text()
    assert diverged.to_html(tmp_path / "a.html") == (tmp_path / "a.html").read_text()
    diverged.to_csv(tmp_path / "a.csv")
    assert len(pd.read_csv(tmp_path / "a.csv")) == len(diverged.pairs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.html", "a.json"]
    with pytest.raises(UsageError, match="nowhere"):
        diverged.to_json(tmp_path / "nowhere" / "a.json")
