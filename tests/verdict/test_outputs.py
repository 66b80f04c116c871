"""Outputs that the other model goes on from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aligndbg
from aligndbg.core.types import Status, Verdict
from aligndbg.diff_result import Diff
from nets import Net

BOXES = {"x": np.random.default_rng(5).standard_normal((1, 3, 12, 12)).astype(np.float32)}


def detector(path: Path, decoded: bool) -> Path:
    """Its output `boxes` is what the convolution gives, or that decoded."""
    net = Net()
    raw = net.op("Conv", ["x", net.weight("w", 4, 3, 1, 1)], "raw" if decoded else "boxes")
    if decoded:
        scaled = net.op("Mul", [raw, net.constant("step", 0.2)], "scaled")
        net.op("Add", [net.op("Exp", [scaled], "size"), net.weight("anchors", 1, 4, 12, 12)], "boxes")
    return net.save(path, "boxes")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Diff:
    folder = tmp_path_factory.mktemp("detector")
    return aligndbg.diff(detector(folder / "a.onnx", decoded=True), detector(folder / "b.onnx", decoded=False), BOXES)


def test_an_output_that_is_an_inner_tensor_of_the_other_model_is_told(found: Diff) -> None:
    assert found.verdict is Verdict.DIVERGED
    assert (
        "the candidate's output 'boxes' equals the inner tensor 'raw' (Conv) of the reference, which goes on from "
        "there to its own 'boxes' by Mul, Exp, Add" in found.warnings
    )
    pairs = {(m.pair.reference, m.pair.candidate): m for m in found.pairs}
    assert pairs["raw", "boxes"].status is Status.PASS
    assert pairs["boxes", "boxes"].metrics.rel_l2 > 0.1
    assert "beside the pairs of the network" in pairs["boxes", "boxes"].reason


def test_it_can_be_saved_and_judged_again(found: Diff, tmp_path: Path) -> None:
    found.save(tmp_path / "found.diff")
    again = Diff.load(tmp_path / "found.diff")
    assert again.to_json() == found.to_json()
    from aligndbg.pipeline.rejudge import judge

    lenient = {(m.pair.reference, m.pair.candidate): m for m in judge(again, atol=1e3).pairs}
    assert lenient["boxes", "boxes"].status is Status.PASS
    assert lenient["raw", "boxes"].isolated is not None
    assert lenient["boxes", "boxes"].isolated is None
