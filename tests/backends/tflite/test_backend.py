from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as S
from ai_edge_litert.interpreter import Interpreter

from aligndbg.backends.tflite.backend import TfliteBackend
from aligndbg.backends.tflite.ops import module_path
from aligndbg.core.errors import FeedError, ModelError, UnsupportedError, UsageError
from aligndbg.core.types import Backend
from tflite_builder import Builder, quantization

X = np.array([[-1.5, 0.25, 2.0, 9.0]], np.float32)
KERNELS = ("xnn", "opt", "ref")
_numbers = itertools.count()


def opened(builder: Builder, folder: Path, **options: str) -> TfliteBackend:
    return TfliteBackend(builder.save(folder / f"m{next(_numbers)}.tflite"), options)


def add(activation: int = S.ActivationFunctionType.NONE) -> Any:
    options = S.AddOptionsT()
    options.fusedActivationFunction = activation
    return options


def chain(*ops: str, shape: tuple[int, ...] = (1, 4), signature: tuple[int, ...] | None = None) -> Builder:
    """x -> ops[0] -> t0 -> ops[1] -> t1 ..."""
    builder = Builder()
    graph = builder.subgraph()
    last = first = graph.tensor("x", shape, signature=signature)
    for i, op in enumerate(ops):
        new = graph.tensor(f"t{i}", shape, signature=signature)
        graph.op(op, [last], [new])
        last = new
    graph.io([first], [last])
    return builder


def convolution(folder: Path, **options: str) -> TfliteBackend:
    """int8 CONV_2D with weights quantized per channel, stride 2, SAME, RELU6."""
    builder = Builder()
    graph = builder.subgraph()
    x = graph.tensor("x", (1, 5, 5, 2), "int8", quant=quantization(0.1, 3))
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (3, 3, 3, 2)).astype(np.int8)
    w = graph.constant("w", weights, quant=quantization([0.01, 0.02, 0.03], [0, 0, 0], axis=0))
    b = graph.constant("b", np.arange(3, dtype=np.int32), quant=quantization([1e-3, 2e-3, 3e-3], [0, 0, 0]))
    y = graph.tensor("y", (1, 3, 3, 3), "int8", quant=quantization(0.05, -128))
    conv = S.Conv2DOptionsT()
    conv.padding, conv.strideW, conv.strideH = S.Padding.SAME, 2, 2
    conv.fusedActivationFunction = S.ActivationFunctionType.RELU6
    graph.op("CONV_2D", [x, w, b], [y], conv, version=3)
    z = graph.tensor("z", (1, 3, 3, 3))
    graph.op("DEQUANTIZE", [y], [z], S.DequantizeOptionsT(), version=2)
    graph.io([x], [z])
    return opened(builder, folder, **options)


# --- graph


def test_implements_the_backend_protocol(tmp_path: Path) -> None:
    backend = opened(chain("TANH"), tmp_path, kernels="ref", threads="2")
    assert isinstance(backend, Backend)
    assert backend.capabilities == {"graph", "run", "override"}
    assert backend.info.version.startswith("ai-edge-litert ")
    assert backend.info.options == {"kernels": "ref", "threads": "2"}


def test_nodes_carry_both_words_attributes_and_the_fused_activation(tmp_path: Path) -> None:
    graph = convolution(tmp_path).graph()
    conv, dequantize = graph.nodes
    assert (conv.op_type, conv.canonical, conv.name, conv.tail) == ("CONV_2D", "Conv", "CONV_2D:0", "Clip")
    assert conv.attributes["padding"] == "SAME"
    assert (conv.attributes["stride_h"], conv.attributes["dilation_h_factor"]) == (2, 1)
    assert (conv.attributes["fused_min"], conv.attributes["fused_max"]) == (0.0, 6.0)
    assert dequantize.canonical == "DequantizeLinear"
    assert "fused_activation" not in dequantize.attributes
    assert (graph.inputs, graph.outputs, graph.constants) == (("x",), ("z",), {"w", "b"})


def test_quantization_is_read_per_tensor_and_per_axis(tmp_path: Path) -> None:
    tensors = convolution(tmp_path).graph().tensors
    x, w = tensors["x"].quant, tensors["w"].quant
    assert x is not None
    assert w is not None
    assert (x.axis, x.scale.tolist(), x.zero_point.tolist()) == (None, [np.float32(0.1)], [3])
    assert w.axis == 0
    np.testing.assert_array_equal(w.scale, np.array([0.01, 0.02, 0.03], np.float32))
    assert tensors["z"].quant is None


def test_keys_are_unique_and_printable(tmp_path: Path) -> None:
    builder = Builder()
    graph = builder.subgraph()
    tensors = [graph.tensor(name, (1, 4)) for name in ("x", "same", "same", b"\xff\xfe", "", "same#1")]
    for a, b in itertools.pairwise(tensors):
        graph.op("TANH", [a], [b])
    graph.io(tensors[:1], tensors[-1:])
    backend = opened(builder, tmp_path)
    keys = list(backend.graph().tensors)
    assert len(set(keys)) == len(keys) == 6
    assert {"x", "same#2", "\\xff\\xfe", "#4"} <= set(keys)
    values = dict(backend.run({"x": X}, backend.graph().tappable()))
    wanted = X
    for key in keys[1:]:
        wanted = np.tanh(wanted)
        np.testing.assert_allclose(values[key], wanted, rtol=1e-5)


def test_optional_inputs_are_empty_names(tmp_path: Path) -> None:
    builder = Builder()
    graph = builder.subgraph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 2))
    w = graph.constant("w", np.ones((2, 4), np.float32))
    graph.op("FULLY_CONNECTED", [x, w, -1], [y], S.FullyConnectedOptionsT())
    graph.io([x], [y])
    backend = opened(builder, tmp_path)
    assert backend.graph().nodes[0].inputs == ("x", "w", "")
    (own,) = (value for _, value in backend.run({"x": X}, ["y"], {"x": X + 1}))
    np.testing.assert_allclose(own, [[13.75, 13.75]])


# --- values


@pytest.mark.parametrize("kernels", KERNELS)
def test_no_value_is_overwritten_by_a_later_one(tmp_path: Path, kernels: str) -> None:
    ops = ("TANH", "NEG", "EXP", "LOGISTIC", "SQRT", "SIN", "COS", "ABS") * 3
    functions = {
        "TANH": np.tanh,
        "NEG": np.negative,
        "EXP": np.exp,
        "LOGISTIC": lambda v: 1 / (1 + np.exp(-v)),
        "SQRT": np.sqrt,
        "SIN": np.sin,
        "COS": np.cos,
        "ABS": np.abs,
    }
    backend = opened(chain(*ops, shape=(3, 50)), tmp_path, kernels=kernels)
    value = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    got = backend.run({"x": value}, backend.graph().tappable())
    for (name, array), (i, op) in zip(got, enumerate(ops), strict=True):
        value = functions[op](value)
        assert name == f"t{i}"
        np.testing.assert_allclose(array, value, rtol=1e-4, atol=1e-5)


def test_taps_agree_with_the_untouched_model_and_a_second_run(tmp_path: Path) -> None:
    backend = convolution(tmp_path)
    x = np.random.default_rng(1).integers(-128, 128, (1, 5, 5, 2)).astype(np.int8)
    plain = dict(backend.run({"x": x}, ["z"]))
    first = dict(backend.run({"x": x}, ["z", "y", "w", "x"]))
    kept = first["y"].copy()
    second = dict(backend.run({"x": x}, ["y", "z"]))
    assert list(first) == ["x", "w", "y", "z"]
    np.testing.assert_array_equal(plain["z"], first["z"])
    np.testing.assert_array_equal(first["y"], second["y"])
    dict(backend.run({"x": x[:, ::-1]}, ["y", "z"]))
    np.testing.assert_array_equal(first["y"], kept)
    quant = backend.graph().tensors["y"].quant
    assert quant is not None
    np.testing.assert_array_equal(quant.dequantize(first["y"]), first["z"])


def test_runs_may_be_read_in_turns(tmp_path: Path) -> None:
    backend = opened(chain("TANH", "NEG"), tmp_path)
    one, two = (backend.run({"x": v}, ["t0", "t1"]) for v in (X, X + 1))
    for (name, a), (_, b) in zip(one, two, strict=True):
        sign = -1 if name == "t1" else 1
        np.testing.assert_allclose(a, sign * np.tanh(X), rtol=1e-5)
        np.testing.assert_allclose(b, sign * np.tanh(X + 1), rtol=1e-5)


def test_outputs_alone_run_the_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_models: list[Any] = []
    backend = opened(chain("TANH", "NEG"), tmp_path)
    original = type(backend._runtime).interpreter

    def spy(self: Any, model: Any) -> Any:
        opened_models.append(model)
        return original(self, model)

    backend.graph()
    monkeypatch.setattr(type(backend._runtime), "interpreter", spy)
    dict(backend.run({"x": X}, ["t1"]))
    assert opened_models == [backend.info.path]
    for _ in range(2):
        dict(backend.run({"x": X}, ["t0", "t1"]))
    assert [type(model) for model in opened_models] == [str, bytes]


# --- constants


@pytest.mark.parametrize("kernels", KERNELS)
def test_dequantized_weights_are_folded_and_right(tmp_path: Path, kernels: str) -> None:
    builder = Builder()
    graph = builder.subgraph()
    x = graph.tensor("x", (1, 4))
    half = graph.constant("half", (X * 1.1).astype(np.float16))
    q = graph.constant("q", np.array([[-7, 0, 5, 90]], np.int8), quant=quantization(0.3, 2))
    half32, q32, both, y = (graph.tensor(name, (1, 4)) for name in ("half32", "q32", "both", "y"))
    graph.op("DEQUANTIZE", [half], [half32])
    graph.op("DEQUANTIZE", [q], [q32], version=2)
    graph.op("ADD", [half32, q32], [both], add())
    graph.op("ADD", [x, both], [y], add())
    graph.io([x], [y])
    backend = opened(builder, tmp_path, kernels=kernels)
    assert backend.graph().constants == {"half", "q", "half32", "q32", "both"}
    assert backend.graph().tappable() == ("both", "y")
    values = dict(backend.run({}, ["half", "half32", "q32", "both", "q"]))
    wanted = (X * 1.1).astype(np.float16)
    wanted_q = (np.array([[-7, 0, 5, 90]]) - 2) * np.float32(0.3)
    np.testing.assert_array_equal(values["half"], wanted)
    np.testing.assert_array_equal(values["half32"], wanted.astype(np.float32))
    np.testing.assert_array_equal(values["q32"], wanted_q.astype(np.float32))
    np.testing.assert_allclose(values["both"], values["half32"] + values["q32"], rtol=1e-6)
    # The numpy stand-in and the kernels agree to the bit.
    kernel = backend._derived([3, 4])
    np.testing.assert_array_equal([kernel[3], kernel[4]], [values["half32"], values["q32"]])
    y_own, y_cut = (dict(backend.run({"x": X}, ["y"], o))["y"] for o in ({}, {"half32": np.zeros_like(X)}))
    np.testing.assert_allclose(y_own, X + values["both"], rtol=1e-6)
    np.testing.assert_allclose(y_cut, X + values["q32"], rtol=1e-6)


def test_packed_int4_weights_are_unpacked(tmp_path: Path) -> None:
    builder = Builder()
    graph = builder.subgraph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    w = graph.tensor("w", (1, 3), "int4", quant=quantization(0.5, 0), data=bytes([0x8F, 0x07]))
    graph.op("TANH", [x], [y])
    graph.io([x], [y])
    backend = opened(builder, tmp_path)
    ((_, value),) = backend.run({}, ["w"])
    assert backend.graph().tensors["w"].dtype == value.dtype.name == "int4"
    assert value.astype(int).tolist() == [[-1, -8, 7]]
    assert w == 2


def test_zero_element_tensors(tmp_path: Path) -> None:
    builder = Builder()
    graph = builder.subgraph()
    x, none = graph.tensor("x", (1, 4)), graph.tensor("none", (0, 4))
    joined, empty = graph.tensor("joined", (1, 4)), graph.tensor("empty", (0, 4))
    graph.op("CONCATENATION", [x, none], [joined], S.ConcatenationOptionsT())
    begin = graph.constant("begin", np.array([1, 0], np.int32))
    size = graph.constant("size", np.array([0, 4], np.int32))
    graph.op("SLICE", [x, begin, size], [empty], S.SliceOptionsT())
    graph.io([x], [joined, empty])
    backend = opened(builder, tmp_path)
    assert "none" in backend.graph().constants
    values = dict(backend.run({"x": X}, ["none", "joined", "empty"]))
    assert values["none"].shape == values["empty"].shape == (0, 4)
    np.testing.assert_array_equal(values["joined"], X)
    dict(backend.run({"x": X}, ["joined"], {"empty": values["empty"]}))


def test_a_stored_input_is_not_fed(tmp_path: Path) -> None:
    builder = chain("TANH")
    builder.model.subgraphs[0].tensors.append(S.TensorT())
    extra = builder.model.subgraphs[0].tensors[-1]
    extra.name, extra.shape, extra.hasRank, extra.buffer = "fixed", [1, 4], True, builder.buffer(X.tobytes())
    builder.model.subgraphs[0].inputs = [0, 2]
    backend = opened(builder, tmp_path)
    assert backend.graph().inputs == ("x",)
    np.testing.assert_array_equal(dict(backend.run({"x": X}, ["t0", "fixed"]))["fixed"], X)


def test_random_operators_draw_the_same_numbers_in_every_run(tmp_path: Path) -> None:
    builder = Builder()
    graph = builder.subgraph()
    x, drawn, y = graph.tensor("x", (1, 4)), graph.tensor("drawn", (1, 4)), graph.tensor("y", (1, 4))
    shape = graph.constant("shape", np.array([1, 4], np.int32))
    options = S.RandomOptionsT()
    options.seed, options.seed2 = 3, 4
    graph.op("RANDOM_UNIFORM", [shape], [drawn], options)
    graph.op("ADD", [x, drawn], [y], add())
    graph.io([x], [y])
    backend = opened(builder, tmp_path)
    assert backend.graph().tappable() == ("drawn", "y")
    first, second = (dict(backend.run({"x": X}, ["drawn", "y"])) for _ in range(2))
    np.testing.assert_array_equal(first["drawn"], second["drawn"])
    np.testing.assert_array_equal(first["y"], X + first["drawn"])


# --- overrides


@pytest.mark.parametrize("kernels", KERNELS)
def test_consumers_read_the_override_and_its_own_value_is_still_yielded(tmp_path: Path, kernels: str) -> None:
    builder = chain("TANH", "NEG", "EXP")
    builder.model.subgraphs[0].outputs = [3, 1]
    backend = opened(builder, tmp_path, kernels=kernels)
    other = X * 0.5
    got = dict(backend.run({"x": X}, ["x", "t0", "t1", "t2"], {"t0": other}))
    np.testing.assert_array_equal(got["x"], X)
    np.testing.assert_allclose(got["t0"], np.tanh(X), rtol=1e-5)
    np.testing.assert_array_equal(got["t1"], -other)
    again = dict(backend.run({"x": X}, ["x", "t0", "t1", "t2"], {"t0": other * 2}))
    np.testing.assert_array_equal(again["t1"], -other * 2)
    from_input = dict(backend.run({"x": X}, ["x", "t0"], {"x": other}))
    np.testing.assert_array_equal(from_input["x"], X)
    np.testing.assert_allclose(from_input["t0"], np.tanh(other), rtol=1e-5)


@pytest.mark.parametrize("kernels", KERNELS)
def test_overriding_everything_with_its_own_value_changes_nothing(tmp_path: Path, kernels: str) -> None:
    backend = convolution(tmp_path, kernels=kernels)
    x = np.random.default_rng(1).integers(-128, 128, (1, 5, 5, 2)).astype(np.int8)
    own = dict(backend.run({"x": x}, ["x", "w", "b", "y", "z"]))
    cut = dict(backend.run({"x": x}, list(own), own))
    for name, value in own.items():
        np.testing.assert_array_equal(cut[name], value)


def test_overridden_weights_stay_constant_for_the_kernels(tmp_path: Path) -> None:
    backend = convolution(tmp_path)
    x = np.full((1, 5, 5, 2), 50, np.int8)
    ((_, w),) = backend.run({}, ["w"])
    ((_, y),) = backend.run({"x": x}, ["y"], {"w": np.zeros_like(w), "b": np.zeros(3, np.int32)})
    assert (y == -128).all()
    ((_, y),) = backend.run({"x": x}, ["y"], {"w": np.full_like(w, 127), "b": np.zeros(3, np.int32)})
    assert (y == -128 + 120).all()  # clipped at 6


# --- feeds and shapes


def test_dynamic_dimensions_follow_the_feed(tmp_path: Path) -> None:
    backend = opened(chain("TANH", "NEG", signature=(-1, 4)), tmp_path)
    assert backend.graph().tensors["t0"].shape == (None, 4)
    for n in (3, 1, 3):
        x = np.arange(4 * n, dtype=np.float32).reshape(n, 4) / 10
        got = dict(backend.run({"x": x}, ["t0", "t1"], {"t0": x * 2}))
        np.testing.assert_allclose(got["t0"], np.tanh(x), rtol=1e-5)
        np.testing.assert_array_equal(got["t1"], -2 * x)
        np.testing.assert_allclose(dict(backend.run({"x": x}, ["t1"]))["t1"], -np.tanh(x), rtol=1e-5)
    with pytest.raises(FeedError, match=r"expected float32 \[\?, 4\], got float32 \[2, 5\]"):
        backend.run({"x": np.zeros((2, 5), np.float32)}, ["t1"])


def test_a_tensor_has_the_shape_that_litert_gives_it_not_what_the_file_says(tmp_path: Path) -> None:
    """Edited files keep stale shapes, which nothing in the runtime reads."""
    builder = chain("TANH", "NEG")
    builder.model.subgraphs[0].tensors[1].shape = [2, 2]
    backend = opened(builder, tmp_path)
    own = dict(backend.run({"x": X}, ["t0", "t1"]))
    assert own["t0"].shape == (1, 4)
    got = dict(backend.run({"x": X}, ["t1"], {"t0": own["t0"] * 2}))
    np.testing.assert_array_equal(got["t1"], own["t1"] * 2)
    with pytest.raises(FeedError, match="override of 't0': expected float32"):
        backend.run({"x": X}, ["t1"], {"t0": own["t0"].astype(np.float16)})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"input 'x' is missing: expected float32 \[1, 4\]"),
        ({"x": X, "y": X}, "no input is called 'y'"),
        ({"x": X.astype(np.float64)}, r"expected float32 \[1, 4\], got float64 \[1, 4\]"),
        ({"x": X[0]}, r"got float32 \[4\]"),
        ({"x": np.vstack([X, X])}, r"got float32 \[2, 4\]"),
    ],
)
def test_bad_feeds_are_named(tmp_path: Path, feeds: dict[str, Any], message: str) -> None:
    backend = opened(chain("TANH"), tmp_path)
    with pytest.raises(FeedError, match=message):
        backend.run(feeds, ["t0"])


def test_bad_fetches_and_overrides_are_named(tmp_path: Path) -> None:
    backend = opened(chain("TANH"), tmp_path)
    with pytest.raises(UsageError, match="cannot fetch 'to'"):
        backend.run({"x": X}, ["to"])
    with pytest.raises(FeedError, match="cannot override 'to'"):
        backend.run({"x": X}, ["t0"], {"to": X})
    with pytest.raises(FeedError, match="override of 't0': expected"):
        backend.run({"x": X}, ["t0"], {"t0": X.T})


def test_strided_and_scalar_feeds_arrive_whole(tmp_path: Path) -> None:
    backend = opened(chain("TANH", shape=(3, 4)), tmp_path)
    x = np.arange(12, dtype=np.float32).reshape(4, 3).T
    np.testing.assert_allclose(dict(backend.run({"x": x}, ["t0"]))["t0"], np.tanh(x), rtol=1e-5)
    scalar = opened(chain("TANH", shape=()), tmp_path)
    ((_, value),) = scalar.run({"x": np.array(0.5, np.float32)}, ["t0"])
    assert value.shape == ()


# --- operators without a kernel


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    ("op", "version", "custom", "named"),
    [
        ("Bogus", 1, True, "custom operator 'Bogus'"),
        ("FlexErf", 1, True, "FlexErf"),
        ("SIN", 99, False, "SIN of version 99"),
    ],
)
def test_what_an_unknown_operator_does_not_touch_still_runs(
    tmp_path: Path, kernels: str, op: str, version: int, custom: bool, named: str
) -> None:
    builder = Builder()
    graph = builder.subgraph()
    x, a, b, c, d = (graph.tensor(name, (1, 4)) for name in "xabcd")
    graph.op("TANH", [x], [a])
    graph.op(op, [a], [b], custom=custom, version=version)
    graph.op("NEG", [b], [c])
    graph.op("EXP", [a], [d])
    graph.io([x], [c, d])
    backend = opened(builder, tmp_path, kernels=kernels)
    found = backend.graph()
    assert found.untapped.keys() == {"b", "c"}
    assert named in found.untapped["b"]
    assert named in found.untapped["c"]
    assert found.outputs == ("c", "d")
    got = dict(backend.run({"x": X}, ["a", "d"], {"a": X}))
    np.testing.assert_allclose(got["a"], np.tanh(X), rtol=1e-5)
    np.testing.assert_allclose(got["d"], np.exp(X), rtol=1e-4)
    with pytest.raises(UnsupportedError, match="no kernel"):
        backend.run({"x": X}, ["c"])
    with pytest.raises(UnsupportedError, match="no kernel"):
        backend.run({"x": X}, ["d"], {"b": X})


# --- bodies and state


def branching(folder: Path, kernels: str) -> TfliteBackend:
    """y = NEG(IF(flag, TANH(a), EXP(a))), a = ABS(x)."""
    builder = Builder()
    graph = builder.subgraph()
    flag, x = graph.tensor("flag", (), "bool"), graph.tensor("x", (1, 4))
    a, chosen, y = (graph.tensor(name, (1, 4)) for name in ("a", "chosen", "y"))
    for name, op in (("then", "TANH"), ("else", "EXP")):
        body = builder.subgraph(name)
        inner, result = body.tensor("inner", (1, 4)), body.tensor("result", (1, 4))
        body.op(op, [inner], [result])
        body.io([inner], [result])
    options = S.IfOptionsT()
    options.thenSubgraphIndex, options.elseSubgraphIndex = 1, 2
    graph.op("ABS", [x], [a])
    graph.op("IF", [flag, a], [chosen], options)
    graph.op("NEG", [chosen], [y])
    graph.io([flag, x], [y])
    return opened(builder, folder, kernels=kernels)


@pytest.mark.parametrize("kernels", KERNELS)
def test_branches_show_their_result_only(tmp_path: Path, kernels: str) -> None:
    backend = branching(tmp_path, kernels)
    graph = backend.graph()
    assert graph.untapped.keys() == {"then/result", "else/result"}
    assert graph.tappable() == ("a", "chosen", "y")
    for flag, function in ((True, np.tanh), (False, np.exp)):
        feeds = {"flag": np.array(flag), "x": X}
        got = dict(backend.run(feeds, graph.tappable()))
        np.testing.assert_allclose(got["chosen"], function(np.abs(X)), rtol=1e-4)
        cut = dict(backend.run(feeds, graph.tappable(), {"a": X, "chosen": X * 2}))
        np.testing.assert_allclose(cut["chosen"], function(X), rtol=1e-4)
        np.testing.assert_array_equal(cut["y"], -2 * X)
    with pytest.raises(UnsupportedError, match="inside a body of IF"):
        backend.run(feeds, ["then/result"])


@pytest.mark.parametrize("kernels", KERNELS)
def test_loops_can_be_tapped_and_cut_from_outside(tmp_path: Path, kernels: str) -> None:
    builder = Builder()
    graph = builder.subgraph()
    i, x, a, y = graph.tensor("i", (), "int32"), *(graph.tensor(name, (1, 4)) for name in "xay")
    last = graph.tensor("last", (), "int32")
    out = graph.tensor("out", (1, 4))
    condition = builder.subgraph("condition")
    ci, cx, go = condition.tensor("ci", (), "int32"), condition.tensor("cx", (1, 4)), condition.tensor("go", (), "bool")
    limit = condition.constant("limit", np.array(3, np.int32))
    condition.op("LESS", [ci, limit], [go])
    condition.io([ci, cx], [go])
    body = builder.subgraph("body")
    bi, bx = body.tensor("bi", (), "int32"), body.tensor("bx", (1, 4))
    one, ni, nx = body.constant("one", np.array(1, np.int32)), body.tensor("ni", (), "int32"), body.tensor("nx", (1, 4))
    body.op("ADD", [bi, one], [ni], add())
    body.op("ADD", [bx, bx], [nx], add())
    body.io([bi, bx], [ni, nx])
    options = S.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    graph.op("NEG", [x], [a])
    graph.op("WHILE", [i, a], [last, y], options)
    graph.op("NEG", [y], [out])
    graph.io([i, x], [out])
    backend = opened(builder, tmp_path, kernels=kernels)
    feeds = {"i": np.array(0, np.int32), "x": X}
    assert set(backend.graph().untapped) == {"condition/go", "body/ni", "body/nx"}
    (loop,) = (node.name for node in backend.graph().nodes if node.op_type == "WHILE")
    assert backend.graph().inner == dict.fromkeys(("condition/go", "body/ni", "body/nx"), loop)
    got = dict(backend.run(feeds, backend.graph().tappable()))
    np.testing.assert_array_equal(got["y"], -8 * X)
    assert got["last"] == 3
    cut = dict(backend.run(feeds, ["y", "out"], {"a": X, "i": np.array(2, np.int32), "y": X}))
    np.testing.assert_array_equal(cut["y"], 2 * X)
    np.testing.assert_array_equal(cut["out"], -X)


@pytest.mark.parametrize("kernels", KERNELS)
def test_an_unknown_operator_behind_a_dynamic_shape_is_found(tmp_path: Path, kernels: str) -> None:
    """LiteRT looks it up in mid-run only."""
    builder = Builder()
    graph = builder.subgraph()
    x, zero = graph.tensor("x", (1, 4)), graph.constant("zero", np.zeros((1, 4), np.float32))
    positive, where = (
        graph.tensor("positive", (1, 4), "bool"),
        graph.tensor("where", (0, 2), "int64", signature=(-1, 2)),
    )
    picked, lost = graph.tensor("picked", (0,), signature=(-1,)), graph.tensor("lost", (0,), signature=(-1,))
    graph.op("GREATER", [x, zero], [positive], S.GreaterOptionsT())
    graph.op("WHERE", [positive], [where], S.WhereOptionsT())
    graph.op("GATHER_ND", [x, where], [picked], S.GatherNdOptionsT())
    graph.op("Bogus", [picked], [lost], custom=True)
    graph.io([x], [lost])
    backend = opened(builder, tmp_path, kernels=kernels)
    assert backend.graph().untapped.keys() == {"lost"}
    got = dict(backend.run({"x": X}, ["where", "picked"]))
    np.testing.assert_array_equal(got["picked"], X[X > 0])
    np.testing.assert_array_equal(got["where"], np.argwhere(X > 0))
    got = dict(backend.run({"x": -np.abs(X)}, ["where", "picked"]))
    assert (got["where"].shape, got["picked"].shape) == ((0, 2), (0,))


@pytest.mark.parametrize("custom", [True, False])
def test_an_unknown_operator_in_a_body_blocks_the_caller_only(tmp_path: Path, custom: bool) -> None:
    builder = Builder()
    graph = builder.subgraph()
    flag, x = graph.tensor("flag", (), "bool"), graph.tensor("x", (1, 4))
    a, chosen = graph.tensor("a", (1, 4)), graph.tensor("chosen", (1, 4))
    for name in ("then", "else"):
        body = builder.subgraph(name)
        inner, result = body.tensor("inner", (1, 4)), body.tensor("result", (1, 4))
        body.op("Bogus" if custom else "SIN", [inner], [result], custom=custom, version=1 if custom else 99)
        body.io([inner], [result])
    options = S.IfOptionsT()
    options.thenSubgraphIndex, options.elseSubgraphIndex = 1, 2
    graph.op("ABS", [x], [a])
    graph.op("IF", [flag, a], [chosen], options)
    graph.io([flag, x], [chosen])
    backend = opened(builder, tmp_path)
    assert "no kernel" in backend.graph().untapped["chosen"]
    feeds = {"flag": np.array(True), "x": X}
    np.testing.assert_array_equal(dict(backend.run(feeds, ["a"]))["a"], np.abs(X))


def recurrent() -> Builder:
    """An RNN whose hidden state is a variable tensor."""
    builder = Builder()
    graph = builder.subgraph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    eye = np.eye(4, dtype=np.float32)
    w, r = graph.constant("w", eye), graph.constant("r", eye)
    b = graph.constant("b", np.zeros(4, np.float32))
    state = graph.tensor("state", (1, 4), variable=True)
    options = S.RNNOptionsT()
    options.fusedActivationFunction = S.ActivationFunctionType.TANH
    graph.op("RNN", [x, w, r, b, state], [y], options)
    z = graph.tensor("z", (1, 4))
    graph.op("NEG", [y], [z])
    graph.io([x], [z])
    return builder


def test_variable_tensors_start_at_zero_in_every_run(tmp_path: Path) -> None:
    backend = opened(recurrent(), tmp_path)
    for _ in range(3):
        got = dict(backend.run({"x": X}, ["y", "z"]))
        np.testing.assert_allclose(got["y"], np.tanh(X), rtol=1e-5)
    assert "variable" in backend.graph().untapped["state"]
    with pytest.raises(UnsupportedError, match="variable tensor"):
        backend.run({"x": X}, ["y"], {"state": X})


def accumulator(blocked: bool = False) -> Builder:
    """sum = READ(v) + x; ASSIGN(v, sum), v starting at 1."""
    builder = Builder()
    graph = builder.subgraph()

    def handle() -> Any:
        options = S.VarHandleOptionsT()
        options.container, options.sharedName = b"", b"v"
        return options

    start = builder.subgraph("start")
    inner, ones = start.tensor("inner", (), "resource"), start.constant("ones", np.ones((1, 4), np.float32))
    start.op("VAR_HANDLE", [], [inner], handle())
    start.op("ASSIGN_VARIABLE", [inner, ones], [], S.AssignVariableOptionsT())
    once = S.CallOnceOptionsT()
    once.initSubgraphIndex = 1
    x, h, v, total = (
        graph.tensor("x", (1, 4)),
        graph.tensor("h", (), "resource"),
        *(graph.tensor(n, (1, 4)) for n in "vs"),
    )
    kept, after = graph.tensor("kept", (1, 4)), graph.tensor("after", (1, 4))
    graph.op("CALL_ONCE", [], [], once)
    graph.op("VAR_HANDLE", [], [h], handle())
    graph.op("READ_VARIABLE", [h], [v], S.ReadVariableOptionsT())
    graph.op("ADD", [v, x], [total], add())
    graph.op("Bogus" if blocked else "ABS", [total], [kept], custom=blocked)
    graph.op("ASSIGN_VARIABLE", [h, kept], [], S.AssignVariableOptionsT())
    graph.op("READ_VARIABLE", [h], [after], S.ReadVariableOptionsT())
    graph.io([x], [total, after])
    return builder


def test_resource_variables_do_not_leak_into_the_next_run(tmp_path: Path) -> None:
    backend = opened(accumulator(), tmp_path)
    assert backend.graph().untapped.keys() == {"h", "start/inner"}
    assert "resource" in backend.graph().untapped["h"]
    for _ in range(3):
        got = dict(backend.run({"x": X}, ["v", "s", "after"]))
        np.testing.assert_array_equal(got["v"], np.ones((1, 4), np.float32))
        np.testing.assert_array_equal(got["after"], np.abs(X + 1))
    cut = dict(backend.run({"x": X}, ["v", "s"], {"v": X}))
    np.testing.assert_array_equal(cut["s"], 2 * X)


def test_a_variable_is_unknown_once_its_writer_cannot_run(tmp_path: Path) -> None:
    backend = opened(accumulator(blocked=True), tmp_path)
    assert {"kept", "after"} <= backend.graph().untapped.keys()
    np.testing.assert_array_equal(dict(backend.run({"x": X}, ["s"]))["s"], X + 1)


def test_string_inputs_are_refused(tmp_path: Path) -> None:
    builder = Builder()
    graph = builder.subgraph()
    s, shape = graph.tensor("s", (1,), "string"), graph.tensor("shape", (1,), "int32")
    graph.op("SHAPE", [s], [shape], S.ShapeOptionsT())
    graph.io([s], [shape])
    backend = opened(builder, tmp_path)
    with pytest.raises(UnsupportedError, match="no string array"):
        backend.run({}, ["shape"])


# --- files and options


def test_weights_behind_the_flatbuffer_are_read(tmp_path: Path) -> None:
    """Files over 2 GB keep their constants there; a rewritten model does as well."""
    builder = Builder()
    graph = builder.subgraph()
    x, y = graph.tensor("x", (1, 64)), graph.tensor("y", (1, 64))
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    w = graph.constant("w", weights)
    graph.op("FULLY_CONNECTED", [x, w, -1], [y], S.FullyConnectedOptionsT())
    out = graph.tensor("out", (1, 64))
    graph.op("NEG", [y], [out])
    graph.io([x], [out])
    inline = opened(builder, tmp_path)
    moved = tmp_path / "moved.tflite"
    moved.write_bytes(inline._runnable(inline._analysis))
    assert inline._model.table.buffers[1].offset == 0
    backend = TfliteBackend(str(moved), {})
    assert backend._model.table.buffers[1].offset > 1
    feed = {"x": np.ones((1, 64), np.float32)}
    a, b = (dict(each.run(feed, ["w", "y", "out"])) for each in (inline, backend))
    np.testing.assert_array_equal(a["w"], weights)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_unknown_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no option 'kernel'") as caught:
        opened(chain("TANH"), tmp_path, kernel="ref")
    assert "kernels" in caught.value.hint
    with pytest.raises(UsageError, match="kernels='fast' is not known"):
        opened(chain("TANH"), tmp_path, kernels="fast")
    for bad in ("0", "-1", "many", "²"):
        with pytest.raises(UsageError, match="not a number of 1 or more"):
            opened(chain("TANH"), tmp_path, threads=bad)


def test_missing_empty_truncated_and_foreign_files(tmp_path: Path) -> None:
    whole = Path(convolution(tmp_path).info.path).read_bytes()
    broken = tmp_path / "broken.tflite"
    with pytest.raises(ModelError, match="No such file"):
        TfliteBackend(str(broken), {})
    with pytest.raises(ModelError, match="Is a directory"):
        TfliteBackend(str(tmp_path), {})
    for content in (
        b"",
        b"TFL3",
        b"not a model at all, but long enough to look at",
        whole[:200],
        whole[: len(whole) // 2],
    ):
        broken.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            TfliteBackend(str(broken), {})
        assert "\n" not in caught.value.fact
        assert caught.value.hint


def test_flipped_bytes_never_escape_as_anything_else(tmp_path: Path) -> None:
    whole = Path(convolution(tmp_path).info.path).read_bytes()
    broken = tmp_path / "broken.tflite"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        content[rng.integers(8, len(content))] ^= 1 << rng.integers(8)
        broken.write_bytes(content)
        try:
            TfliteBackend(str(broken), {}).graph()
        except ModelError:
            refused += 1
    assert refused > 10


def test_an_input_that_is_an_output_as_well(tmp_path: Path) -> None:
    builder = chain("TANH")
    builder.model.subgraphs[0].outputs = [0, 1]
    backend = opened(builder, tmp_path)
    got = dict(backend.run({"x": X}, ["x", "t0"]))
    np.testing.assert_array_equal(got["x"], X)
    assert got["x"] is not X


def test_values_equal_those_of_preserve_all_tensors(tmp_path: Path) -> None:
    backend = convolution(tmp_path)
    x = np.random.default_rng(2).integers(-128, 128, (1, 5, 5, 2)).astype(np.int8)
    with pytest.warns(UserWarning, match="preserve_all_tensors"):
        interpreter = Interpreter(backend.info.path, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(0, x)
    interpreter.invoke()
    got = dict(backend.run({"x": x}, ["y", "z"]))
    np.testing.assert_array_equal(got["y"], interpreter.get_tensor(3))
    np.testing.assert_array_equal(got["z"], interpreter.get_tensor(4))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.Net/torch.nn.modules.container.Sequential_d1/torch.nn.modules.activation.ReLU_2;;net.Net/x;1", "d1.2"),
        ("net.Net/net.Block_a_b/torch.nn.modules.conv.Conv2d_conv;", "a_b.conv"),
        ("net/relu/Relu;net/bn/FusedBatchNormV3", ""),
        ("StatefulPartitionedCall:0", ""),
        ("a.b", ""),
        ("", ""),
    ],
)
def test_module_path_in_the_names_of_litert_torch(name: str, path: str) -> None:
    assert module_path(name) == path
