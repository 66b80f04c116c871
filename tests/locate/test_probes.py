"""Regions tested on other values than this input gives them."""

from __future__ import annotations

import numpy as np
import pytest

import aligndbg
from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.core.types import Array


def leaky(slope: float, tag: str = "") -> MemoryBackend:
    """A square, whose values are no less than zero, through a leaky ReLU; its slope cannot show."""

    def bent(a: Array) -> Array:
        return np.where(a > 0, a, a * np.float32(slope))

    return MemoryBackend(
        inputs={"x": (4, 50)},
        nodes=[
            MemoryNode("Mul", lambda a: a * a, ("x",), (f"{tag}square",)),
            MemoryNode("LeakyRelu", bent, (f"{tag}square",), (f"{tag}bent",)),
            MemoryNode("Tanh", np.tanh, (f"{tag}bent",), (f"{tag}y",)),
        ],
        outputs=[f"{tag}y"],
    )


def test_what_this_input_hides_is_a_fault_where_it_is_probed(x: Array) -> None:
    assert aligndbg.diff(leaky(0.1), leaky(0.01, "c_"), {"x": x}).verdict == "aligned"
    found = aligndbg.diff(leaky(0.1), leaky(0.01, "c_"), {"x": x}, probe=2)
    (fault,) = found.faults
    assert (found.verdict, fault.reference, fault.hidden) == ("diverged", "bent", True)
    assert fault.isolated_error > 0.01
    row = next(m for m in found.pairs if m.pair.reference == "bent")
    assert (row.status, "hidden on this input" in row.reason) == ("fault", True)


def test_it_stays_one_when_judged_again(x: Array) -> None:
    found = aligndbg.judge(aligndbg.diff(leaky(0.1), leaky(0.01, "c_"), {"x": x}, probe=2), atol=1e-5)
    assert [(f.reference, f.hidden) for f in found.faults] == [("bent", True)]


def test_what_was_probed_is_said(x: Array) -> None:
    found = aligndbg.diff(leaky(0.1), leaky(0.1, "c_"), {"x": x}, probe=3)
    assert (found.verdict, found.faults) == ("aligned", ())
    assert found.checks["probed"] == {"runs": 3, "regions": 3, "why_not": ""}
    assert "3 regions probed on 3 random inputs of their own" in " ".join(str(found).split())
    assert "probed" not in aligndbg.diff(leaky(0.1), leaky(0.1, "c_"), {"x": x}).checks


def twice(tag: str, scaled: str) -> MemoryBackend:
    """Two equal products; the last operator reads the one called `scaled`."""
    return MemoryBackend(
        inputs={"x": (4, 50)},
        nodes=[
            MemoryNode("Sin", np.sin, ("x",), (f"{tag}s",)),
            MemoryNode("Mul", lambda a: a * np.float32(0.5), (f"{tag}s",), (f"{tag}one",)),
            MemoryNode("Mul", lambda a: a * np.float32(0.5), (f"{tag}s",), (f"{tag}two",)),
            MemoryNode("Exp", np.exp, (f"{tag}{scaled}",), (f"{tag}y",)),
        ],
        outputs=[f"{tag}y"],
    )


@pytest.mark.parametrize("scaled", ["one", "two"])
def test_of_two_equal_tensors_either_may_be_read(x: Array, scaled: str) -> None:
    found = aligndbg.diff(twice("", "one"), twice("c_", scaled), {"x": x}, probe=2)
    assert (found.verdict, found.faults) == ("aligned", ())
