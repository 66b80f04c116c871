"""Which faults experiments find, and which they excuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import aligndbg
from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.core.types import Array

Function = Callable[..., Array]


def softmax(a: Array) -> Array:
    risen = np.exp(a - a.max(axis=-1, keepdims=True))
    return np.asarray(risen / risen.sum(axis=-1, keepdims=True))


def two_heads(
    tag: str, scale: float = 1.0, shift: float = 0.0, turn: int = 0, wave: Function = np.tanh
) -> MemoryBackend:
    """A stem, and two outputs: `near` right behind it, `far` two operators further."""

    def node(op: str, fn: Function, source: str, output: str) -> MemoryNode:
        return MemoryNode(op, fn, (source if source == "x" else tag + source,), (tag + output,))

    return MemoryBackend(
        inputs={"x": (4, 50)},
        nodes=[
            node("Sin", np.sin, "x", "stem"),
            node("Mul", lambda a: a * np.float32(0.5 * scale), "stem", "scaled"),
            node("Add", lambda a: a * a + np.float32(0.25 + shift), "scaled", "far"),
            node("Tanh", wave, "stem", "bent"),
            node("Concat", lambda a: np.roll(a, turn, axis=1), "bent", "near"),
        ],
        outputs=[tag + "far", tag + "near"],
    )


def test_an_agreeing_pair_takes_one_run(x: Array) -> None:
    found = aligndbg.diff(two_heads(""), two_heads("c_"), {"x": x})
    assert (found.verdict, found.checks["isolation_runs"]) == ("aligned", 1)


def test_every_output_has_its_faults(x: Array) -> None:
    """Two operators in a row are wrong: correcting either heals nothing. The other output is no less wrong."""
    found = aligndbg.diff(two_heads(""), two_heads("c_", scale=1.5, shift=0.5, turn=1), {"x": x})
    assert found.verdict == "diverged"
    assert {f.reference for f in found.faults} == {"far", "near"}
    (far,) = (f for f in found.faults if f.reference == "far")
    assert set(far.region_reference.outputs) | {"scaled"} == {"scaled", "far"}
    assert {m.pair.reference for m in found.pairs if m.status == "fault"} == {"far", "near"}


def test_faults_of_two_branches_are_told_apart(x: Array) -> None:
    """Above its output the bent branch heals; the other does not hide it."""
    found = aligndbg.diff(two_heads(""), two_heads("c_", scale=1.5, wave=np.arctan), {"x": x})
    assert [(f.reference, f.candidate) for f in found.faults] == [("scaled", "c_scaled"), ("bent", "c_bent")]


def test_what_nothing_downstream_can_notice_is_no_fault(x: Array) -> None:
    """A softmax does not see a number that is added to all that it reads."""

    def model(tag: str, offset: float) -> MemoryBackend:
        def node(op: str, fn: Function, source: str, output: str) -> MemoryNode:
            return MemoryNode(op, fn, (source if source == "x" else tag + source,), (tag + output,))

        return MemoryBackend(
            inputs={"x": (4, 50)},
            nodes=[
                node("Sin", np.sin, "x", "stem"),
                node("Add", lambda a: a + np.float32(offset), "stem", "scores"),
                node("Softmax", softmax, "scores", "weights"),
                node("Sqrt", np.sqrt, "weights", "y"),
            ],
            outputs=[tag + "y"],
        )

    found = aligndbg.diff(model("", 0.0), model("c_", 0.5), {"x": x})
    assert (found.verdict, found.faults) == ("aligned", ())


def test_what_no_round_is_left_for_is_unknown(x: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aligndbg.locate.locate.MOST_ROUNDS", 2)
    found = aligndbg.diff(two_heads(""), two_heads("c_", scale=1.5, wave=np.arctan), {"x": x})
    assert {m.pair.reference: m.status for m in found.pairs}["bent"] == "unknown"


def test_faults_are_weighed_at_the_outputs(x: Array) -> None:
    """Of two faults, each above one of two outputs, each one is all that is wrong with its own."""
    found = aligndbg.diff(two_heads(""), two_heads("c_", scale=1.5, wave=np.arctan), {"x": x})
    scaled, bent = found.faults
    before = {m.pair.reference: m.metrics.rel_l2 for m in found.pairs if m.pair.reference in found.outputs}
    assert found.corrected is not None
    assert max(found.corrected.values()) < 1e-6
    assert found.corrected.keys() == {"far", "near"}
    assert scaled.effect is not None
    assert bent.effect is not None
    for effect, own, other in ((scaled.effect, "far", "near"), (bent.effect, "near", "far")):
        assert effect.alone[own] == pytest.approx(before[own], rel=1e-6)
        assert effect.alone[other] < 1e-6
        assert effect.corrected[other] == pytest.approx(before[other], rel=1e-6)
        assert effect.corrected[own] < 1e-6


def test_what_the_faults_do_not_explain_is_said(x: Array) -> None:
    """Correcting the last operator of an output makes that right, and no other."""
    found = aligndbg.diff(two_heads(""), two_heads("c_", scale=1.5, shift=0.5, turn=1), {"x": x})
    assert found.corrected == {"far": 0.0, "near": 0.0}
    assert found.checks["left_open"] == {}
    assert found.checks["experiments"] > 0
