"""One real Diff of each kind, from networks of Python functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg import MemoryBackend, MemoryNode
from aligndbg.diff_result import Diff

Array = np.ndarray[Any, np.dtype[Any]]


def network(bias: float = 0.0, names: tuple[str, str, str] = ("scaled", "shifted", "y")) -> MemoryBackend:
    """Mul, Add, Tanh; the bias of Add is what can be wrong."""
    return MemoryBackend(
        inputs={"x": (2, 3, 4)},
        nodes=[
            MemoryNode("Mul", lambda x: x * np.linspace(0.5, 2, 4, dtype=np.float32), ("x",), names[:1], name="scale"),
            MemoryNode("Add", lambda x: x + np.float32(bias), names[:1], names[1:2], name="shift"),
            MemoryNode("Tanh", np.tanh, names[1:2], names[2:], name="squash"),
        ],
        outputs=names[2:],
    )


@pytest.fixture(scope="session")
def make_network() -> Callable[..., MemoryBackend]:
    return network


@pytest.fixture(scope="session")
def aligned() -> Diff:
    return aligndbg.diff(network(), network())


@pytest.fixture(scope="session")
def diverged() -> Diff:
    return aligndbg.diff(network(), network(bias=0.5))


@pytest.fixture(scope="session")
def silent() -> Diff:
    """Everything after the first node is zero on both sides."""

    def dead() -> MemoryBackend:
        nodes = [
            MemoryNode("Mul", lambda x: x * np.linspace(0.5, 2, 4, dtype=np.float32), ("x",), ("m",)),
            MemoryNode("Relu", lambda m: np.maximum(m - 100, 0), ("m",), ("y",)),
        ]
        return MemoryBackend(inputs={"x": (2, 3, 4)}, nodes=nodes, outputs=["y"])

    return aligndbg.diff(dead(), dead())


@pytest.fixture(scope="session")
def hostile() -> Diff:
    """Names that try to break out of each format, of tensors, nodes, operators, and the model itself."""
    names = ("<script>alert(1)</script>", "[bold red]loud[/]", "\x1b[31m\x9b\u202e\nend")
    tags = ("<b>", "[blink]", "\x1b[2J")

    def model(bias: float) -> MemoryBackend:
        base = network(bias)
        nodes = [
            MemoryNode(f"{tag}Op", fn, (source,), (name,), name=f"{tag}node")
            for tag, fn, source, name in zip(tags, base._functions, ("<i>x</i>", *names), names, strict=False)
        ]
        return MemoryBackend(inputs={"<i>x</i>": (2, 3, 4)}, nodes=nodes, outputs=names[2:], name="<u>\x1b[1mpath")

    return aligndbg.diff(model(0.0), model(0.5))
