"""What is not compared is said: bodies of control flow, outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg.backends.onnx.backend import OnnxBackend
from aligndbg.core.types import Trace, Verdict
from aligndbg.trace.writer import write_trace

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(3)
WEIGHTS = {f"w{k}": (RNG.standard_normal((8, 8)) * 0.4).astype(np.float32) for k in range(4)}
X = {"x": RNG.standard_normal((1, 8)).astype(np.float32)}


def value(name: str, dtype: int = FLOAT, shape: Any = (1, 8)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def save(path: Path, nodes: Any, outputs: str = "y", weights: Any = WEIGHTS) -> Path:
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [value("x")], [value(o, shape=None) for o in outputs.split()], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def layers(prefix: str, last: str, wrong: bool = False) -> list[onnx.NodeProto]:
    """Four MatMul, each with its ReLU; of the `wrong` ones the second is leaky."""
    nodes, x = [], "x"
    for k, weight in enumerate(WEIGHTS):
        y = last if k == len(WEIGHTS) - 1 else f"{prefix}r{k}"
        relu = "LeakyRelu" if wrong and k == 1 else "Relu"
        nodes += [
            helper.make_node("MatMul", [x, weight], [f"{prefix}m{k}"]),
            helper.make_node(relu, [f"{prefix}m{k}"], [y]),
        ]
        x = y
    return nodes


def in_an_if(path: Path, wrong: bool) -> Path:
    """The whole network is the then branch of an If, and once more the else branch."""
    bodies = [helper.make_graph(layers(p, f"{p}y", wrong), p, [], [value(f"{p}y", shape=None)]) for p in ("t_", "e_")]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Constant", [], ["limit"], value_float=-1e9),
        helper.make_node("Greater", ["sum", "limit"], ["c"]),
        helper.make_node("If", ["c"], ["y"], name="pick", then_branch=bodies[0], else_branch=bodies[1]),
    ]
    return save(path, nodes)


def in_a_loop(path: Path) -> Path:
    """The whole network in a Loop of one turn."""
    go_on = helper.make_node("Identity", ["go"], ["on"])
    nodes = [*layers("l_", "l_y"), go_on]
    for node in nodes:
        node.input[:] = ["state" if name == "x" else name for name in node.input]
    inputs = [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("state")]
    body = helper.make_graph(nodes, "body", inputs, [value("on", TensorProto.BOOL, []), value("l_y", shape=None)])
    loop = helper.make_node("Loop", ["n", "", "x"], ["y"], name="walk", body=body)
    return save(path, [loop], weights=WEIGHTS | {"n": np.int64(1)})


def test_the_branch_that_an_input_takes_is_compared_layer_by_layer(tmp_path: Path) -> None:
    flat = save(tmp_path / "flat.onnx", layers("", "y"))
    same = aligndbg.diff(flat, in_an_if(tmp_path / "same.onnx", wrong=False), X)
    assert same.verdict is Verdict.ALIGNED
    assert len(same.pairs) == 8
    assert "of each If only the branch that this input takes is compared: the then branch of 'pick'" in same.warnings
    wrong = aligndbg.diff(flat, in_an_if(tmp_path / "wrong.onnx", wrong=True), X)
    assert [(f.reference, f.candidate) for f in wrong.faults] == [("r1", "t_r1")]


def test_what_a_loop_holds_is_said_not_to_be_compared(tmp_path: Path) -> None:
    loop = in_a_loop(tmp_path / "loop.onnx")
    found = aligndbg.diff(loop, loop, X)
    assert found.verdict is Verdict.ALIGNED
    for side in ("reference", "candidate"):
        words = f"the {side}'s tensors inside Loop 'walk' (8) are not compared: only what comes out of them is"
        assert words in found.warnings
    skipped = {s.name: s.reason for s in found.matching.skipped_reference}
    assert skipped["l_m0"] == "inside the body of Loop 'walk'"
    assert skipped["on"] == "bool values inside a body"


def test_an_if_that_is_not_entered_lowers_the_coverage(tmp_path: Path) -> None:
    """A recording of the results alone still knows what lay in both branches."""
    path = in_an_if(tmp_path / "if.onnx", wrong=False)
    backend = OnnxBackend(str(path), {})
    values = dict(backend.run(X, ["sum", "c", "y"]))
    graph = OnnxBackend(str(path), {}).graph()
    kept = Trace(backend.info, graph, X | values, X, ("x", "sum", "c", "y"), graph.untapped)
    write_trace(tmp_path / "if.npz", kept)
    found = aligndbg.diff(tmp_path / "if.npz", path)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert (found.coverage["reference"].compared, found.coverage["reference"].unmatched) == (1, 16)
    assert (
        "the reference's tensors inside If 'pick' (16) are not compared: only what comes out of them is"
        in found.warnings
    )


def test_a_recording_knows_what_lay_in_a_body(tmp_path: Path) -> None:
    loop = in_a_loop(tmp_path / "loop.onnx")
    aligndbg.capture(loop, X, output=tmp_path / "loop.npz")
    found = aligndbg.diff(tmp_path / "loop.npz", loop)
    names = [
        {s.name for s in skipped} for skipped in (found.matching.skipped_reference, found.matching.skipped_candidate)
    ]
    assert names[0] == names[1]
    assert "l_m0" in names[0]
