"""Ways down a graph past unpaired tensors, against a walk that looks anew each time."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aligndbg.core.types import Graph, ModelInfo, Node, TensorInfo, Trace
from aligndbg.match.neighbours import Ways
from aligndbg.match.side import Side
from aligndbg.measure.fingerprint import fingerprint


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Side, list[str]]:
    """A graph of up to 14 nodes of one or two outputs, and the order in which tensors are paired."""
    tensors, nodes = ["x"], []
    for k in range(draw(st.integers(1, 14))):
        inputs = draw(st.lists(st.sampled_from(tensors[-5:]), min_size=1, max_size=3))
        outputs = [f"t{k}"] + [f"t{k}b"] * draw(st.booleans())
        nodes.append(Node("Op", f"n{k}", tuple(inputs), tuple(outputs)))
        tensors += outputs
    made = tensors[1:]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=2, unique=True))
    one = np.ones(2, np.float32)
    graph = Graph(tuple(nodes), {n: TensorInfo(n, (2,), "float32") for n in tensors}, ("x",), tuple(outputs))
    trace = Trace(ModelInfo("", "memory"), graph, dict.fromkeys(made, one), {"x": one}, tuple(made))
    side = Side(trace, dict.fromkeys((*made, "x"), fingerprint(one)), ("x",))
    return side, draw(st.permutations(made))


def walked(side: Side, name: str, paired: set[str]) -> bool:
    if name in side.graph.outputs or not side.consumers.get(name):
        return True
    below = {o for node in side.consumers[name] for o in node.outputs if o not in paired}
    return any(walked(side, o, paired) for o in below if o in side.consumers or o in side.graph.outputs)


@given(graphs(), st.integers(0, 3))
def test_ways_close_as_tensors_are_paired(made: tuple[Any, list[str]], before: int) -> None:
    side, order = made
    paired = set(order[:before])
    ways = Ways(side, paired)
    for name in order[before:]:
        assert {n: ways.open_from(n) for n in ("x", *order)} == {n: walked(side, n, paired) for n in ("x", *order)}
        paired.add(name)
        ways.close(name)
    assert all(ways.open_from(n) == walked(side, n, paired) for n in ("x", *order))
