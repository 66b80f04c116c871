from __future__ import annotations

import pickle
from dataclasses import replace

from aligndbg.core.types import Graph, Node, TensorInfo


def test_what_a_graph_looks_up_is_its_own_and_stays_at_home() -> None:
    nodes = (Node("Add", "sum", ("x", "x"), ("a",)), Node("Relu", "relu", ("a", ""), ("b", "")))
    graph = Graph(nodes, {"a": TensorInfo("a", (1,), "float32")}, ("x",), ("b",))
    fresh = pickle.dumps(graph)
    assert graph.producers() == {"a": nodes[0], "b": nodes[1]}
    assert graph.consumers() == {"x": [nodes[0]], "a": [nodes[1]]}
    assert graph.places() == {"sum": 0, "relu": 1}
    assert pickle.dumps(graph) == fresh
    assert pickle.loads(fresh) == graph
    assert replace(graph, nodes=nodes[:1]).producers() == {"a": nodes[0]}
