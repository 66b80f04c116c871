"""Which faults experiments find, and which they excuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

import aligndbg
from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.core.types import Array

Function = Callable[..., Array]


def softmax(a: Array) -> Array:
    risen = np.exp(a - a.max(axis=-1, keepdims=True))
    return np.asarray(risen / risen.sum(axis=-1, keepdims=True))


def tagged(tag: str, op: str, fn: Function, source: str, output: str) -> MemoryNode:
    """An operator whose tensors, but for the input, are named after its model."""
    return MemoryNode(op, fn, (source if source == "x" else tag + source,), (tag + output,))


def two_heads(
    tag: str, scale: float = 1.0, shift: float = 0.0, turn: int = 0, wave: Function = np.tanh
) -> MemoryBackend:
    """A stem, and two outputs: `near` right behind it, `far` two operators further."""

    node = partial(tagged, tag)
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
        node = partial(tagged, tag)
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


LOWEST = float(np.finfo(np.float32).min)


def attention(tag: str, huge: float, bias: float = 1.0, blocks: int = 2, masked_rows: int = 0) -> MemoryBackend:
    """Blocks of causal attention: the masked scores, a bias added to them, a softmax, a residual.

    `bias` scales that of the last block. In the first `masked_rows` rows of the last sequence every key is masked.
    """
    rng = np.random.default_rng(4)
    weight, biases = rng.standard_normal((16, 16)).astype(np.float32) / 3, rng.standard_normal((8, 8))
    hidden = np.broadcast_to(np.triu(np.ones((8, 8), bool), 1), (2, 8, 8)).copy()
    hidden[-1, :masked_rows] = True

    def weights(a: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return softmax(a)

    nodes: list[MemoryNode] = []
    before = "x"
    for k in range(blocks):
        added = (biases * (bias if k == blocks - 1 else 1.0)).astype(np.float32)
        for op, fn, sources, output in (
            ("MatMul", lambda x: x @ weight, (before,), "q"),
            ("MatMul", lambda q, x: q @ x.swapaxes(1, 2), ("q", before), "scores"),
            ("Where", lambda s: np.where(hidden, np.float32(huge), s), ("scores",), "masked"),
            ("Add", lambda a, added=added: a + added, ("masked",), "biased"),
            ("Softmax", weights, ("biased",), "weights"),
            ("MatMul", lambda p, q: p @ q, ("weights", "q"), "mixed"),
            ("Add", lambda x, m: x + m, (before, "mixed"), "out"),
        ):
            names = tuple(n if n == "x" or n == before else f"{tag}{n}{k}" for n in sources)
            nodes.append(MemoryNode(op, fn, names, (f"{tag}{output}{k}",)))
        before = f"{tag}out{k}"
    return MemoryBackend(inputs={"x": (2, 8, 16)}, nodes=nodes, outputs=[before])


@pytest.fixture
def sequences() -> Array:
    return np.random.default_rng(1).standard_normal((2, 8, 16)).astype(np.float32)


@pytest.mark.parametrize("huge", [LOWEST / 4, -1e9, -65504.0, -math.inf])
def test_a_mask_hides_no_fault(sequences: Array, huge: float) -> None:
    found = aligndbg.diff(attention("", huge), attention("c_", huge, bias=3.0), {"x": sequences})
    assert [(f.reference, f.candidate) for f in found.faults] == [("biased1", "c_biased1")]
    assert found.faults[0].isolated_error > 0.05
    (pair,) = (m for m in found.pairs if m.pair.reference == "biased1")
    assert (pair.status, pair.isolated.rel_l2) == ("fault", found.faults[0].isolated_error)
    assert {m.pair.reference: m.pair.candidate for m in found.pairs if m.status == "pass"}["biased0"] == "c_biased0"


@pytest.mark.parametrize("other", [-math.inf, -1e9, -65504.0])
@pytest.mark.parametrize("swapped", [False, True])
def test_masks_of_other_values_are_no_fault_where_a_softmax_ends_them(
    sequences: Array, other: float, swapped: bool
) -> None:
    values = (LOWEST, other)[:: -1 if swapped else 1]
    found = aligndbg.diff(attention("", values[0]), attention("c_", values[1]), {"x": sequences})
    assert (found.verdict, found.faults) == ("aligned", ())


@pytest.mark.parametrize("swapped", [False, True])
def test_rows_masked_throughout_differ_where_the_mask_is_infinite(sequences: Array, swapped: bool) -> None:
    """A softmax makes NaN of a row of -inf, and equal shares of one of -3.4e38: it is not the softmax's fault."""
    values = (LOWEST, -math.inf)[:: -1 if swapped else 1]
    sides = (attention(t, v, blocks=1, masked_rows=3) for t, v in zip(("", "c_"), values, strict=True))
    found = aligndbg.diff(*sides, {"x": sequences})
    assert [f.reference for f in found.faults] == ["masked0"]
    assert found.faults[0].cause is not None
    assert found.faults[0].cause.kind == "nonfinite"
    assert "mask is -inf" in found.faults[0].cause.summary


@pytest.mark.parametrize("value", [math.nan, -math.inf, 0.0, 3.0])
def test_outputs_that_no_value_can_pair_are_no_fault_where_they_agree(x: Array, value: float) -> None:
    """NaN throughout, or one number, beside an output that agrees: such an output proves nothing, and that is said."""

    def model(tag: str) -> MemoryBackend:
        node = partial(tagged, tag)

        def lost(a: Array) -> Array:
            return np.full_like(a, value)

        return MemoryBackend(
            inputs={"x": (4, 50)},
            nodes=[
                node("Sin", np.sin, "x", "fine"),
                node("Lost", lost, "fine", "lost"),
                node("Neg", np.negative, "lost", "end"),
            ],
            outputs=[tag + "end", tag + "fine"],
        )

    for other in ("", "c_"):
        found = aligndbg.diff(model(""), model(other), {"x": x})
        assert (found.verdict, found.faults) == ("inconclusive", ())
        assert "proves nothing" in found.verdict_reason


def waves(tag: str, dtype: str, wave: Function = np.sin) -> MemoryBackend:
    """The sine of large values, computed in `dtype`."""
    node = partial(tagged, tag)
    return MemoryBackend(
        inputs={"x": (4, 50)},
        nodes=[
            node("Mul", lambda a: (a * np.float32(20)).astype(dtype), "x", "phase"),
            node("Sin", lambda a: wave(a.astype("float32")).astype(dtype), "phase", "wave"),
            node("Add", lambda a: a + np.asarray(0.5, dtype), "wave", "y"),
        ],
        outputs=[tag + "y"],
    )


def test_what_rounding_of_its_input_does_is_not_an_operators_fault(x: Array) -> None:
    """Both sides are judged on the value that the half one can hold."""
    found = aligndbg.diff(waves("", "float32"), waves("c_", "float16"), {"x": x})
    own = {m.pair.reference: m.isolated.rel_l2 for m in found.pairs if m.isolated}
    assert own["wave"] > 2e-3
    assert (found.verdict, found.faults) == ("aligned", ())


def test_beyond_that_rounding_it_is_one(x: Array) -> None:
    found = aligndbg.diff(
        waves("", "float32"), waves("c_", "float16", lambda a: np.sin(a * np.float32(1.001))), {"x": x}
    )
    assert [f.reference for f in found.faults] == ["wave"]


def grown(tag: str, first: float = 1.0, last: float = 1.0) -> MemoryBackend:
    """What is near to its limit, and grows: a power, and behind it two operators whose ends agree once that is cut."""
    node = partial(tagged, tag)
    uneven = np.where(np.arange(50) % 2, np.float32(first), np.float32(1))
    return MemoryBackend(
        inputs={"x": (4, 50)},
        nodes=[
            node("Abs", lambda a: np.abs(a) + np.float32(1), "x", "stem"),
            node("Mul", lambda a: a * uneven, "stem", "scaled"),
            node("Pow", lambda a: a ** np.float32(8), "scaled", "grown"),
            node("Mul", lambda a: a * np.where(np.arange(50) % 3, np.float32(last), np.float32(1)), "grown", "more"),
            node("Log", np.log, "more", "y"),
        ],
        outputs=[tag + "y"],
    )


def test_what_a_correction_pairs_anew_is_judged_too(x: Array) -> None:
    found = aligndbg.diff(grown(""), grown("c_", first=1.0008, last=1.0006), {"x": x})
    assert [f.reference for f in found.faults] == ["scaled", "more"]
    assert {m.pair.reference for m in found.pairs if m.status == "fault"} == {"scaled", "more"}
