from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg.core.errors import FeedError, ModelError, UnsupportedError, UsageError

pytest.importorskip("tensorflow")
from tensorflow_models import branches, keras_net, write_pb

import tensorflow as tf  # isort: skip

from aligndbg.backends.tensorflow.backend import TensorflowBackend

Array = np.ndarray[Any, np.dtype[Any]]
X = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((1, 1, 1, 4)).astype(np.float32)


def outputs(model: Any, feeds: Mapping[str, Array], **options: str) -> dict[str, Array]:
    backend = TensorflowBackend(str(model) if isinstance(model, Path) else model, options)
    found = dict(backend.run(feeds, backend.graph().outputs))
    backend.close()
    return found


def function(call: Any, *shapes: tuple[int | None, ...]) -> Any:
    specs = [tf.TensorSpec(shape, name=f"x{k}" if k else "x") for k, shape in enumerate(shapes)]
    return tf.function(call, input_signature=specs, autograph=False)


# ---- what it opens


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "net"
    net = branches()
    twice = tf.function(lambda x: {"twice": net(x, Y)["out"] * 2}, input_signature=[tf.TensorSpec((1, 8, 8, 3))])
    signatures = {"serving_default": net.__call__.get_concrete_function(), "twice": twice.get_concrete_function()}
    tf.saved_model.save(net, str(folder), signatures=signatures)
    return folder


def test_a_saved_model_is_its_default_signature(saved: Path) -> None:
    found = outputs(saved, {"x": X, "y": Y})
    right = branches()(X, Y)
    assert list(found) == ["best", "out"]
    assert np.array_equal(found["out"], right["out"])
    assert np.array_equal(found["best"], right["best"])
    assert found.keys() == outputs(saved / "saved_model.pb", {"x": X, "y": Y}).keys()


def test_another_signature(saved: Path) -> None:
    (found,) = outputs(saved, {"x": X[:1]}, signature="twice").values()
    assert np.array_equal(found, branches()(X[:1], Y)["out"] * 2)
    with pytest.raises(UsageError, match=r"no signature 'twise'.*\n.*twice"):
        TensorflowBackend(str(saved), {"signature": "twise"})


def test_a_saved_model_without_signatures_is_its_call(tmp_path: Path) -> None:
    tf.saved_model.save(branches(), str(tmp_path))
    assert set(outputs(tmp_path, {"x": X, "y": Y})) == {"best", "out"}


def test_a_frozen_graph(tmp_path: Path) -> None:
    net = branches()
    path = write_pb(net.__call__.get_concrete_function(), tmp_path / "net.pb")
    found = outputs(path, {"x": X, "y": Y})
    assert np.array_equal(found["Identity_1"], net(X, Y)["out"])
    assert list(outputs(path, {"x": X, "y": Y}, outputs="Sigmoid")) == ["Sigmoid"]
    with pytest.raises(UsageError, match=r"no output is called 'Sigmoyd'.*\n.*Identity"):
        TensorflowBackend(str(path), {"outputs": "Sigmoyd"})
    with pytest.raises(UsageError, match="signature= is not for a frozen graph"):
        TensorflowBackend(str(path), {"signature": "serving_default"})


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_keras_files(tmp_path: Path, suffix: str) -> None:
    net, path = keras_net(), tmp_path / f"net{suffix}"
    net.save(path)
    found = outputs(path, {"image": X})
    assert list(found) == ["boxes", "scores"]
    for value, right in zip(found.values(), net(X, training=False), strict=True):
        assert np.allclose(value, right, atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_of_keras_2(tmp_path: Path, suffix: str) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    x = tf_keras.Input((5,), name="x")
    net = tf_keras.Model(x, tf_keras.layers.Dense(3, activation="tanh", name="dense")(x))
    net.save(tmp_path / f"net{suffix}")
    row = np.ones((2, 5), np.float32)
    (found,) = outputs(tmp_path / f"net{suffix}", {"x": row}).values()
    assert np.allclose(found, net(row), atol=1e-6)


def test_live_objects() -> None:
    net = branches()
    feeds, right = {"x": X, "y": Y}, branches()(X, Y)["out"]
    for live in (net, net.__call__, net.__call__.get_concrete_function()):
        assert np.array_equal(dict(aligndbg.capture(live, feeds).values)["out"], right)
    found = aligndbg.capture(keras_net(), {"image": X})
    assert {"boxes", "scores"} <= {*found.values}


def test_nested_inputs_of_keras() -> None:
    import keras

    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    high = keras.layers.ReLU()(b)
    net = keras.Model({"b": b, "a": a}, {"sum": keras.layers.add([a, high]), "high": high})
    one, two = (np.random.default_rng(k).standard_normal((1, 4)).astype(np.float32) for k in (1, 2))
    found = outputs(net, {"a": one, "b": two})
    assert np.array_equal(found["sum"], one + np.maximum(two, 0))
    assert np.array_equal(found["high"], np.maximum(two, 0))


# ---- what it says


def test_names_scopes_and_attributes() -> None:
    graph = TensorflowBackend(keras_net(), {}).graph()
    (conv,) = (node for node in graph.nodes if node.op_type == "Conv2D")
    assert conv.canonical == "Conv"
    assert conv.scope == "conv (Conv2D)"
    assert conv.attributes["padding"] == "SAME"
    assert conv.attributes["strides"] == [1, 2, 2, 1]
    assert conv.inputs[1] in graph.stored
    assert conv.inputs[1].endswith("conv_1/convolution/ReadVariableOp")
    assert not [
        node for node in graph.nodes if node.op_type == "Identity" and node.name not in ("Identity", "Identity_1")
    ]
    assert graph.tensors["image"].shape == (None, 8, 8, 3)


def test_a_function_of_ones_own_is_told_by_its_lines() -> None:
    graph = TensorflowBackend(branches(), {}).graph()
    (conv,) = (node for node in graph.nodes if node.op_type == "Conv2D")
    assert re.fullmatch(r"(.*/)?tensorflow_models.py:\d+", conv.scope)


def test_weights_computed_from_variables_are_taps() -> None:
    backend = TensorflowBackend(branches(), {})
    graph = backend.graph()
    (made,) = (name for name in graph.made if graph.producers()[name].op_type == "Mul")
    assert made in graph.tappable()
    (value,) = dict(backend.run({}, [made])).values()
    assert value.shape == (3, 3, 3, 4)


def test_batches_of_any_size() -> None:
    backend = TensorflowBackend(branches(), {})
    for size in (1, 3):
        found = dict(backend.run({"x": np.resize(X, (size, 8, 8, 3)), "y": Y}, ["out"]))
        assert found["out"].shape[0] == size


# ---- what is inside


def test_compiled_parts_are_written_out() -> None:
    @tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
    def inner(x: Any, by: Any) -> Any:
        return tf.nn.relu(x) * by, x - by

    def call(x: Any) -> Any:
        high, low = inner(x, tf.constant(2.0))
        return high + inner(low, tf.constant(3.0))[0]

    backend = TensorflowBackend(function(call, (2, 3)), {})
    words = [node.op_type for node in backend.graph().nodes]
    assert words.count("Relu") == 2
    assert not {"PartitionedCall", "StatefulPartitionedCall"} & {*words}
    x = np.array([[1, -2, 5], [3, 0, -1]], np.float32)
    (found,) = dict(backend.run({"x": x}, backend.graph().outputs)).values()
    assert np.array_equal(found, np.maximum(x, 0) * 2 + np.maximum(x - 2, 0) * 3)


def test_control_flow_is_a_box_whose_result_is_seen() -> None:
    def call(x: Any) -> Any:
        grown = tf.while_loop(lambda k, _: k < 3, lambda k, y: (k + 1, y * 2), (tf.constant(0), x))[1]
        return tf.cond(tf.reduce_sum(grown) > 0, lambda: grown + 1, lambda: grown - 1)

    backend = TensorflowBackend(function(call, (2, 3)), {})
    graph = backend.graph()
    found = {node.canonical: node for node in graph.nodes}
    assert {"Loop", "If"} <= found.keys()
    x = np.ones((2, 3), np.float32)
    values = dict(backend.run({"x": x}, graph.tappable()))
    assert np.array_equal(values[found["Loop"].outputs[-1]], x * 8)
    assert np.array_equal(values[graph.outputs[0]], x * 8 + 1)
    inner = {name: node for name, node in graph.inner.items() if graph.tensors[name].dtype == "float32"}
    assert set(inner.values()) == {found["Loop"].name, found["If"].name}
    assert all("inside" in graph.untapped[name] for name in inner)
    grown = found["Loop"].outputs[-1]
    assert np.array_equal(dict(backend.run({}, graph.outputs, {grown: -x}))[graph.outputs[0]], -x - 1)


def test_loops_of_tensorflow_1_are_not_tapped(tmp_path: Path) -> None:
    tf.compat.v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as graph:
            x = tf.compat.v1.placeholder(tf.float32, (2, 3), "x")
            with graph.as_default():
                grown = tf.while_loop(lambda y: tf.reduce_sum(y) < 100, lambda y: y * 2, [x + 1])
            tf.nn.relu(grown, name="end")
    finally:
        tf.compat.v1.enable_control_flow_v2()
    (tmp_path / "old.pb").write_bytes(graph.as_graph_def().SerializeToString())
    backend = TensorflowBackend(str(tmp_path / "old.pb"), {})
    names = backend.graph().tappable()
    assert "inside a loop" in backend.graph().untapped.values()
    values = dict(backend.run({"x": np.ones((2, 3), np.float32)}, names))
    assert values["end"].max() == 32
    over = dict(backend.run({}, ["end"], {"add": np.full((2, 3), 50, np.float32)}))
    assert over["end"].max() == 50


def test_a_table_that_is_looked_up_is_refused() -> None:
    words = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2], tf.string, tf.int64)
    table = tf.lookup.StaticHashTable(words, 0)
    net = tf.Module()
    net.table = table
    net.call = tf.function(
        lambda word: tf.cast(table.lookup(word), tf.float32) * 2, input_signature=[tf.TensorSpec((None,), tf.string)]
    )
    with pytest.raises(UnsupportedError, match=r"no constant.*table_handle"):
        TensorflowBackend(net, {})


def test_text_is_not_tapped() -> None:
    call = tf.function(
        lambda x: {"size": tf.strings.length(tf.strings.as_string(x)), "twice": x * 2},
        input_signature=[tf.TensorSpec((2,), name="x")],
    )
    backend = TensorflowBackend(call, {})
    graph = backend.graph()
    assert set(graph.untapped.values()) == {"text"}
    x = np.array([1.0, 22.0], np.float32)
    found = dict(backend.run({"x": x}, graph.tappable()))
    assert np.array_equal(found["twice"], x * 2)
    assert np.array_equal(found["size"], [8, 9])


def test_grappler_changes_what_a_plain_run_computes_alone() -> None:
    net = keras_net()
    plain, rewritten = outputs(net, {"image": X}), outputs(net, {"image": X}, grappler="yes")
    for name, value in plain.items():
        assert np.allclose(value, rewritten[name], atol=1e-5)


# ---- what it refuses


def test_a_signature_that_changes_its_variables() -> None:
    class Counter(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec((2,))])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            self.count.assign_add(1.0)
            return x + self.count

    with pytest.raises(UnsupportedError, match="changes the variables that it reads"):
        TensorflowBackend(Counter(), {})


def test_a_variable_that_is_written_and_read_by_nothing_is_no_hindrance(tmp_path: Path) -> None:
    class Counted(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.count, self.by = tf.Variable(0.0), tf.Variable(3.0)

        @tf.function(input_signature=[tf.TensorSpec((2,), name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            self.count.assign_add(1.0)
            return {"y": x * self.by}

    net, x = Counted(), np.array([1, -2], np.float32)
    tf.saved_model.save(net, str(tmp_path))
    for model in (net, tmp_path):
        assert np.array_equal(outputs(model, {"x": x})["y"], x * 3)


def test_a_function_whose_shapes_are_not_said() -> None:
    with pytest.raises(UsageError, match=r"shapes that the function takes are not said.*\n.*input_signature"):
        TensorflowBackend(tf.function(lambda x: x * 2), {})


def test_a_subclass_of_keras_model_that_says_nothing() -> None:
    import keras

    class Own(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * 2

    with pytest.raises(UsageError, match=r"does not say what it takes.*\n.*tf.function"):
        TensorflowBackend(Own(), {})


def test_code_in_a_keras_file(tmp_path: Path) -> None:
    import keras

    x = keras.Input((3,), name="x")
    keras.Model(x, keras.layers.Lambda(lambda t: t * 2)(x)).save(tmp_path / "net.keras")
    with pytest.raises(UsageError, match=r"holds Python code.*\n.*--trust"):
        TensorflowBackend(str(tmp_path / "net.keras"), {})
    row = np.ones((1, 3), np.float32)
    (found,) = outputs(tmp_path / "net.keras", {"x": row}, trust="yes").values()
    assert np.array_equal(found, row * 2)


def test_a_class_that_only_its_writer_has(tmp_path: Path) -> None:
    import keras

    class Twice(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * 2

    x = keras.Input((3,), name="x")
    keras.Model(x, Twice()(x)).save(tmp_path / "net.keras")
    with pytest.raises(UsageError, match=r"Twice.*\n.*pass the model"):
        aligndbg.layers(tmp_path / "net.keras")


@pytest.mark.parametrize("suffix", [".pb", ".keras", ".h5"])
def test_a_damaged_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"net{suffix}").write_bytes(b"no model at all")
    with pytest.raises(ModelError) as caught:
        TensorflowBackend(str(tmp_path / f"net{suffix}"), {})
    assert "\n" not in caught.value.fact


def test_a_damaged_saved_model(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"no model at all")
    with pytest.raises(ModelError, match="TensorFlow cannot read it"):
        TensorflowBackend(str(tmp_path), {})


def test_weights_alone(tmp_path: Path) -> None:
    keras_net().save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(ModelError, match="weights, not a model"):
        TensorflowBackend(str(tmp_path / "net.weights.h5"), {})


def test_a_graph_that_is_not_frozen(tmp_path: Path) -> None:
    path = tmp_path / "net.pb"
    net = branches()
    path.write_bytes(net.__call__.get_concrete_function().graph.as_graph_def().SerializeToString())
    with pytest.raises((UnsupportedError, ModelError)) as caught:
        TensorflowBackend(str(path), {})
    assert "frozen" in str(caught.value) or "variable" in str(caught.value)


def test_a_feed_that_does_not_fit() -> None:
    backend = TensorflowBackend(branches(), {})
    with pytest.raises(FeedError, match="'x'"):
        backend.run({"x": X[..., :2], "y": Y}, ["out"])


def test_frozen_again_is_the_same(tmp_path: Path) -> None:
    net = branches()
    write_pb(net.__call__.get_concrete_function(), tmp_path / "net.pb")
    diff = aligndbg.diff(net, tmp_path / "net.pb", {"x": X, "y": Y})
    assert str(diff.verdict) == "aligned"
    assert diff.coverage["reference"].unmatched == 0
