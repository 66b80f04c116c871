"""The backend of Python functions: values, what it learns by running, and graphs and functions that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.core.errors import FeedError, ModelError, UsageError
from aligndbg.core.types import Quant, TensorInfo

X = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


def net(function: Callable[..., Any] = np.negative, outputs: tuple[str, ...] = ("y",), **options: Any) -> MemoryBackend:
    nodes = [MemoryNode("Op", function, ("x",), outputs, {"alpha": 1}, "op1", scope="net.op1")]
    return MemoryBackend(inputs={"x": (2, "width")}, nodes=nodes, outputs=outputs[:1], **options)


def test_it_runs_and_learns() -> None:
    backend = net()
    assert backend.graph().tensors["y"] == TensorInfo("y")
    assert dict(backend.run(X, ["y"]))["y"].tolist() == [[0, -1, -2], [-3, -4, -5]]
    assert backend.graph().tensors["y"] == TensorInfo("y", (2, 3), "float32")
    node = backend.graph().nodes[0]
    assert (node.name, node.canonical, node.scope, node.attributes) == ("op1", "Op", "net.op1", {"alpha": 1})


def test_an_override_reaches_consumers_and_not_the_tensor_itself() -> None:
    nodes = [MemoryNode("Neg", np.negative, ("x",), ("a",)), MemoryNode("Neg", np.negative, ("a",), ("b",))]
    backend = MemoryBackend(inputs={"x": (1,)}, nodes=nodes, outputs=["b"])
    one, two = np.ones(1, np.float32), np.full(1, 2, np.float32)
    values = dict(backend.run({"x": one}, ["x", "a", "b"], {"a": two}))
    assert {name: value.item() for name, value in values.items()} == {"x": 1, "a": -1, "b": -2}
    assert dict(backend.run({"x": one}, ["x", "a"], {"x": two}))["a"].item() == -2


def test_several_outputs_and_absent_ones() -> None:
    backend = MemoryBackend(
        inputs={"x": (2, 3)},
        nodes=[
            MemoryNode("Split", lambda x: (x[:1], x[1:]), ("x",), ("", "second")),
            MemoryNode("Add", lambda a, b: a if b is None else a + b, ("second", ""), ("sum",)),
        ],
        outputs=["sum"],
    )
    assert [node.name for node in backend.graph().nodes] == ["Split_0", "Add_1"]
    assert dict(backend.run(X, ["sum"]))["sum"].tolist() == [[3, 4, 5]]


def test_a_view_of_the_input_is_copied_on_the_way_out() -> None:
    feed = X["x"].copy()
    values = dict(net(lambda x: x.T).run({"x": feed}, ["x", "y"]))
    values["x"][:] = values["y"][:] = 7
    assert feed.tolist() == X["x"].tolist()


def test_quantization_and_other_dtypes() -> None:
    quant = Quant(np.array([0.5], np.float32), np.array([3]))
    backend = MemoryBackend(
        inputs={"x": TensorInfo("x", (2,), "int8")},
        nodes=[MemoryNode("Op", lambda x: x, ("x",), ("y",))],
        outputs=["y"],
        quant={"x": quant, "y": quant},
    )
    list(backend.run({"x": np.zeros(2, np.int8)}, ["y"]))
    assert backend.graph().tensors["x"].quant is quant
    assert backend.graph().tensors["y"] == TensorInfo("y", (2,), "int8", quant)


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "input 'x' is missing"),
        ({**X, "z": X["x"]}, "no input is called 'z'"),
        ({"x": X["x"].astype(float)}, r"input 'x': expected float32 \[.*\], got float64"),
        ({"x": X["x"][0]}, "input 'x': expected"),
        ({"x": X["x"][:1]}, "input 'x': expected"),
    ],
)
def test_feeds_are_checked_before_anything_runs(feeds: dict[str, Any], says: str) -> None:
    with pytest.raises(FeedError, match=says):
        net().run(feeds, ["y"])


def test_an_override_is_checked_when_its_shape_is_known() -> None:
    with pytest.raises(FeedError, match="override of 'y'"):
        list(net().run(X, ["y"], {"y": np.zeros(1, np.float32)}))
    with pytest.raises(FeedError, match="cannot override 'z'"):
        net().run(X, ["y"], {"z": np.zeros(1, np.float32)})


def _in_place(x: Any) -> Any:
    x += 1
    return x


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x @ x, "op1: ValueError"),
        (_in_place, "read-only"),
        (lambda x: (x, x), "gave 2 values for 1 outputs"),
    ],
)
def test_a_function_that_fails_is_named(function: Callable[..., Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        list(net(function).run(X, ["y"]))


@pytest.mark.parametrize(
    ("nodes", "outputs", "says"),
    [
        ([MemoryNode("A", abs, ("z",), ("y",))], ["y"], "reads 'z'"),
        ([MemoryNode("A", abs, ("x",), ("x",))], ["x"], "writes 'x'"),
        ([MemoryNode("A", abs, ("x",), (n,), name="same") for n in "yz"], ["y"], "the same name"),
        ([MemoryNode("A", abs, ("x",), ("y",))], ["z"], "no tensor 'z'"),
    ],
)
def test_a_graph_that_is_none(nodes: list[MemoryNode], outputs: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        MemoryBackend(inputs={"x": (1,)}, nodes=nodes, outputs=outputs)
