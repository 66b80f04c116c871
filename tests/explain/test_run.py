"""The time that explaining may take, and the run that each fault is explained by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aligndbg
from aligndbg.explain import run
from causes import C, compared
from nets import Middle, Net, chain


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.02, 0.05, 0.1])
def test_a_search_that_runs_out_of_time_ends_wherever_it_is(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(run, "SECONDS", seconds)
    monkeypatch.setattr(run, "SHARE", 0.0)
    found = aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite", checks=False)
    (fault,) = found.faults
    assert fault.cause is not None
    assert fault.cause.kind == "weight" or fault.cause.details["out_of_time"]


def relu_before(extra: bool, scale: float = 1.0) -> Middle:
    def build(net: Net, x: str) -> str:
        y = net.op("Relu", [x], "extra") if extra else x
        y = net.conv(y, "mid", C, C)
        net.weights["mid.w"] *= np.float32(scale)
        return net.conv(net.op("Tanh", [y], "tanh"), "tail", C, C)

    return build


@pytest.mark.parametrize("on_reference", [False, True])
def test_an_activation_too_many_before_a_convolution_is_explained_by_what_reads_it(
    tmp_path: Path, on_reference: bool
) -> None:
    paths = [chain(relu_before(extra), tmp_path / f"{extra}.onnx") for extra in (on_reference, not on_reference)]
    found = compared(*paths)
    assert [{f.reference, f.candidate} for f in found.faults] == [{"stem", "extra"}]
    (fault,) = found.faults
    assert fault.cause is not None
    assert fault.cause.kind == ("missing_activation" if on_reference else "extra_activation")
    assert fault.isolated_error > 0.5
    assert fault.cause.before is not None
    assert fault.cause.before > 0.5, "the convolution computes it from the values that the activation cut off"
    assert fault.cause.after == pytest.approx(0.0, abs=1e-5)


def test_two_faults_in_a_row_are_one_region_that_holds_both(tmp_path: Path) -> None:
    """Nothing comes right once the activation alone is corrected: the convolution behind it is wrong, too."""
    paths = [chain(relu_before(False), tmp_path / "a.onnx"), chain(relu_before(True, 1.3), tmp_path / "b.onnx")]
    (fault,) = compared(*paths).faults
    assert (fault.reference, fault.candidate) == ("mid", "mid")
    assert fault.region_candidate.nodes == ("n_extra", "n_mid")
    assert fault.cause is not None
    assert fault.cause.kind != "scale", "that is only one of the two"
