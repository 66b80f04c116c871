"""Isolated errors and faults over networks of a few numpy operators, one of them wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.core.clock import Clock
from aligndbg.core.errors import ModelError, UnsupportedError
from aligndbg.core.types import Array, Layout, LayoutKind, Matching, Pair, RunAgain, Status
from aligndbg.locate.isolate import isolate
from aligndbg.locate.replay import Begin, Replay
from aligndbg.measure.judge import Judge
from aligndbg.measure.tolerance import ToleranceRules

OPS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("Tanh", np.tanh),
    ("Exp", np.exp),
    ("Sin", np.sin),
    ("Sqrt", lambda a: np.sqrt(np.abs(a))),
    ("Sigmoid", lambda a: 1 / (1 + np.exp(-a))),
)


class Stubborn(MemoryBackend):
    """Refuses to have the tensors of `refused` overridden; with `broken`, any tensor."""

    refused: tuple[str, ...] = ()
    broken = False

    def run(
        self, feeds: Mapping[str, Array], fetch: Sequence[str], overrides: Mapping[str, Array] | None = None
    ) -> Iterator[tuple[str, Array]]:
        for name in overrides or {}:
            if self.broken:
                raise ModelError("the runtime does not start on a cut model")
            if name in self.refused:
                raise UnsupportedError("of a type that cannot be fed", context=name)
        return super().run(feeds, fetch, overrides)


def chain(wrong: Sequence[int] = (), prefix: str = "", refused: Sequence[int] = (), broken: bool = False) -> Stubborn:
    """x through OPS in a row, each `wrong` one scaled by 1.1."""

    def scaled(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda a: 1.1 * fn(a)

    def name(k: int) -> str:
        return f"{prefix}t{k}"

    nodes = [
        MemoryNode(op, scaled(fn) if k in wrong else fn, (name(k - 1) if k else "x",), (name(k),))
        for k, (op, fn) in enumerate(OPS)
    ]
    made = Stubborn(inputs={"x": (4, 50)}, nodes=nodes, outputs=[name(len(OPS) - 1)], name=f"{prefix}chain")
    made.refused, made.broken = tuple(map(name, refused)), broken
    return made


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)


def places(diff: Any) -> list[tuple[str | None, str | None]]:
    return [(f.reference, f.candidate) for f in diff.faults]


@pytest.mark.parametrize("wrong", [(0,), (2,), (4,), (1, 3), (0, 2, 4)], ids=str)
def test_each_wrong_operator_is_a_fault_and_nothing_else(x: Array, wrong: tuple[int, ...]) -> None:
    diff = aligndbg.diff(chain(), chain(wrong, "c_"), {"x": x})
    assert places(diff) == [(f"t{k}", f"c_t{k}") for k in wrong]
    assert all(f.isolated_error == pytest.approx(0.1, rel=1e-3) for f in diff.faults)


def test_an_override_that_is_refused_leaves_the_rest_judged(x: Array) -> None:
    diff = aligndbg.diff(chain(), chain([3], "c_", refused=[1]), {"x": x})
    assert places(diff) == [("t3", "c_t3")]
    (fault,) = diff.faults
    assert fault.region_candidate.nodes == ("Sqrt_3",)


def test_nothing_is_blamed_for_a_wrong_tensor_that_could_not_be_overridden(x: Array) -> None:
    diff = aligndbg.diff(chain(), chain([1], "c_", refused=[1, 2]), {"x": x})
    assert places(diff) == [("t1", "c_t1")]
    below = {m.pair.reference: m for m in diff.pairs}
    for name in ("t2", "t3"):
        assert below[name].isolated is None
        assert below[name].status is Status.UNKNOWN
        assert "cannot be overridden: of a type that cannot be fed" in below[name].reason
    assert below["t4"].isolated is not None, "t3 could be overridden, so what follows is judged"


def test_where_one_side_cannot_be_cut_the_other_is(x: Array) -> None:
    diff = aligndbg.diff(chain(), chain([2], "c_", broken=True), {"x": x})
    assert places(diff) == [("t2", "c_t2")]


def test_where_neither_side_can_be_cut_nothing_is_isolated(x: Array) -> None:
    diff = aligndbg.diff(chain(broken=True), chain([2], "c_", broken=True), {"x": x})
    assert diff.verdict == "diverged"
    assert diff.faults == ()
    assert all(m.isolated is None for m in diff.pairs)
    assert any("the runtime does not start on a cut model" in m.reason for m in diff.pairs)


def test_a_layout_that_is_settled_by_isolation_is_overridden_from_then_on(x: Array) -> None:
    """Guessed at first, a pair is no border; its own error, and those below, are only right once it is."""
    left, right = chain(), chain((1,))
    traces = [aligndbg.capture(model, {"x": x}) for model in (left, right)]
    overridden: list[set[str]] = []

    def pairs(kind: LayoutKind) -> Matching:
        layout = Layout(LayoutKind.IDENTITY, (4, 50), (0, 1), (4, 50), (4, 50))
        made = [Pair(f"t{k}", f"t{k}", layout, "value", 1.0) for k in range(len(OPS))]
        made[2] = replace(made[2], layout=replace(layout, kind=kind))
        return Matching(tuple(made))

    def rerun(overrides: Mapping[str, Array], begin: Begin, *, on_disk: bool = False) -> Replay:
        overridden.append(set(overrides))
        trace = replace(traces[1], values={})
        arrived = begin(trace, {})
        for name, value in right.run({"x": x}, [f"t{k}" for k in range(len(OPS))], overrides):
            cast(dict[str, Array], trace.values)[name] = value
            arrived(name)
        return Replay(trace, {})

    judge = Judge(traces[0], traces[1], ToleranceRules())
    found = isolate(
        *traces,
        pairs(LayoutKind.AMBIGUOUS),
        judge,
        rerun,
        lambda *_: pairs(LayoutKind.IDENTITY),
        Clock(None).comparing,
        run_again=RunAgain.CANDIDATE,
    )
    assert "t2" not in overridden[0]
    assert "t2" in overridden[-1]
    assert found.over_tolerance == {"t1"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_quantized_reference_is_judged_as_fairly_as_a_quantized_candidate(fixtures: Path, seed: int) -> None:
    files = fixtures / "cnn_int8.tflite", fixtures / "cnn.onnx"
    found = aligndbg.diff(*files, seed=seed, checks=False)
    assert found.verdict == "aligned"
    assert found.faults == ()
    assert max(m.isolated.lsb_max or 0 for m in found.pairs if m.isolated) <= 1.5


def test_a_fault_against_a_quantized_reference(fixtures: Path, tmp_path: Path) -> None:
    model = onnx.load(fixtures / "cnn.onnx")
    node = next(n for n in model.graph.node if n.name == "/mix/Conv")
    weight = next(i for i in model.graph.initializer if i.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.3), weight.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    found = aligndbg.diff(fixtures / "cnn_int8.tflite", tmp_path / "wrong.onnx", checks=False)
    (fault,) = found.faults
    assert "/mix/Conv" in fault.region_candidate.nodes


def test_a_candidate_fed_another_size_is_not_isolated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "free.onnx")
    small, large = (rng.random((1, 3, size, size), np.float32) for size in (8, 10))
    found = aligndbg.diff(tmp_path / "free.onnx", tmp_path / "free.onnx", small, candidate_inputs=large)
    assert found.verdict == "inconclusive"
    assert [c.kind for c in found.causes] == ["shape"]


def head(path: Path, order: Sequence[int], last: Sequence[int] = (0, 1, 2, 3), early: bool = False) -> str:
    """A square feature map through a convolution, read as (anchor, y, x, value), squashed and flattened.

    With `early` it is squashed first and moved then, which is the same.
    """
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 3, 3, 3), dtype=np.float32)
    steps: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
        ("Reshape", "split", ("apart",), {}),
        ("Transpose", "turn", (), {"perm": list(order)}),
        ("Sigmoid", "squash", (), {}),
        ("Transpose", "back", (), {"perm": list(last)}),
        ("Reshape", "flatten", ("flat",), {}),
    ]
    if early:
        steps.insert(0, steps.pop(2))
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1])]
    for op, name, shape, more in steps:
        output = "y" if name == "flatten" else f"{name}ed"
        nodes.append(helper.make_node(op, [nodes[-1].output[0], *shape], [output], name=name, **more))
    shapes = {"apart": [2, 3, 5, 5], "flat": [1, 50, 3]}
    constants = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in shapes.items()]
    constants.append(numpy_helper.from_array(weight, "w"))
    ends = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in (("x", [1, 3, 5, 5]), ("y", [1, 50, 3]))
    ]
    graph = helper.make_graph(nodes, "g", *ends, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def test_axes_of_one_size_exchanged_before_a_flattened_output(tmp_path: Path) -> None:
    """What is squashed agrees under another order of axes, which only the reshape after it refutes."""
    right, wrong = head(tmp_path / "a.onnx", (0, 2, 3, 1)), head(tmp_path / "b.onnx", (0, 3, 2, 1), early=True)
    diff = aligndbg.diff(right, wrong, seed=0)
    assert diff.verdict == "diverged"
    (fault,) = diff.faults
    assert (fault.reference, fault.candidate) == ("y", "y")
    assert "turn" in fault.region_reference.nodes
    assert "turn" in fault.region_candidate.nodes
    assert "conv" not in fault.region_reference.nodes


def test_an_output_that_holds_the_other_ones_values_in_another_order_is_no_equal(tmp_path: Path) -> None:
    """Its own counterpart, one move before it, is not what its user reads."""
    right = head(tmp_path / "a.onnx", (0, 2, 3, 1))
    wrong = head(tmp_path / "b.onnx", (0, 2, 3, 1), last=(0, 2, 1, 3))
    diff = aligndbg.diff(right, wrong, seed=0)
    assert diff.verdict == "diverged"
    (fault,) = diff.faults
    assert (fault.reference, fault.candidate) == ("backed", "backed")
    assert "back" in fault.region_candidate.nodes


def test_what_one_side_computes_twice_and_the_other_once(x: Array) -> None:
    """The wrong one of two like operators has no counterpart of its own, but its place in the graph is known."""

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
    assert (fault.reference, fault.candidate) == ("cube", "c_cube")
    assert len(fault.region_reference.nodes) == 2


def test_a_fault_right_after_a_missing_activation_is_found_too(tmp_path: Path) -> None:
    """The operator that reads it computes from other values: its own fault shows once those are overridden."""
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
    assert places(twice) == [("b", "a"), ("c", "c")]
    assert twice.faults[1].region_reference.nodes == ("second",)
    assert twice.faults[1].isolated_error == pytest.approx(0.01, rel=0.01)


@pytest.fixture(scope="module")
def qdq(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture network as ONNX Runtime quantizes it: float operators between QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Two(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.left = [{"input": rng.random((1, 3, 32, 40), np.float32)} for _ in range(2)]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    path = tmp_path_factory.mktemp("qdq") / "cnn_qdq.onnx"
    quantize_static(fixtures / "cnn.onnx", path, Two(), quant_format=QuantFormat.QDQ, per_channel=True)
    return path


def test_an_explicitly_quantized_model_is_judged_on_what_its_operators_read(fixtures: Path, qdq: Path) -> None:
    for files in ((fixtures / "cnn.onnx", qdq), (qdq, fixtures / "cnn.onnx")):
        found = aligndbg.diff(*files, seed=0, checks=False)
        assert found.verdict == "aligned"
        assert found.faults == ()
    found = aligndbg.diff(fixtures / "cnn.onnx", qdq, seed=0, checks=False)
    own = [m.isolated.rel_l2 for m in found.pairs if m.isolated and m.isolated.lsb_max is None]
    assert len(own) > 12
    assert max(own) < 2e-4


def test_a_fault_of_two_percent_in_an_explicitly_quantized_model(fixtures: Path, qdq: Path, tmp_path: Path) -> None:
    model = onnx.load(qdq)
    scale = next(i for i in model.graph.initializer if i.name == "mix.weight_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.02), scale.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    (fault,) = aligndbg.diff(fixtures / "cnn.onnx", tmp_path / "wrong.onnx", seed=0, checks=False).faults
    assert "/mix/Conv" in fault.region_candidate.nodes


def test_a_scale_that_differs_between_quantizing_and_back_is_a_fault(fixtures: Path, qdq: Path, tmp_path: Path) -> None:
    model = onnx.load(qdq)
    back = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.output[0].startswith("/squeeze"))
    wrong = numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == back.input[1])) * np.float32(1.3)
    model.graph.initializer.append(numpy_helper.from_array(wrong, "wrong"))
    back.input[1] = "wrong"
    onnx.save(model, tmp_path / "wrong.onnx")
    (fault,) = aligndbg.diff(fixtures / "cnn.onnx", tmp_path / "wrong.onnx", seed=0, checks=False).faults
    assert back.name in fault.region_candidate.nodes


@pytest.mark.parametrize(("scale", "cut"), [(0.02, False), (0.004, True)])
def test_values_that_a_range_cuts_off_are_a_finding_and_no_fault(tmp_path: Path, scale: float, cut: bool) -> None:
    rng = np.random.default_rng(0)
    weights = [(0.3 * rng.standard_normal(s)).astype(np.float32) for s in ((8, 3, 3, 3), (4, 8, 3, 3))]
    constants = [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights)]
    grid = [numpy_helper.from_array(np.float32(scale), "s"), numpy_helper.from_array(np.int8(-128), "z")]

    def model(path: Path, quantized: bool) -> str:
        nodes = [helper.make_node("Conv", ["x", "w0"], ["c"], "first"), helper.make_node("Relu", ["c"], ["r"], "relu")]
        if quantized:
            nodes.append(helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], "down"))
            nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "up"))
        nodes.append(helper.make_node("Conv", ["d" if quantized else "r", "w1"], ["y"], "second"))
        shapes = {"x": [1, 3, 12, 12], "y": [1, 4, 8, 8]}
        ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in shapes.items()]
        graph = helper.make_graph(nodes, "g", *ends, constants + (grid if quantized else []))
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return str(path)

    found = aligndbg.diff(model(tmp_path / "a.onnx", False), model(tmp_path / "b.onnx", True), seed=0)
    assert found.faults == ()
    assert [(c["reference"], c["candidate"]) for c in found.checks["clipped"]] == [("r", "q")] * cut
    assert any("cut off values" in w for w in found.warnings) == cut


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


def test_a_result_holds_the_values_of_its_own_run_whichever_round_is_chosen(x: Array) -> None:
    """Pairing goes in circles here; the round that is chosen is not the one that was run last."""
    left, right = chain(), chain((1,))
    traces = [aligndbg.capture(model, {"x": x}) for model in (left, right)]
    layout = Layout(LayoutKind.IDENTITY, (4, 50), (0, 1), (4, 50), (4, 50))
    every = [Pair(f"t{k}", f"t{k}", layout, "value", 1.0) for k in range(len(OPS))]
    circle = [Matching(tuple(every)), Matching(tuple(every[2:]))]
    turns = iter([circle[1], circle[0]])
    closed: list[Replay] = []
    made: list[tuple[set[str], Replay]] = []

    def rerun(overrides: Mapping[str, Array], begin: Begin, *, on_disk: bool = False) -> Replay:
        values: dict[str, Array] = {}
        arrived = begin(replace(traces[1], values=values), {})
        for name, value in right.run({"x": x}, [f"t{k}" for k in range(len(OPS))], overrides):
            values[name] = value
            arrived(name)
        replay = Replay(replace(traces[1], values=values), {}, close=lambda: closed.append(replay))
        made.append((set(overrides), replay))
        return replay

    found = isolate(
        *traces,
        circle[0],
        Judge(traces[0], traces[1], ToleranceRules()),
        rerun,
        lambda *_: next(turns),
        Clock(None).comparing,
        run_again=RunAgain.CANDIDATE,
    )
    overridden = {p.candidate for p in found.matching.pairs} - {f"t{len(OPS) - 1}"}
    own = next(replay for names, replay in reversed(made) if names == overridden)
    assert found.replay is own
    assert found.replay not in closed
    assert found.runs == len(made)
