"""From own errors to faults: operators that one side alone has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.core.types import Array
from chains import places


def test_what_one_side_computes_twice_and_the_other_once(x: Array) -> None:
    """The wrong one of two like operators has no counterpart of its own: the other side reads the right one there."""

    def model(twice: bool, tag: str) -> MemoryBackend:
        def name(n: str) -> str:
            return n if n == "x" else tag + n

        def node(op: str, fn: Callable[..., Array], inputs: str, output: str) -> MemoryNode:
            return MemoryNode(op, fn, tuple(name(i) for i in inputs.split()), (name(output),))

        nodes = [
            node("ReduceMean", lambda a: a.mean(axis=-1, keepdims=True), "x", "mean"),
            node("Sub", lambda a, m: a - m, "x mean", "first"),
            node("Mul", lambda a, b: a * b, "first first", "square"),
            node("Sub", lambda a, m: m - a, "x mean", "second"),  # the operands are swapped
            node("Mul", lambda a, b: a * b, f"{'second' if twice else 'first'} square", "cube"),
            node("Exp", np.exp, "cube", "risen"),
            node("Tanh", np.tanh, "cube", "bent"),
            node("Add", np.add, "risen bent", "y"),
        ]
        kept = [n for n in nodes if twice or n.outputs[0] != name("second")]
        return MemoryBackend(inputs={"x": x.shape}, nodes=kept, outputs=[name("y")])

    (fault,) = aligndbg.diff(model(True, ""), model(False, "c_"), {"x": x}).faults
    assert (fault.reference, fault.candidate) == ("second", "c_first")
    assert [fault.region_reference.outputs, fault.region_candidate.nodes] == [("second",), ()]


def test_a_fault_right_after_a_missing_activation_is_in_its_region(tmp_path: Path) -> None:
    """Correcting the activation alone heals nothing: the operator that reads it is wrong, too."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((4, 4, 3, 3)).astype(np.float32) for _ in range(3)]

    def model(path: Path, relu: bool, factor: float) -> str:
        made = [weights[0], weights[1] * np.float32(factor), weights[2]]
        nodes = [
            helper.make_node("Conv", ["x", "w0"], ["a"], "first", pads=[1, 1, 1, 1]),
            *([helper.make_node("Relu", ["a"], ["b"], "relu")] if relu else []),
            helper.make_node("Conv", ["b" if relu else "a", "w1"], ["c"], "second", pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", ["c"], ["d"], "squash"),
            helper.make_node("Conv", ["d", "w2"], ["y"], "third", pads=[1, 1, 1, 1]),
        ]
        ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 9, 7])] for n in "xy"]
        graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(made)])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return str(path)

    right = model(tmp_path / "a.onnx", True, 1.0)
    once = aligndbg.diff(right, model(tmp_path / "b.onnx", False, 1.0), seed=0)
    assert places(once) == [("b", "a")]
    twice = aligndbg.diff(right, model(tmp_path / "c.onnx", False, 1.01), seed=0, max_faults=5)
    assert places(twice) == [("c", "c")]
    assert twice.faults[0].region_reference.nodes == ("relu", "second")
    assert twice.faults[0].region_candidate.nodes == ("second",)


def test_an_activation_too_many_before_one_of_its_kind_is_one_fault(x: Array) -> None:
    """Before a split: the branch that is squashed later has the values of the other side's squashed branch already."""

    def model(extra: bool, tag: str) -> MemoryBackend:
        def node(op: str, fn: Callable[..., Any], inputs: str, outputs: str) -> MemoryNode:
            names = [n if n == "x" else tag + n for n in inputs.split()]
            return MemoryNode(op, fn, tuple(names), tuple(tag + n for n in outputs.split()))

        nodes = [
            node("Sin", lambda a: 3 * np.sin(a), "x", "a"),
            node("Tanh", np.tanh, "a", "t"),
            node("Split", lambda a: np.split(a, 2, axis=1), "t" if extra else "a", "s0 s1"),
            node("Tanh", np.tanh, "s0", "u"),
            node("Exp", np.exp, "s1", "v"),
            node("Mul", np.multiply, "u v", "y"),
        ]
        kept = [n for n in nodes if extra or n.outputs != (f"{tag}t",)]
        return MemoryBackend(inputs={"x": x.shape}, nodes=kept, outputs=[f"{tag}y"])

    (fault,) = aligndbg.diff(model(True, ""), model(False, "c_"), {"x": x}).faults
    assert fault.reference == "t"
