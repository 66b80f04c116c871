"""What the tests of one hypothesis each share: a fault planted in a small network, and the cause that is told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import aligndbg
from aligndbg import Verdict
from aligndbg.backends.onnx.backend import OnnxBackend
from aligndbg.core.types import Cause
from aligndbg.diff_result import Diff
from nets import CHANNELS, SIZE, Array, Middle, Net, chain

C = CHANNELS


class Planted(NamedTuple):
    """An operator that differs, `good` on one side and `bad` on the other, and the kind of cause that it is.

    `recorded`: it is found from the reference alone, too, where the candidate is a recording.
    """

    name: str
    kind: str
    good: Middle
    bad: Middle
    recorded: bool = False


class EitherSide:
    """Every kind of cause of one hypothesis: subclass it with `PLANTED`."""

    PLANTED: tuple[Planted, ...]

    def test_the_kind_is_found_on_either_side(self, tmp_path: Path, planted: Planted, swapped: bool) -> None:
        paths = chain(planted.good, tmp_path / "good.onnx"), chain(planted.bad, tmp_path / "bad.onnx")
        cause = cause_of(*(paths[::-1] if swapped else paths))
        assert cause.kind == planted.kind, cause.summary
        assert cause.before is not None
        assert cause.after is not None
        assert cause.after <= 0.2 * cause.before
        assert "candidate" in cause.summary or "reference" in cause.summary

    def test_a_clean_pair_has_no_cause(self, tmp_path: Path, planted: Planted) -> None:
        found = compared(chain(planted.good, tmp_path / "a.onnx"), chain(planted.good, tmp_path / "b.onnx"))
        assert found.faults == ()
        assert found.causes == ()


class FromRecordings(EitherSide):
    """The same, and those marked `recorded` from a recording of one side."""

    def test_a_recorded_candidate_is_explained_from_the_reference_alone(
        self, tmp_path: Path, recorded: Planted
    ) -> None:
        explained_from_the_reference_alone(tmp_path, recorded)


def explained_from_the_reference_alone(folder: Path, planted: Planted) -> None:
    reference, candidate = chain(planted.good, folder / "a.onnx"), chain(planted.bad, folder / "b.onnx")
    trace = folder / "b.safetensors"
    aligndbg.capture(OnnxBackend(str(candidate), {}), image(), trace)
    found = aligndbg.diff(OnnxBackend(str(reference), {}), trace, checks=False)
    causes = [f.cause.kind for f in found.faults if f.cause is not None]
    assert causes == [planted.kind], [f.cause for f in found.faults]


def image() -> Array:
    return np.random.default_rng(3).uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32)


def compared(reference: Path, candidate: Path) -> Diff:
    """In this process: a worker for each of a hundred small files would take most of the time."""
    ours, theirs = (OnnxBackend(str(p), {}) for p in (reference, candidate))
    return aligndbg.diff(ours, theirs, image(), checks=False)


def cause_of(reference: Path, candidate: Path) -> Cause:
    found = compared(reference, candidate)
    assert found.verdict is Verdict.DIVERGED
    assert len(found.faults) == 1, [(f.reference, f.candidate, f.cause) for f in found.faults]
    assert found.faults[0].cause is not None
    return found.faults[0].cause


def conv(name: str = "middle", **attributes: Any) -> Middle:
    return lambda net, x: net.conv(x, name, C, C, **attributes)


def op(word: str, **attributes: Any) -> Middle:
    return lambda net, x: net.op(word, [x], "middle", **attributes)


def edited(change: Callable[[dict[str, Array]], None], **attributes: Any) -> Middle:
    """The middle convolution with `change(weights)` made to its file."""

    def build(net: Net, x: str) -> str:
        out = net.conv(x, "middle", C, C, **attributes)
        change(net.weights)
        return out

    return build
