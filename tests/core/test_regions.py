"""Walks on a graph: what lies between a tensor and the borders before it."""

from __future__ import annotations

from aligndbg.core.regions import region, upward
from aligndbg.core.types import Graph, Node

GRAPH = Graph(
    nodes=(
        Node("Relu", "first", ("x",), ("a",)),
        Node("RandomNormal", "noise", (), ("n",)),
        Node("Add", "second", ("a", "n"), ("b",)),
        Node("Mul", "third", ("b", "w"), ("y",)),
    ),
    inputs=("x",),
    outputs=("y",),
    constants=frozenset({"w"}),
)


def test_a_region_holds_what_reads_nothing_too() -> None:
    found = region(GRAPH, "y", {"a", "y"})
    assert (found.nodes, found.inputs, found.outputs) == (("noise", "second", "third"), ("a",), ("y",))


def test_a_walk_goes_on_where_it_is_let_through() -> None:
    met = [(node.name, i) for node, i in upward(GRAPH, ["y"], lambda i: i != "a")]
    assert met == [("third", "b"), ("third", "w"), ("second", "a"), ("second", "n")]
