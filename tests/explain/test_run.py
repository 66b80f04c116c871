"""The time that explaining may take."""

from __future__ import annotations

from pathlib import Path

import pytest

import aligndbg
from aligndbg.explain import run as _explaining


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.02, 0.05, 0.1])
def test_a_search_that_runs_out_of_time_ends_wherever_it_is(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(_explaining, "SECONDS", seconds)
    monkeypatch.setattr(_explaining, "SHARE", 0.0)
    found = aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite", checks=False)
    (fault,) = found.faults
    assert fault.cause is not None
    assert fault.cause.kind == "weight" or fault.cause.details["out_of_time"]
