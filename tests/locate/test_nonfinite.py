"""NaN that only the plain runs show: isolated, every operator is given what the other side computed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

import aligndbg
from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.core.types import Array


def normalized(tag: str, epsilon: float, mask: float = 0.0, heat: float = 1.0) -> MemoryBackend:
    """Rows by their length; then a softmax of what a mask leaves."""

    def node(op: str, fn: object, sources: str, output: str) -> MemoryNode:
        names = tuple(n if n == "x" else tag + n for n in sources.split())
        return MemoryNode(op, fn, names, (tag + output,))  # type: ignore[arg-type]

    masked = np.where(np.arange(50) < 10, np.float32(mask), np.float32(0))
    nodes = [
        node("Mul", lambda a: a * a, "x", "squares"),
        node("ReduceSum", lambda a: a.sum(axis=1, keepdims=True), "squares", "sum"),
        node("Add", lambda a: a + np.float32(epsilon), "sum", "kept"),
        node("Sqrt", np.sqrt, "kept", "length"),
        node("Div", _divided, "x length", "unit"),
        node("Tanh", np.tanh, "unit", "bent"),
        node("Add", lambda a: a + masked, "bent", "masked"),
        node("Softmax", lambda a: _softmax(a * np.float32(heat)), "masked", "y"),
    ]
    return MemoryBackend(inputs={"x": (4, 50)}, nodes=nodes, outputs=[tag + "y"])


def _divided(a: Array, b: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(a / b)


def _softmax(a: Array) -> Array:
    with np.errstate(all="ignore"):
        risen = np.exp(a - a.max(axis=-1, keepdims=True))
        return np.asarray(risen / risen.sum(axis=-1, keepdims=True))


@pytest.fixture
def blank(x: Array) -> Array:
    """One row is all zero."""
    return x * np.float32([[1], [1], [0], [1]])


def test_what_divides_by_a_lost_epsilon_is_named(blank: Array) -> None:
    found = aligndbg.diff(normalized("", 1e-12), normalized("c_", 0.0), {"x": blank})
    assert [(f.reference, f.reference_op) for f in found.faults] == [("unit", "Div")]
    assert found.corrected is not None
    assert found.corrected["y"] < 1e-6
    (at,) = (m for m in found.pairs if m.pair.reference == "unit")
    assert at.status == "fault"
    assert "begin here" in at.reason


def test_faults_stand_in_the_order_of_execution_with_it(blank: Array) -> None:
    found = aligndbg.diff(normalized("", 1e-12), normalized("c_", 0.0, heat=1.5), {"x": blank})
    assert [f.reference for f in found.faults] == ["unit", "y"]


def test_so_it_is_where_the_other_side_is_run_again(blank: Array, tmp_path: Path) -> None:
    aligndbg.capture(normalized("c_", 0.0), {"x": blank}, tmp_path / "c.npz")
    found = aligndbg.diff(normalized("", 1e-12), tmp_path / "c.npz")
    assert [f.reference for f in found.faults] == ["unit"]


def test_a_mask_of_minus_infinity_makes_none(x: Array) -> None:
    found = aligndbg.diff(normalized("", 1e-12, mask=-3e38), normalized("c_", 1e-12, mask=-np.inf), {"x": x})
    assert (found.verdict, found.faults) == ("aligned", ())


def test_it_is_named_below_such_a_mask_too(blank: Array) -> None:
    make = partial(normalized, mask=-3e38)
    found = aligndbg.diff(make("", 1e-12), normalized("c_", 0.0, mask=-np.inf), {"x": blank})
    assert [f.reference for f in found.faults] == ["unit"]
