"""Small TensorFlow models of every kind that there is, made where TensorFlow is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Before TensorFlow is imported: no log, no search for GPUs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"

__all__ = ["branches", "frozen_graph", "keras_net", "write_pb"]


def keras_net(channels: int = 4) -> Any:
    """A convolution, a branch that is joined again, two outputs; seeded."""
    import keras

    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3), name="image")
    found = keras.layers.Conv2D(channels, 3, strides=2, padding="same", name="conv")(image)
    found = keras.layers.BatchNormalization(name="norm")(found)
    gate = keras.layers.Activation("sigmoid", name="gate")(found)
    found = keras.layers.multiply([keras.layers.ReLU(max_value=6.0, name="relu")(found), gate], name="gated")
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(found)
    ends = [keras.layers.Dense(n, name=name)(pooled) for name, n in (("boxes", 4), ("scores", 3))]
    net = keras.Model(image, ends)
    norm = net.get_layer("norm")
    norm.set_weights([weight + 0.1 * (k + 1) for k, weight in enumerate(norm.get_weights())])
    return net


def branches() -> Any:
    """A tf.Module: two inputs, a branch, a shape, an integer output, a value computed from weights alone."""
    import tensorflow as tf

    class Net(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            random = tf.random.Generator.from_seed(2)
            self.w = tf.Variable(random.normal((3, 3, 3, 4)), name="w")
            self.scale = tf.Variable(random.normal((4,)), name="scale")

        takes = (tf.TensorSpec((None, 8, 8, 3), name="x"), tf.TensorSpec((1, 1, 1, 4), name="y"))

        @tf.function(input_signature=takes)  # type: ignore[untyped-decorator]
        def __call__(self, x: Any, y: Any) -> Any:
            found = tf.nn.conv2d(x, self.w * tf.exp(self.scale), 1, "SAME")
            gate = tf.sigmoid(found)
            joined = (tf.nn.relu(found) + y) * gate
            left, right = tf.split(joined, 2, axis=3)
            flat = tf.reshape(left, tf.shape(right))
            return {"out": flat - right, "best": tf.argmax(joined, axis=3)}

    return Net()


def frozen_graph(function: Any) -> Any:
    """The GraphDef of a concrete function without variables."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function, lower_control_flow=False).graph.as_graph_def()


def write_pb(function: Any, path: Path) -> Path:
    path.write_bytes(frozen_graph(function).SerializeToString())
    return path
