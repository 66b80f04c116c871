"""What a region rounds inside, and what that may cost at its output."""

from __future__ import annotations

import numpy as np
import pytest

from aligndbg.core.types import Graph, Layout, LayoutKind, Node, Pair, Quant, TensorInfo
from aligndbg.measure.rounding import Rounding, inner_roundings

LAYOUT = Layout(LayoutKind.IDENTITY, (4,), (0,), (4,), (4,))


def chain(*ops: str, steps: dict[str, float]) -> Graph:
    """x -> t0 -> t1 -> ..., each of the next op; `steps` are those of tensors on a grid."""
    nodes = [Node(op, f"n{k}", (f"t{k - 1}" if k else "x",), (f"t{k}",)) for k, op in enumerate(ops)]
    grids = {name: Quant(np.array([step], np.float32), np.array([0])) for name, step in steps.items()}
    tensors = {n: TensorInfo(n, (4,), "int8" if n in grids else "float32", grids.get(n)) for n in (
        "x", *(f"t{k}" for k in range(len(ops)))
    )}  # fmt: skip
    return Graph(tuple(nodes), tensors, ("x",), (f"t{len(ops) - 1}",))


@pytest.mark.parametrize(
    ("steps", "paired", "found"),
    [
        ({"t0": 1.0, "t1": 1.0, "t2": 1.0}, ("t0", "t1", "t2"), {}),
        ({"t0": 4.0, "t1": 1.0, "t2": 1.0}, ("t2",), {"t2": Rounding(2, 6.0)}),  # t0's reader computes: not known
        ({"t0": 1.0, "t1": 4.0, "t2": 1.0}, ("t0", "t2"), {"t2": Rounding(1, 6.0)}),  # Relu passes its 1.5 steps on
        ({"t0": 1.0, "t1": 1.0, "t2": 1.0}, ("t0", "t2"), {"t2": Rounding(1, 3.0)}),
        ({"t0": 1.0, "t2": 1.0}, ("t0", "t2"), {}),  # t1 stays float between grids
        ({"w": 1.0}, ("t0", "t2"), {"t2": Rounding(1, 3.0)}),  # no grid between operators: each rounds its input
    ],
)
def test_a_chain(steps: dict[str, float], paired: tuple[str, ...], found: dict[str, Rounding]) -> None:
    plain = chain("Conv", "Conv", "Relu", steps={})
    graph = chain("Conv", "Conv", "Relu", steps=steps)
    if "w" in steps:
        quant = Quant(np.array([1.0], np.float32), np.array([0]))
        tensors = {**graph.tensors, "w": TensorInfo("w", (4,), "int8", quant)}
        graph = Graph(graph.nodes, tensors, graph.inputs, graph.outputs, frozenset({"w"}))
    pairs = [Pair(name, name, LAYOUT, "value", 1.0) for name in paired]
    assert inner_roundings(plain, graph, pairs) == found
    assert inner_roundings(graph, plain, pairs) == found


def test_what_only_moves_rounds_nothing() -> None:
    graph = chain("Conv", "Reshape", "Relu", steps={"t0": 1.0, "t1": 1.0, "t2": 1.0})
    pairs = [Pair(name, name, LAYOUT, "value", 1.0) for name in ("t0", "t2")]
    assert inner_roundings(chain("Conv", "Reshape", "Relu", steps={}), graph, pairs) == {}
