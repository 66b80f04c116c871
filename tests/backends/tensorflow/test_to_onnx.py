"""TensorFlow's operators in ONNX's words compute what TensorFlow computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.explain.to_program import canonical_program

pytest.importorskip("tensorflow")
import tensorflow_models  # noqa: F401  # it sets what must stand before TensorFlow is imported

import tensorflow as tf  # isort: skip

from aligndbg.backends.tensorflow.backend import TensorflowBackend

Array = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 9, 10, 4)).astype(np.float32)


def weights(*shape: int) -> Any:
    return tf.constant(RNG.standard_normal(shape).astype(np.float32))


def fused_norm(x: Any) -> Any:
    scale, shift, mean, spread = (tf.abs(weights(4)) + 0.1 for _ in range(4))
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=shift, mean=mean, variance=spread, epsilon=0.01, is_training=False
    ).y


FORMS: dict[str, Callable[[Any], Any]] = {
    "conv_same": lambda x: tf.nn.conv2d(x, weights(3, 3, 4, 5), 2, "SAME"),
    "conv_valid_dilated": lambda x: tf.nn.conv2d(x, weights(3, 2, 4, 5), 1, "VALID", dilations=2),
    "conv_explicit": lambda x: tf.nn.conv2d(x, weights(3, 3, 4, 5), 1, [[0, 0], [0, 1], [2, 1], [0, 0]]),
    "conv_groups": lambda x: tf.nn.conv2d(x, weights(3, 3, 2, 6), 1, "SAME"),
    "conv_of_computed_weight": lambda x: tf.nn.conv2d(x, weights(3, 3, 4, 5) * tf.reduce_mean(x), 1, "SAME"),
    "depthwise": lambda x: tf.nn.depthwise_conv2d(x, weights(3, 3, 4, 2), [1, 2, 2, 1], "SAME"),
    "conv_transpose": lambda x: tf.nn.conv2d_transpose(x, weights(3, 3, 5, 4), (2, 18, 20, 5), 2, "SAME"),
    "conv_transpose_valid": lambda x: tf.nn.conv2d_transpose(x, weights(3, 3, 5, 4), (2, 19, 21, 5), 2, "VALID"),
    "max_pool": lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME"),
    "average_pool": lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME"),
    "bilinear": lambda x: tf.compat.v1.image.resize_bilinear(x, (7, 23), half_pixel_centers=True),
    "bilinear_old": lambda x: tf.compat.v1.image.resize_bilinear(x, (18, 20)),
    "bilinear_corners": lambda x: tf.compat.v1.image.resize_bilinear(x, (18, 20), align_corners=True),
    "nearest": lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, (7, 23), half_pixel_centers=True),
    "nearest_old": lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, (18, 25)),
    "matmul": lambda x: tf.matmul(tf.reshape(x, (-1, 10)), weights(10, 3)),
    "matmul_turned": lambda x: tf.matmul(tf.reshape(x, (-1, 10)), weights(3, 10), transpose_b=True),
    "batch_matmul": lambda x: tf.matmul(x, x, adjoint_b=True),
    "einsum": lambda x: tf.einsum("bhwc,co->bhwo", x, weights(4, 3)),
    "bias": lambda x: tf.nn.bias_add(x, weights(4)),
    "norm": fused_norm,
    "relu6": lambda x: tf.nn.relu6(x * 5),
    "leaky": lambda x: tf.nn.leaky_relu(x, 0.3),
    "clip": lambda x: tf.raw_ops.ClipByValue(t=x, clip_value_min=-0.5, clip_value_max=0.7),
    "rsqrt": lambda x: tf.math.rsqrt(tf.abs(x) + 1),
    "squares": lambda x: tf.square(x) + tf.math.squared_difference(x, 0.5),
    "curves": lambda x: tf.nn.selu(x) + tf.nn.elu(x) + tf.nn.softplus(x) + tf.nn.softsign(x) + tf.math.erf(x),
    "rounding": lambda x: tf.round(x * 4) + tf.floor(x) + tf.math.ceil(x) + tf.sign(x),
    "silu": lambda x: tf.nn.silu(x) * 2,
    "select": lambda x: tf.where(x > 0, x, x * 0.1),
    "compared": lambda x: tf.cast(tf.logical_or(x >= 0.5, tf.logical_not(x < 1)), tf.float32) * x,
    "softmax": lambda x: tf.nn.softmax(x) + tf.nn.log_softmax(x),
    "reductions": lambda x: tf.reduce_mean(x, (1, 2)) + tf.reduce_max(x, (1, -2)) - tf.reduce_min(x, (1, 2)),
    "sum": lambda x: x / tf.reduce_sum(tf.exp(x), 3, keepdims=True),
    "arg": lambda x: tf.cast(tf.argmax(x, 2), tf.float32),
    "top": lambda x: tf.math.top_k(x, 2).values,
    "cumsum": lambda x: tf.cumsum(x, 1, exclusive=True, reverse=True),
    "reshape": lambda x: tf.transpose(tf.reshape(x, (2, 90, 4)), (0, 2, 1)),
    "squeeze": lambda x: tf.squeeze(tf.expand_dims(x, 1), 1) + 1,
    "pad": lambda x: tf.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)), constant_values=0.25),
    "reflect": lambda x: tf.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)), "REFLECT"),
    "concat": lambda x: tf.concat([x, x * 2], -1),
    "pack": lambda x: tf.stack([x, x * 2], 2),
    "unpack": lambda x: tf.unstack(x, axis=3)[2] * 2,
    "split": lambda x: tf.split(x, 2, 3)[1] * 2,
    "split_sizes": lambda x: tf.split(x, [3, 6], 1)[1] * 2,
    "gather": lambda x: tf.gather(x, [3, 0, 1], axis=2),
    "gather_nd": lambda x: tf.gather_nd(x, [[1, 3], [0, 2]]),
    "tile": lambda x: tf.tile(x, (1, 2, 1, 3)),
    "broadcast": lambda x: tf.broadcast_to(x[:, :1], (2, 9, 10, 4)),
    "slice": lambda x: tf.slice(x, (0, 1, 2, 0), (2, -1, 3, 2)),
    "strided": lambda x: x[:, 7:1:-2, ..., 1:],
    "strided_shrunk": lambda x: x[:, -2, 1:8:3],
    "strided_new_axis": lambda x: x[:, tf.newaxis, ..., 0],
    "reverse": lambda x: tf.reverse(x, (1, -1)),
    "depth_to_space": lambda x: tf.nn.depth_to_space(x, 2),
    "space_to_depth": lambda x: tf.nn.space_to_depth(x[:, :8], 2),
    "half": lambda x: tf.nn.relu6(tf.cast(x, tf.float16)),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_computes_what_tensorflow_does(name: str) -> None:
    assert np.array_equal(*computed(FORMS[name])) or off(*computed(FORMS[name])) < (2e-3 if name == "half" else 2e-6)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: tf.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), "SYMMETRIC"), "symmetric"),
        (lambda x: tf.gather(x, [[1], [0]], axis=1, batch_dims=1), "by batch"),
        (lambda x: tf.math.betainc(1.0, 2.0, tf.sigmoid(x)), "Betainc has no canonical form"),
    ],
)
def test_what_has_no_form_says_why(function: Callable[[Any], Any], reason: str) -> None:
    with pytest.raises(CannotEvaluateError, match=reason):
        computed(function)


def computed(function: Callable[[Any], Any]) -> tuple[Array, Array]:
    """TensorFlow's output, and that of the whole graph as one ONNX program."""
    traced = tf.function(function, input_signature=[tf.TensorSpec(X.shape, name="x")], autograph=False)
    backend = TensorflowBackend(traced, {})
    trace = aligndbg.capture(backend, {"x": X})
    graph, (output,) = trace.graph, trace.graph.outputs
    stored = dict(backend.run({}, sorted(graph.stored)))
    backend.close()

    def shape(name: str) -> tuple[int, ...]:
        return tuple(X.shape if name == "x" else (stored | dict(trace.values))[name].shape)

    nodes = [node for node in graph.nodes if not graph.stored.issuperset(node.outputs)]
    program = canonical_program("tensorflow", graph, nodes, ["x"], output, stored, shape)
    return program.run({"x": X})[0], trace.values[output]


def off(found: Array, right: Array) -> float:
    assert found.shape == right.shape
    assert found.dtype == right.dtype
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))
