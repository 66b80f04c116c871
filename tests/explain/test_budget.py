"""The unit of explaining's budget: work, whatever else the machine does meanwhile; and what is said of the rest."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

import aligndbg
from aligndbg.core.types import Cause
from aligndbg.diff_result import Diff
from causes import conv
from nets import chain


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    good, bad = (conv(pads=pads, strides=[2, 2]) for pads in ([0, 0, 1, 1], [1, 1, 1, 1]))
    return chain(good, tmp_path / "a.onnx"), chain(bad, tmp_path / "b.onnx")


def cause_of(found: Diff) -> Cause:
    (fault,) = found.faults
    assert fault.cause is not None
    return fault.cause


def test_waiting_costs_nothing(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock jumps by a minute at each look at it, as on a machine that does something else."""
    usual = cause_of(aligndbg.diff(*pair, checks=False))
    minutes = itertools.count(step=60)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(minutes)))
    found = cause_of(aligndbg.diff(*pair, checks=False, explain_time=1.8))
    assert (found.kind, found.summary) == (usual.kind, usual.summary)
    assert found.kind == "padding"


def test_work_is_what_is_bounded(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    minutes = itertools.count(step=60)
    monkeypatch.setattr(time, "thread_time", lambda: float(next(minutes)))
    found = cause_of(aligndbg.diff(*pair, checks=False, explain_time=1.8))
    assert found.kind == "unexplained"
    assert "not tried: out of time" in found.summary
    assert "--explain-time" in found.summary


def test_what_was_not_tried_is_named(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """There is time to set the experiment up, and none for a trial."""
    looks = iter([0.0, 0.0, 0.0])
    monkeypatch.setattr(time, "thread_time", lambda: next(looks, 1e6))
    found = cause_of(aligndbg.diff(*pair, checks=False, explain_time=1.8))
    assert found.kind == "unexplained"
    assert "padding" in found.details["not_tried"]
    assert "padding" in found.summary
