"""OnnxBackend on the real ONNX Runtime, with models built here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aligndbg.backends.base import SESSIONS_KEPT
from aligndbg.backends.onnx.backend import OnnxBackend
from aligndbg.core.errors import FeedError, ModelError, UnsupportedError, UsageError
from aligndbg.core.types import Backend

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def value(name: str, dtype: int = FLOAT, shape: Any = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def save(path: Path, nodes: Any, inputs: Any, outputs: Any, initializers: Any = (), **more: Any) -> str:
    opset = more.pop("opset", 21)
    domains = more.pop("domains", ())
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    graph.sparse_initializer.extend(more.pop("sparse", ()))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)
    onnx.save(model, path / "m.onnx")
    return str(path / "m.onnx")


def chain(path: Path) -> str:
    """x -> Neg a -> Relu b -> Add(b, w) y"""
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], name="act"),
        helper.make_node("Add", ["b", "w"], ["y"]),
    ]
    return save(path, nodes, [value("x", shape=["N", 3])], [value("y")], [constant("w", np.float32([1, 2, 3]))])


def conv_net(path: Path, channels: int = 16) -> str:
    """Conv, BatchNorm, Relu, Conv, Sigmoid, Mul, GlobalAveragePool: what every optimization level rewrites."""

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return constant(name, RNG.standard_normal(shape).astype(np.float32))

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c2"], ["s2"]),
        helper.make_node("Mul", ["c2", "s2"], ["q2"]),
        helper.make_node("GlobalAveragePool", ["q2"], ["p2"]),
        helper.make_node("Flatten", ["p2"], ["f2"]),
        helper.make_node("MatMul", ["f2", "w3"], ["y"]),
    ]
    initializers = [
        weights("w1", channels, 3, 3, 3),
        *(weights(name, channels) for name in "gbm"),
        constant("v", np.abs(RNG.standard_normal(channels)).astype(np.float32) + 1),
        weights("w2", 4 * channels, channels, 3, 3),
        weights("w3", 4 * channels, 5),
    ]
    return save(path, nodes, [value("x", shape=[1, 3, 12, 12])], [value("y", shape=[1, 5])], initializers)


def opened(path: str, **options: str) -> OnnxBackend:
    return OnnxBackend(path, options)


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def assert_all_equal(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert list(left) == list(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


# --- the graph


def test_is_a_backend(tmp_path: Path) -> None:
    backend = opened(chain(tmp_path))
    assert isinstance(backend, Backend)
    assert backend.info.version.startswith("onnxruntime ")
    assert backend.info.options["graph_optimization"] == "disable"
    assert os.environ["ORT_DISABLE_TELEMETRY"]


def test_graph(tmp_path: Path) -> None:
    graph = opened(chain(tmp_path)).graph()
    assert [node.op_type for node in graph.nodes] == ["Neg", "Relu", "Add"]
    assert [node.name for node in graph.nodes] == ["a", "act", "y"]
    assert graph.inputs == ("x",)
    assert graph.outputs == ("y",)
    assert graph.constants == {"w"}
    assert graph.tappable() == ("a", "b", "y")
    assert graph.tensors["a"].shape == ("N", 3)
    assert graph.tensors["a"].dtype == graph.tensors["w"].dtype == "float32"


def test_attributes_are_plain_values(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], auto_pad="VALID", strides=[2, 2]),
        helper.make_node("LeakyRelu", ["c"], ["l"], alpha=0.5),
        helper.make_node("Shape", ["l"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["y"], value=constant("", np.float32([7]))),
    ]
    path = save(tmp_path, nodes, [value("x", shape=[1, 1, 4, 4])], [value("y")], [constant("w", floats(1, 1, 2, 2))])
    conv, leaky, _, filled = opened(path).graph().nodes
    assert conv.attributes == {"auto_pad": "VALID", "strides": [2, 2]}
    assert leaky.attributes == {"alpha": 0.5}
    assert filled.attributes["value"].tolist() == [7]


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("['', 'block.1', 'block.1.act', 'relu_3']", "block.1.act"),
        ("['', 'add']", "add"),
        ("[]", ""),
        ("__import__('os')", ""),
        ("{broken", ""),
    ],
)
def test_scope_is_the_module_path(tmp_path: Path, text: str, scope: str) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=text)
    assert opened(save(tmp_path, [node], [value("x")], [value("y")])).graph().nodes[0].scope == scope


def test_scope_has_the_line_that_is_not_torchs_own(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'act', 'relu']")
    frames = ("/home/me/net.py", 12), ("/lib/torch/nn/modules/activation.py", 143)
    trace = "\n".join(f'File "{file}", line {line}, in forward\n    return x' for file, line in frames)
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    scope = opened(save(tmp_path, [node], [value("x")], [value("y")])).graph().nodes[0].scope
    assert scope == "act (net.py:12)"


def test_unsorted_nodes_come_in_execution_order(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[2])], [value("y")]))
    assert [node.op_type for node in backend.graph().nodes] == ["Neg", "Relu"]
    assert list(dict(backend.run({"x": floats(2)}, ["y", "a"]))) == ["a", "y"]


def test_stale_value_info_is_not_believed(tmp_path: Path) -> None:
    path = chain(tmp_path)
    model = onnx.load(path)
    model.graph.value_info.append(value("a", shape=[1, 3]))
    onnx.save(model, path)
    a = -floats(5, 3)
    assert_all_equal(dict(opened(path).run({"x": -a}, ["b"], {"a": a})), {"b": np.maximum(a, 0)})


def test_types_come_from_the_runtime_where_onnx_knows_none(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"),
        helper.make_node("Cast", ["g"], ["y"], to=TensorProto.FLOAT16),
    ]
    backend = opened(
        save(tmp_path, nodes, [value("x", shape=[2])], [value("y", TensorProto.FLOAT16)], domains=["com.microsoft"])
    )
    assert backend.graph().tensors["g"].dtype == "float32"
    assert backend.graph().nodes[0].canonical == "Gelu"
    assert [array.dtype for _, array in backend.run({"x": floats(2)}, ["g", "y"])] == [np.float32, np.float16]


def test_a_type_that_nobody_knows_is_the_runtimes_to_refuse(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], [value("x", shape=[2])], [value("y")])
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = 1000
    Path(path).write_bytes(model.SerializeToString())
    backend = opened(path)
    assert backend.graph().inputs == ("x",)
    with pytest.raises(ModelError, match="ONNX Runtime refuses the model"):
        list(backend.run({"x": floats(2)}, ["y"]))


def test_quantization_parameters(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["wq", "ws"], ["wd"], axis=0),
        helper.make_node("MatMul", ["d", "wd"], ["y"]),
    ]
    initializers = [
        constant("s", np.float32(0.5)),
        constant("z", np.int8(3)),
        constant("wq", np.int8([[1, 2], [3, 4]])),
        constant("ws", np.float32([0.1, 0.2])),
    ]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[1, 2])], [value("y")], initializers))
    graph = backend.graph()
    q, weight = graph.tensors["q"].quant, graph.tensors["wq"].quant
    assert q is not None
    assert (q.scale.tolist(), q.zero_point.tolist(), q.axis) == ([0.5], [3], None)
    assert weight is not None
    assert (weight.zero_point.tolist(), weight.axis) == ([0, 0], 0)
    assert graph.tensors["d"].quant is None
    got = dict(backend.run({"x": floats(1, 2)}, ["q", "d"]))
    assert got["q"].dtype == np.int8
    np.testing.assert_array_equal(q.dequantize(got["q"]), got["d"])
    assert "wd" in graph.constants
    np.testing.assert_array_equal(weight.dequantize(np.int8([[1, 2], [3, 4]])), dict(backend.run({}, ["wd"]))["wd"])


# --- running


def test_every_tensor_in_execution_order(tmp_path: Path) -> None:
    backend = opened(chain(tmp_path))
    x = floats(2, 3)
    got = dict(backend.run({"x": x}, ["y", "w", "b", "x", "a", "a"]))
    expected = {"x": x, "w": np.float32([1, 2, 3]), "a": -x, "b": np.maximum(-x, 0)}
    assert_all_equal(got, expected | {"y": expected["b"] + expected["w"]})


def test_constants_need_no_feeds(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value_floats=[1.0, 2.0]),
        helper.make_node("Neg", ["k"], ["n"]),
        helper.make_node("Mul", ["x", "n"], ["y"]),
    ]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[2])], [value("y")]))
    assert backend.graph().constants == {"k", "n"}
    assert backend.graph().tappable() == ("n", "y")
    assert_all_equal(dict(backend.run({}, ["n", "k"])), {"k": np.float32([1, 2]), "n": np.float32([-1, -2])})
    assert dict(backend.run({}, ["n"], {"k": np.float32([5, 6])}))["n"].tolist() == [-5, -6]
    with pytest.raises(FeedError, match="'x' is missing"):
        backend.run({}, ["k", "y"])


def test_random_nodes_are_no_constants(tmp_path: Path) -> None:
    nodes = [helper.make_node("RandomNormalLike", ["w"], ["r"], seed=1.0), helper.make_node("Add", ["r", "x"], ["y"])]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[2])], [value("y")], [constant("w", floats(2))]))
    assert backend.graph().constants == {"w"}


def test_arrays_outlive_the_next_run(tmp_path: Path) -> None:
    backend = opened(chain(tmp_path))
    x = floats(2, 3)
    first = dict(backend.run({"x": x}, ["a", "b", "y", "x"]))
    kept = {name: array.copy() for name, array in first.items()}
    dict(backend.run({"x": 100 * x}, ["a", "b", "y", "x"]))
    backend.close()
    assert_all_equal(first, kept)
    first["a"][:] = 0  # the caller's own


def test_a_second_identical_run_reuses_the_session(tmp_path: Path) -> None:
    backend = opened(chain(tmp_path))
    x = floats(2, 3)
    for fetch in (["y"], ["a"], ["b"], ["b"]):
        dict(backend.run({"x": x}, fetch))
    runs = dict(backend._runs)
    assert len(runs) == SESSIONS_KEPT
    dict(backend.run({"x": x}, ["b"]))
    assert all(backend._runs[key] is runs[key] for key in runs)


def test_graph_outputs_alone_run_the_file_as_it_is(tmp_path: Path) -> None:
    backend = opened(conv_net(tmp_path))
    x = floats(1, 3, 12, 12)
    plain = dict(backend.run({"x": x}, ["y"]))
    (made,) = backend._runs.values()
    kept: Any = made.run._kept
    assert [output.name for output in kept[0].ort.get_outputs()] == ["y"]
    np.testing.assert_array_equal(dict(backend.run({"x": x}, backend.graph().tappable()))["y"], plain["y"])


def test_input_passed_straight_to_an_output(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], [value("x", shape=[2])], [value("x"), value("y")])
    x = floats(2)
    assert_all_equal(dict(opened(path).run({"x": x}, ["y", "x"])), {"x": x, "y": -x})


def test_empty_and_scalar_tensors(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("ReduceSum", ["a"], ["y"], keepdims=0)]
    backend = opened(save(tmp_path, nodes, [value("x", shape=["N", 3])], [value("y")]))
    got = dict(backend.run({"x": floats(0, 3)}, ["a", "y"]))
    assert got["a"].shape == (0, 3)
    assert got["y"].shape == ()
    assert_all_equal(dict(backend.run({"x": floats(0, 3)}, ["a", "y"], got)), got)


@pytest.mark.parametrize("name", ["BFLOAT16", "FLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "DOUBLE", "INT8", "BOOL"])
def test_dtypes_in_and_out(tmp_path: Path, name: str) -> None:
    kind = getattr(TensorProto, name)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [helper.make_node("Cast", ["x"], ["a"], to=FLOAT), helper.make_node("Cast", ["a"], ["y"], to=kind)]
    backend = opened(save(tmp_path, nodes, [value("x", kind, [3])], [value("y", kind)]))
    x = np.array([1, 0, 2], np.float32).astype(dtype)
    got = dict(backend.run({"x": x}, ["x", "a", "y"]))
    assert got["y"].dtype == got["x"].dtype == dtype
    np.testing.assert_array_equal(got["y"], x)
    again = dict(backend.run({"x": x}, ["a"], {"x": np.zeros(3, dtype)}))
    assert not again["a"].any()


def test_four_bit_values_can_be_read_but_not_fed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["q"], to=TensorProto.INT4),
        helper.make_node("Cast", ["q"], ["y"], to=FLOAT),
    ]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[3])], [value("y")]))
    q = dict(backend.run({"x": np.float32([1, -2, 3])}, ["q"]))["q"]
    assert q.astype(int).tolist() == [1, -2, 3]
    with pytest.raises(UnsupportedError, match="q: int4"):
        dict(backend.run({"x": np.float32([1, -2, 3])}, ["y"], {"q": np.zeros(3, ml_dtypes.int4)}))


def test_fp16_and_bf16_weights(tmp_path: Path) -> None:
    for dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        w = floats(128, 128).astype(dtype)
        nodes = [
            helper.make_node("Transpose", ["w"], ["t"]),
            helper.make_node("Cast", ["t"], ["c"], to=FLOAT),
            helper.make_node("MatMul", ["x", "c"], ["y"]),
        ]
        initializer = helper.make_tensor("w", kind, w.shape, w.tobytes(), raw=True)
        backend = opened(save(tmp_path, nodes, [value("x", shape=[1, 128])], [value("y")], [initializer]))
        got = dict(backend.run({"x": floats(1, 128)}, ["w", "t", "c"]))
        assert got["w"].dtype == dtype
        np.testing.assert_array_equal(got["t"], w.T)
        np.testing.assert_array_equal(got["c"], w.T.astype(np.float32))


# --- overrides


def test_consumers_read_the_override_and_the_own_value_is_yielded(tmp_path: Path) -> None:
    backend = opened(chain(tmp_path))
    x, other = floats(2, 3), floats(2, 3)
    got = dict(backend.run({"x": x}, ["a", "b", "y"], {"a": other}))
    w = np.float32([1, 2, 3])
    assert_all_equal(got, {"a": -x, "b": np.maximum(other, 0), "y": np.maximum(other, 0) + w})


def test_override_of_input_constant_and_output(tmp_path: Path) -> None:
    backend = opened(chain(tmp_path))
    x, other, w = floats(2, 3), floats(2, 3), np.float32([7, 8, 9])
    got = dict(backend.run({"x": x}, ["x", "w", "a", "y"], {"x": other, "w": w, "y": other}))
    own = {"x": x, "w": np.float32([1, 2, 3]), "a": -other, "y": np.maximum(-other, 0) + w}
    assert_all_equal(got, own)


def test_override_of_an_output_that_is_also_read(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Abs", ["a"], ["y"])]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[2])], [value("a"), value("y")]))
    got = dict(backend.run({"x": np.float32([1, 2])}, ["a", "y"], {"a": np.float32([-5, 6])}))
    assert got["a"].tolist() == [-1, -2]
    assert got["y"].tolist() == [5, 6]


def test_override_name_that_is_taken(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["x::in"]), helper.make_node("Sub", ["x::in", "x"], ["y"])]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[1])], [value("y")]))
    got = dict(backend.run({"x": np.float32([1])}, ["x::in", "y"], {"x": np.float32([4])}))
    assert (got["x::in"].item(), got["y"].item()) == (-4, -8)


@pytest.mark.parametrize("level", ["disable", "basic", "extended", "all"])
def test_own_values_as_overrides_change_nothing(tmp_path: Path, level: str) -> None:
    backend = opened(conv_net(tmp_path), graph_optimization=level)
    x = floats(1, 3, 12, 12)
    names = backend.graph().tappable()
    own = dict(backend.run({"x": x}, names))
    assert tuple(own) == names
    assert_all_equal(dict(backend.run({"x": x}, names, own)), own)
    constants = dict(backend.run({}, sorted(backend.graph().constants)))
    assert_all_equal(dict(backend.run({"x": x}, names, constants)), own)


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_optimized_values_are_those_of_the_plain_optimized_run(tmp_path: Path, level: str) -> None:
    import onnxruntime

    path = conv_net(tmp_path)
    before = Path(path).read_bytes()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    names = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, names[level])
    x = floats(1, 3, 12, 12)
    plain = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    backend = opened(path, graph_optimization=level)
    graph = backend.graph()
    assert len(graph.nodes) < 9
    np.testing.assert_array_equal(dict(backend.run({"x": x}, ["y"]))["y"], plain)
    np.testing.assert_array_equal(dict(backend.run({"x": x}, graph.tappable()))["y"], plain)
    backend.close()
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert Path(path).read_bytes() == before


def test_blocked_layouts_are_not_passed_off_as_nchw(tmp_path: Path) -> None:
    backend = opened(conv_net(tmp_path, channels=32), graph_optimization="all")
    graph = backend.graph()
    if not any("Reorder" in node.op_type for node in graph.nodes):
        pytest.skip("this CPU has no NCHWc kernels")
    blocked = next(name for name, reason in graph.untapped.items() if "NCHWc" in reason)
    with pytest.raises(UnsupportedError, match="NCHWc"):
        backend.run({"x": floats(1, 3, 12, 12)}, [blocked])
    reordered = next(node for node in graph.nodes if node.op_type == "ReorderOutput").outputs[0]
    assert reordered not in graph.untapped
    convs = [node for node in graph.nodes if node.op_type == "Conv"]
    assert all(node.inputs[1] in graph.untapped and node.inputs[1] not in graph.constants for node in convs)


# --- ranks and names


def squeezed(path: Path) -> str:
    """Squeeze without axes of a dynamic batch: how many axes are left is not known before it runs."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Squeeze", ["r"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=-1),
    ]
    return save(path, nodes, [value("x", shape=["n", 4, 1])], [value("y")])


def test_an_unknown_rank_is_not_rank_0_and_is_learnt_by_running(tmp_path: Path) -> None:
    backend = opened(squeezed(tmp_path))
    assert backend.graph().tensors["s"].shape is None
    x = floats(1, 4, 1)
    own = dict(backend.run({"x": x}, ["s", "y"]))
    assert own["s"].shape == backend.graph().tensors["s"].shape == (4,)
    got = dict(backend.run({"x": x}, ["y"], {"s": own["s"]}))
    np.testing.assert_array_equal(got["y"], own["y"])
    batch = floats(2, 4, 1)  # another rank, and no run without overrides has shown it
    assert dict(backend.run({"x": batch}, ["y"], {"s": batch[..., 0]}))["y"].shape == (2, 4)


def test_a_scalar_stays_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Mul", ["s", "rate"], ["m"]),
        helper.make_node("Unsqueeze", ["m", "axes"], ["y"]),
    ]
    inputs = [value("x", shape=[3]), value("rate", shape=[])]
    backend = opened(save(tmp_path, nodes, inputs, [value("y")], [constant("axes", [0])]))
    got = dict(backend.run({"x": floats(3), "rate": np.float32(2)}, ["s", "m", "y"]))
    assert [got[name].shape for name in "smy"] == [(), (), (1,)]
    again = dict(backend.run({}, ["m", "y"], {"s": got["s"], "m": np.float32(3)} | {"rate": np.array(1, np.float32)}))
    assert again["m"].shape == ()
    assert again["y"].tolist() == [3]


def test_a_size_of_minus_one_is_not_known(tmp_path: Path) -> None:
    """As old exporters write it, and ONNX Runtime takes it. Two of them do not multiply to a known size."""
    nodes = [helper.make_node("Flatten", ["x"], ["f"], axis=2), helper.make_node("Relu", ["f"], ["y"])]
    path = save(tmp_path, nodes, [value("x", shape=["n", "k", 2])], [value("y", shape=["nk", 2])])
    model = onnx.load(path)
    for size in (
        *model.graph.input[0].type.tensor_type.shape.dim[:2],
        model.graph.output[0].type.tensor_type.shape.dim[0],
    ):
        size.dim_value = -1
    onnx.save(model, path)
    backend = opened(path)
    assert backend.graph().tensors["x"].shape == (None, None, 2)
    for name in "fy":
        shape = backend.graph().tensors[name].shape
        assert shape is None or not isinstance(shape[0], int)
    assert dict(backend.run({"x": floats(3, 5, 2)}, ["f", "y"]))["y"].shape == (15, 2)


def test_the_name_given_to_a_node_is_no_other_nodes(tmp_path: Path) -> None:
    """The second node has no name, and its output is called as the first node is."""
    nodes = [helper.make_node("Neg", ["x"], ["a"], name="b"), helper.make_node("Relu", ["a"], ["b"])]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[2])], [value("b")]))
    assert [node.name for node in backend.graph().nodes] == ["b", "b_"]
    got = dict(backend.run({"x": np.float32([1, -2])}, ["a", "b"]))
    assert got["b"].tolist() == [0, 2]


# --- control flow, functions, other types


def if_model(path: Path) -> str:
    """h = -x; y = if c: h + inner else: h * 2; the branches read h from outside."""
    then = helper.make_graph(
        [helper.make_node("Abs", ["h"], ["inner"]), helper.make_node("Add", ["h", "inner"], ["t"])],
        "then", [], [value("t")],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Constant", [], ["two"], value_float=2.0), helper.make_node("Mul", ["h", "two"], ["e"])],
        "else", [], [value("e")],
    )  # fmt: skip
    nodes = [
        helper.make_node("Neg", ["x"], ["h"]),
        helper.make_node("If", ["c"], ["y"], name="pick", then_branch=then, else_branch=other),
    ]
    return save(path, nodes, [value("x", shape=[2]), value("c", TensorProto.BOOL, [])], [value("y", shape=[2])])


def loop_model(path: Path, size: int = 2) -> str:
    """y = x, then 3 times y += h, where h = -x and w (an initializer) come from outside."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["acc", "h"], ["sum"]),
            helper.make_node("Add", ["sum", "w"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("acc", shape=[size])],
        [value("go_on", TensorProto.BOOL, []), value("next", shape=[size])],
    )
    nodes = [
        helper.make_node("Neg", ["x"], ["h"]),
        helper.make_node("Loop", ["n", "", "x"], ["y"], name="walk", body=body),
        helper.make_node("Neg", ["y"], ["z"]),
    ]
    stored = [constant("n", np.int64(3)), constant("w", np.ones(size, np.float32))]
    return save(path, nodes, [value("x", shape=[size])], [value("z")], stored)


def test_the_branch_of_an_if_that_is_taken_is_entered_once_it_runs(tmp_path: Path) -> None:
    backend = opened(if_model(tmp_path))
    graph = backend.graph()
    assert graph.by_feeds
    assert graph.tappable() == ("h", "y")
    assert graph.nodes[1].inputs == ("c", "h")
    assert graph.untapped["inner"] == "inside the body of If 'pick'"
    assert graph.inner == dict.fromkeys(("inner", "t", "e"), "pick")
    feeds = {"x": np.float32([1, -2]), "c": np.array(True)}
    assert dict(backend.run(feeds, ["h", "y"]))["y"].tolist() == [0, 4]
    graph = backend.graph()
    assert [(node.op_type, node.inputs, node.outputs) for node in graph.nodes] == [
        ("Neg", ("x",), ("h",)),
        ("Abs", ("h",), ("inner",)),
        ("Add", ("h", "inner"), ("y",)),
    ]
    assert not graph.untapped
    assert graph.notes == ("of each If only the branch that this input takes is compared: the then branch of 'pick'",)
    assert dict(backend.run(feeds, ["inner", "y"], {"inner": np.zeros(2, np.float32)}))["y"].tolist() == [-1, 2]
    assert dict(backend.run(feeds | {"c": np.array(False)}, ["two", "y"]))["y"].tolist() == [-2, 4]
    assert backend.graph().tappable() == ("h", "y")
    assert backend.graph().nodes[-1].op_type == "Mul"


def test_names_inside_a_branch_that_others_have_are_told_apart(tmp_path: Path) -> None:
    """Both Ifs' branches, and the nodes of the main graph, use the same names; an If lies in a branch of an If."""

    def branch(op: str, *more: onnx.NodeProto, v: str = "v", w: str = "w") -> onnx.GraphProto:
        first = helper.make_node(op, ["h"], [v], name="n")
        return helper.make_graph(
            [first, *more, helper.make_node("Add", [v, w], ["t" + v])],
            op, [], [value("t" + v)], [constant(w, np.float32([len(more)]))],
        )  # fmt: skip

    deep = {"then_branch": branch("Exp", v="a", w="b"), "else_branch": branch("Neg", v="a", w="b")}
    inner = helper.make_node("If", ["d"], ["unread"], **deep)
    passed = helper.make_graph([helper.make_node("Identity", ["h"], ["t"])], "passed", [], [value("t")])
    nodes = [
        helper.make_node("Neg", ["x"], ["h"], name="n"),
        helper.make_node("Not", ["c"], ["d"]),
        helper.make_node("If", ["c"], ["y"], name="one", then_branch=branch("Abs", inner), else_branch=passed),
        helper.make_node("If", ["c"], ["z"], name="two", then_branch=branch("Relu"), else_branch=passed),
    ]
    path = save(tmp_path, nodes, [value("x", shape=[2]), value("c", TensorProto.BOOL, [])], [value("y"), value("z")])
    backend = opened(path)
    feeds = {"x": np.float32([1, -2]), "c": np.array(True)}
    plain = dict(backend.run(feeds, ["y", "z"]))
    graph = backend.graph()
    assert [node.op_type for node in graph.nodes if node.name.startswith("n") and node.op_type != "Not"] == [
        "Neg", "Abs", "Neg", "Relu",
    ]  # fmt: skip
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    tapped = dict(backend.run(feeds, [*graph.tappable()]))
    assert_all_equal({name: tapped[name] for name in plain}, plain)
    assert tapped["y"].tolist() == [2, 3]
    assert tapped["z"].tolist() == [0, 2]
    other = dict(backend.run(feeds | {"c": np.array(False)}, ["y", "z"]))
    assert other["y"].tolist() == other["z"].tolist() == [-1, 2]
    assert backend.graph().tappable() == ("h", "d", "y", "z")


def test_a_large_weight_inside_a_branch_is_held_once(tmp_path: Path) -> None:
    weight = RNG.standard_normal((64, 128)).astype(np.float32)
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["t"])],
        "then", [], [value("t")], [constant("w", weight)],
    )  # fmt: skip
    other = helper.make_graph([helper.make_node("MatMul", ["x", "o"], ["e"])], "else", [], [value("e")])
    node = helper.make_node("If", ["c"], ["y"], name="pick", then_branch=then, else_branch=other)
    inputs = [value("x", shape=[1, 64]), value("c", TensorProto.BOOL, [])]
    backend = opened(save(tmp_path, [node], inputs, [value("y")], [constant("o", weight)]))
    feeds = {"x": np.ones((1, 64), np.float32), "c": np.array(True)}
    got = dict(backend.run(feeds, ["y"]))
    assert "w" in backend.graph().constants
    both = dict(backend.run(feeds, ["m", "y"]))
    np.testing.assert_allclose(both["m"], feeds["x"] @ weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(both["y"], got["y"])
    halved = dict(backend.run(feeds, ["y"], {"w": weight / 2}))
    np.testing.assert_allclose(halved["y"], got["y"] / 2, rtol=1e-5)


def test_override_is_seen_inside_bodies(tmp_path: Path) -> None:
    backend = opened(if_model(tmp_path))
    for condition, expected in ((True, [10, 0]), (False, [10, -6])):
        feeds = {"x": np.float32([1, -2]), "c": np.array(condition)}
        got = dict(backend.run(feeds, ["h", "y"], {"h": np.float32([5, -3])}))
        assert got["h"].tolist() == [-1, 2]
        assert got["y"].tolist() == expected


@pytest.mark.parametrize("size", [2, 8192])
def test_loop(tmp_path: Path, size: int) -> None:
    """The larger size makes the captured initializer one that is held outside the proto."""
    backend = opened(loop_model(tmp_path, size))
    graph = backend.graph()
    assert graph.tappable() == ("h", "y", "z")
    assert {"h", "w"} <= set(graph.nodes[1].inputs)
    assert graph.untapped["sum"] == "inside the body of Loop 'walk'"
    x = np.full(size, 2, np.float32)
    own = dict(backend.run({"x": x}, ["h", "y", "z"]))
    assert (own["y"] == 2 + 3 * (-2 + 1)).all()
    assert_all_equal(dict(backend.run({"x": x}, ["h", "y", "z"], own)), own)
    got = dict(backend.run({"x": x}, ["h", "y", "z"], {"h": 10 * x, "w": 0 * x}))
    assert (got["y"] == 62).all()
    assert (got["h"] == -2).all()


def test_override_leaves_an_inner_value_of_the_same_name_alone(tmp_path: Path) -> None:
    from aligndbg.backends.onnx.edit import tapped

    inner = [helper.make_node("Neg", ["x"], ["h"]), helper.make_node("Abs", ["h"], ["t"])]
    branch = helper.make_graph(inner, "b", [], [value("t")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "g", [value("c", TensorProto.BOOL, []), value("h"), value("x")], [value("y")])
    model, stand_ins, _ = tapped(helper.make_model(graph), [], {"h": floats(1), "x": floats(1)})
    assert stand_ins == {"x": "x::in"}
    body = model.graph.node[0].attribute[0].g
    assert [list(item.input) for item in body.node] == [["x::in"], ["h"]]


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 21)]
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["h"], domain="own"),
        helper.make_node("Twice", ["h"], ["y"], domain="own"),
    ]
    path = save(tmp_path, nodes, [value("x", shape=[2])], [value("y")], functions=[function], domains=["own"])
    backend = opened(path)
    assert [node.op_type for node in backend.graph().nodes] == ["Add", "Add"]
    x = floats(2)
    assert dict(backend.run({"x": x}, ["h", "y"]))["y"].tolist() == (4 * x).tolist()
    assert dict(backend.run({"x": x}, ["y"], {"h": x}))["y"].tolist() == (2 * x).tolist()
    assert dict(backend.run({"x": x}, ["y"]))["y"].tolist() == (4 * x).tolist()


def test_absent_optional_inputs_and_outputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Dropout", ["x"], ["d", ""]),
        helper.make_node("Clip", ["d", "", "top"], ["c"]),
        helper.make_node("GRU", ["c", "w", "r"], ["", "h"], hidden_size=2),
    ]
    stored = [constant("top", np.float32(1)), constant("w", floats(1, 6, 3)), constant("r", floats(1, 6, 2))]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[1, 1, 3])], [value("h")], stored))
    assert backend.graph().tappable() == ("d", "c", "h")
    assert backend.graph().nodes[1].inputs == ("d", "", "top")
    got = dict(backend.run({"x": np.float32([[[-4, 3, 0.5]]])}, backend.graph().tappable()))
    assert got["c"].tolist() == [[[-4, 1, 0.5]]]
    assert got["h"].shape == (1, 1, 2)


def test_sequences_and_inner_strings_are_untapped(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["seq"], keepdims=0),
        helper.make_node("SequenceLength", ["seq"], ["n"]),
        helper.make_node("Cast", ["x"], ["words"], to=TensorProto.STRING),
        helper.make_node("Cast", ["x"], ["inner"], to=TensorProto.STRING),
        helper.make_node("Cast", ["inner"], ["y"], to=FLOAT),
        helper.make_node("Optional", ["x"], ["maybe"]),
        helper.make_node("OptionalHasElement", ["maybe"], ["has"]),
        helper.make_node("Constant", [], ["text"], value_string="hello"),
    ]
    outputs = [
        value("n", TensorProto.INT64),
        value("words", TensorProto.STRING),
        value("y"),
        value("has", TensorProto.BOOL),
    ]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[3])], outputs))
    graph = backend.graph()
    assert graph.tappable() == ("n", "words", "y", "has")
    assert set(graph.untapped) == {"seq", "inner", "maybe", "text"}
    assert "sequence" in graph.untapped["seq"]
    assert "strings" in graph.untapped["inner"]
    assert "optional" in graph.untapped["maybe"]
    got = dict(backend.run({"x": np.float32([1, 2, 3])}, graph.tappable()))
    assert got["n"] == 3
    assert got["y"].tolist() == [1, 2, 3]
    assert got["words"].tolist() == ["1", "2", "3"]
    with pytest.raises(UnsupportedError, match="sequence"):
        backend.run({"x": np.float32([1, 2, 3])}, ["seq"])


def test_string_feed(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [helper.make_node("Cast", ["s"], ["y"], to=FLOAT), helper.make_node("Neg", ["y"], ["z"])],
        [value("s", TensorProto.STRING, [2])],
        [value("z")],
    )
    for words in (np.array(["1.5", "2"]), np.array(["1.5", "2"], object)):
        got = dict(opened(path).run({"s": words}, ["s", "y", "z"]))
        assert got["y"].tolist() == [1.5, 2]
    with pytest.raises(FeedError, match=r"expected string \[2\], got float32 \[2\]"):
        opened(path).run({"s": floats(2)}, ["y"])


def test_initializers_listed_as_inputs_are_constants(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "b"], ["y"])]
    w, b, x = floats(100, 100), floats(100), floats(1, 100)
    inputs = [value("x", shape=[1, 100]), value("w", shape=[100, 100]), value("b", shape=[100])]
    backend = opened(save(tmp_path, nodes, inputs, [value("y")], [constant("w", w), constant("b", b)]))
    assert backend.graph().inputs == ("x",)
    assert backend.graph().constants == {"w", "b"}
    own = dict(backend.run({"x": x}, ["w", "b", "a", "y"]))
    np.testing.assert_array_equal(own["y"], own["a"] + b)
    assert_all_equal(dict(backend.run({"x": x}, ["w", "b", "a", "y"], {"w": w, "b": b})), own)
    assert not dict(backend.run({"x": x}, ["a"], {"w": 0 * w}))["a"].any()
    with pytest.raises(FeedError, match="it is a constant"):
        backend.run({"x": x, "w": w}, ["y"])


def test_initializers_of_ir_3_are_fixed(tmp_path: Path) -> None:
    """Before IR 4 every initializer is listed as an input, and is constant all the same."""
    w, x = floats(100, 100), floats(1, 100)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(
        tmp_path,
        [node],
        [value("x", shape=[1, 100]), value("w", shape=[100, 100])],
        [value("y")],
        [constant("w", w)],
        opset=8,
    )
    model = onnx.load(path)
    model.ir_version = 3
    onnx.save(model, path)
    backend = opened(path)
    own = dict(backend.run({"x": x}, ["w", "y"]))
    assert_all_equal(dict(backend.run({"x": x}, ["w", "y"], {"w": w})), own)
    assert not dict(backend.run({"x": x}, ["y"], {"w": 0 * w}))["y"].any()


def test_constant_overrides_of_other_values_are_other_sessions(tmp_path: Path) -> None:
    backend = opened(conv_net(tmp_path, channels=32))
    x = floats(1, 3, 12, 12)
    w2 = dict(backend.run({}, ["w2"]))["w2"]
    own = dict(backend.run({"x": x}, ["c2"]))["c2"]
    for factor in (2, 4, 2):
        got = dict(backend.run({"x": x}, ["c2"], {"w2": factor * w2}))["c2"]
        np.testing.assert_array_equal(got, factor * own)


def test_sparse_initializers_are_untapped(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(constant("w", np.float32([5])), constant("w_at", np.int64([1])), [3])
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    backend = opened(save(tmp_path, nodes, [value("x", shape=[3])], [value("y")], sparse=[sparse]))
    assert "sparse" in backend.graph().untapped["w"]
    with pytest.raises(UnsupportedError, match="sparse"):
        backend.run({}, ["w"])


# --- external data


def external_model(path: Path) -> tuple[str, Any]:
    w = floats(128, 64)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "b"], ["y"])]
    file = save(path, nodes, [value("x", shape=[1, 128])], [value("y")], [constant("w", w), constant("b", floats(64))])
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="m.data", size_threshold=0)
    return file, w


@pytest.mark.parametrize("level", ["disable", "all"])
def test_external_data(tmp_path: Path, level: str) -> None:
    path, w = external_model(tmp_path)
    backend = opened(path, graph_optimization=level)
    x = floats(1, 128)
    plain = dict(backend.run({"x": x}, ["y"]))
    everything = dict(backend.run({"x": x}, backend.graph().tappable()))
    np.testing.assert_array_equal(everything["y"], plain["y"])
    assert w.shape in [array.shape for _, array in backend.run({}, sorted(backend.graph().constants))]
    if level == "disable":
        np.testing.assert_array_equal(dict(backend.run({}, ["w"]))["w"], w)
        assert not dict(backend.run({"x": x}, ["a"], {"w": 0 * w}))["a"].any()


def test_external_data_behind_links(tmp_path: Path) -> None:
    """The cache of huggingface_hub: both files are links into another folder."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    external_model(tmp_path / "blobs")
    for name in ("m.onnx", "m.data"):
        (tmp_path / "blobs" / name).rename(tmp_path / "blobs" / name[2:])
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / name[2:])
    backend = opened(str(tmp_path / "snapshot" / "m.onnx"))
    x = floats(1, 128)
    plain = dict(backend.run({"x": x}, ["y"]))
    np.testing.assert_array_equal(dict(backend.run({"x": x}, ["a", "y"]))["y"], plain["y"])


def test_missing_truncated_and_escaping_external_data(tmp_path: Path) -> None:
    path, _ = external_model(tmp_path)
    data = tmp_path / "m.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:1000])
    with pytest.raises(ModelError, match=r"m\.data has 1000: the data file is truncated"):
        opened(path)
    data.unlink()
    with pytest.raises(ModelError, match=r"'w' cannot be read: .*m\.data: No such file"):
        opened(path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../m.data"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="outside the model's folder"):
        opened(path)


def test_external_and_internal_weights_in_one_session(tmp_path: Path) -> None:
    path, w = external_model(tmp_path)
    model = onnx.load(path, load_external_data=False)
    v, x = floats(64, 200), floats(1, 128)
    model.graph.initializer.append(constant("v", v))
    model.graph.node.append(helper.make_node("MatMul", ["y", "v"], ["z"]))
    model.graph.output.append(value("z"))
    onnx.save(model, path)
    backend = opened(path)
    assert_all_equal(dict(backend.run({}, ["w", "v"])), {"w": w, "v": v})
    plain = dict(backend.run({"x": x}, ["z"]))
    own = dict(backend.run({"x": x}, ["a", "y", "z"]))
    np.testing.assert_array_equal(own["z"], plain["z"])
    assert_all_equal(dict(backend.run({"x": x}, ["a", "y", "z"], {"v": v})), own)
    np.testing.assert_array_equal(dict(backend.run({"x": x}, ["a"], {"v": 0 * v, "w": 2 * w}))["a"], 2 * own["a"])


def test_large_weights_are_shared_and_bit_equal(tmp_path: Path) -> None:
    backend = opened(conv_net(tmp_path, channels=32))
    assert "w2" in backend._model.weights
    assert len(backend._model.proto.SerializeToString()) < 16 * 1024
    np.testing.assert_array_equal(dict(backend.run({}, ["w2"]))["w2"], backend._model.weights["w2"])


# --- what is refused


def test_bad_feeds(tmp_path: Path) -> None:
    backend = opened(chain(tmp_path))
    x = floats(2, 3)
    with pytest.raises(FeedError, match=r"input 'x' is missing: expected float32 \[N, 3\]"):
        backend.run({}, ["y"])
    with pytest.raises(FeedError, match="no input is called 'X'") as caught:
        backend.run({"X": x}, ["y"])
    assert "x" in caught.value.hint
    with pytest.raises(FeedError, match=r"input 'x': expected float32 \[N, 3\], got float64 \[2, 3\]"):
        backend.run({"x": x.astype(np.float64)}, ["y"])
    with pytest.raises(FeedError, match=r"got float32 \[2, 4\]"):
        backend.run({"x": floats(2, 4)}, ["y"])
    with pytest.raises(FeedError, match=r"got float32 \[3\]"):
        backend.run({"x": floats(3)}, ["y"])
    np.testing.assert_array_equal(dict(backend.run({"x": floats(3, 4).T[:, :3]}, ["a"]))["a"].shape, (4, 3))


def test_bad_overrides_and_fetches(tmp_path: Path) -> None:
    backend = opened(chain(tmp_path))
    feeds = {"x": floats(2, 3)}
    with pytest.raises(UsageError, match="cannot fetch 'act1'") as caught:
        backend.run(feeds, ["act1"])
    assert caught.value.hint
    with pytest.raises(FeedError, match="cannot override 'nope'"):
        backend.run(feeds, ["y"], {"nope": floats(2, 3)})
    with pytest.raises(FeedError, match="override of 'a': expected float32"):
        backend.run(feeds, ["y"], {"a": np.zeros((2, 3), np.int8)})
    with pytest.raises(FeedError, match=r"override of 'a': expected float32 \[N, 3\], got float32 \[2, 5\]"):
        backend.run(feeds, ["y"], {"a": floats(2, 5)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graph_optimisation": "all"}, "graph_optimization"),
        ({"graph_optimization": "most"}, "disable, basic, extended, all"),
        ({"provider": "nothing"}, "available: .*cpu"),
        ({"threads": "-1"}, "threads"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OnnxBackend(chain(tmp_path), options)


def test_good_options(tmp_path: Path) -> None:
    x = floats(2, 3)
    for options in ({"provider": "CPUExecutionProvider"}, {"provider": "cpu", "threads": "2"}):
        assert dict(opened(chain(tmp_path), **options).run({"x": x}, ["a"]))["a"].tolist() == (-x).tolist()


@pytest.mark.parametrize("content", [b"", b"hello world\n", b"version https://git-lfs.github.com/spec/v1\n"])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx: (not an ONNX model|holds no graph)"):
        opened(str(tmp_path / "m.onnx"))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        opened(str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match="directory"):
        opened(str(tmp_path))


def test_truncated_anywhere(tmp_path: Path) -> None:
    """A cut file is refused when it is opened or when it is first run, always as a ModelError."""
    path = conv_net(tmp_path)
    whole = Path(path).read_bytes()
    for size in range(1, len(whole), len(whole) // 23):
        Path(path).write_bytes(whole[:size])
        with pytest.raises(ModelError) as caught:
            dict(opened(path).run({"x": floats(1, 3, 12, 12)}, ["y"]))
        assert "\n" not in caught.value.fact


@pytest.mark.parametrize(
    ("op", "domain", "opset", "message"),
    [("Foo", "", 21, "No Op registered for Foo"), ("Foo", "custom", 21, "Foo"), ("Relu", "", 999, "999|opset")],
)
def test_operators_that_the_runtime_lacks(tmp_path: Path, op: str, domain: str, opset: int, message: str) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node(op, ["a"], ["y"], domain=domain)]
    domains = [domain] if domain else []
    path = save(tmp_path, nodes, [value("x", shape=[2])], [value("y")], domains=domains, opset=opset)
    backend = opened(path)
    assert [node.op_type for node in backend.graph().nodes] == ["Neg", op]
    with pytest.raises(ModelError, match=message) as caught:
        dict(backend.run({"x": floats(2)}, ["y"]))
    assert caught.value.hint
    assert "\n" not in caught.value.fact
    assert "/onnxruntime_src" not in caught.value.fact
    if op == "Foo":  # what comes before it needs no more than itself
        assert dict(backend.run({"x": floats(2)}, ["a"]))["a"].shape == (2,)


def test_failure_while_running_names_the_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["y"], name="to_grid"),
    ]
    backend = opened(
        save(tmp_path, nodes, [value("x", shape=["N"])], [value("y")], [constant("shape", np.int64([5, 7]))])
    )
    with pytest.raises(ModelError, match=r"node 'to_grid' \(Reshape\): .*cannot be reshaped") as caught:
        dict(backend.run({"x": floats(3)}, ["a", "y"]))
    assert "/onnxruntime_src" not in caught.value.fact


def test_cycle(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]
    with pytest.raises(ModelError, match="cycle"):
        opened(save(tmp_path, nodes, [value("x")], [value("b")]))
