"""Networks of Keras by name, seeded and as if trained. Needs TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers as L

__all__ = ["KERAS", "inputs", "make"]


def _x(*shape: int) -> Any:
    return keras.Input(shape, name="x")


def _application(name: str, size: int = 64, **given: Any) -> Any:
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10, **given)


def _block(x: Any, width: int, kernel: int = 3, stride: int = 1, act: str = "relu") -> Any:
    x = L.Conv2D(width, kernel, stride, padding="same", use_bias=False)(x)
    return L.Activation(act)(L.BatchNormalization()(x))


def unrolled() -> Any:
    x = _x(8, 6)
    y = L.LSTM(8, return_sequences=True, unroll=True)(x)
    return keras.Model(x, L.Dense(5)(L.GRU(8, unroll=True)(y)))


def convolutions() -> Any:
    """Depthwise, separable, dilated and transposed ones, resizes and pools; a map and a class."""
    x = _x(32, 32, 3)
    a = _block(x, 16, 3, 2)
    b = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, 2, padding="same", use_bias=False)(a)))
    c = L.SeparableConv2D(24, 3, padding="same", activation="relu")(b)
    d = L.PReLU(shared_axes=[1, 2])(L.Conv2D(24, 3, padding="same", dilation_rate=2)(c))
    e = L.BatchNormalization()(L.Conv2DTranspose(16, 3, strides=2, padding="same")(d))
    f = L.Concatenate()([L.LeakyReLU(negative_slope=0.1)(e), a])
    g = L.Conv2D(8, 3, padding="same", activation="swish")(L.UpSampling2D(2, interpolation="bilinear")(f))
    h = L.MaxPooling2D(2, 2, padding="same")(L.AveragePooling2D(3, 2, padding="same")(g))
    kind = L.Dense(6, activation="softmax", name="kind")(L.GlobalAveragePooling2D()(h))
    return keras.Model(x, [L.Conv2D(4, 1, activation="sigmoid", name="map")(g), kind])


def unet() -> Any:
    x = _x(48, 48, 3)
    a = _block(_block(x, 12), 12, act="elu")
    b = _block(L.MaxPooling2D()(a), 24)
    c = _block(L.MaxPooling2D()(b), 48)
    u = _block(L.Concatenate()([L.Conv2DTranspose(24, 2, 2)(c), b]), 24)
    v = _block(L.Concatenate()([L.UpSampling2D(2, interpolation="nearest")(u), a]), 12, act="hard_swish")
    w = L.ZeroPadding2D(((2, 1), (1, 2)))(L.Cropping2D(((1, 2), (2, 1)))(v))
    return keras.Model(x, L.Conv2D(3, 1, activation="tanh")(w))


def words() -> Any:
    x = keras.Input((16,), dtype="int32", name="x")
    y = L.Embedding(100, 32)(x)
    y = L.LayerNormalization()(L.Add()([y, L.MultiHeadAttention(2, 16)(y, y)]))
    y = L.Conv1D(24, 3, padding="causal", activation="relu")(y)
    return keras.Model(x, L.Dense(3, activation="softmax")(L.GlobalMaxPooling1D()(y)))


def dilated() -> Any:
    x = y = _x(128, 4)
    for dilation in (1, 2, 4):
        z = L.Conv1D(16, 3, padding="causal", dilation_rate=dilation, use_bias=False)(y)
        z = L.Conv1D(16, 3, padding="same", dilation_rate=dilation)(L.Activation("relu")(L.BatchNormalization()(z)))
        z = L.Activation("tanh")(z)
        y = z if dilation == 1 else L.Add()([y, z])
    y = L.GroupNormalization(4)(L.MaxPooling1D(2)(L.Conv1D(16, 5, strides=2, padding="same")(y)))
    return keras.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(y)))


KERAS: Mapping[str, Callable[[], Any]] = {
    "keras_mobilenetv1": partial(_application, "MobileNet"),
    "keras_mobilenetv2": partial(_application, "MobileNetV2"),
    "keras_mobilenetv3": partial(_application, "MobileNetV3Small", include_preprocessing=False),
    "keras_efficientnetv2": partial(_application, "EfficientNetV2B0"),
    "keras_resnetv2": partial(_application, "ResNet50V2"),
    "keras_densenet": partial(_application, "DenseNet121"),
    "keras_convnext": partial(_application, "ConvNeXtTiny"),
    "keras_inception": partial(_application, "InceptionV3", 75),
    "keras_unrolled": unrolled,
    "keras_convolutions": convolutions,
    "keras_unet": unet,
    "keras_words": words,
    "keras_dilated": dilated,
}
# Parameter (of a kind of layer, if any) -> how it is drawn anew: constant as it is made, never so in a trained file.
_DRAWN: Mapping[str, Callable[[np.random.Generator, Any], Any]] = {
    "LayerScale/gamma": lambda rng, v: rng.uniform(0.2, 0.8, v.shape),
    "gamma": lambda rng, v: rng.uniform(0.6, 1.4, v.shape),
    "beta": lambda rng, v: v + rng.normal(0, 0.2, v.shape),
    "bias": lambda rng, v: v + rng.normal(0, 0.2, v.shape),
    "alpha": lambda rng, v: rng.uniform(0.05, 0.4, v.shape),
}


def make(name: str) -> Any:
    """The Keras model, with a first input named x."""
    keras.utils.set_random_seed(sum(map(ord, name)))
    model, rng = KERAS[name](), np.random.default_rng(1)
    layers = list(model._flatten_layers())
    for layer in layers:
        own = {id(w): w for w in (*layer._trainable_variables, *layer._non_trainable_variables)}
        for weight in own.values():
            key = weight.path.split("/")[-1]
            draw = _DRAWN.get(f"{type(layer).__name__}/{key}") or _DRAWN.get(key)
            if draw:
                weight.assign(draw(rng, np.array(weight)))
    norms = [layer for layer in layers if isinstance(layer, L.BatchNormalization)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(inputs(model, 16, 5), training=True)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        held = np.array(norm.moving_variance)
        norm.moving_variance.assign(np.maximum(held, 1e-3) * rng.uniform(0.8, 1.25, held.shape))
    return model


def inputs(model: Any, count: int, seed: int) -> Any:
    """A seeded batch for the model's one input: words, noise, or noise that is smooth as images are."""
    (taken,) = model.inputs
    rng, shape = np.random.default_rng(seed), (count, *taken.shape[1:])
    if "int" in str(taken.dtype):
        return rng.integers(0, 100, shape).astype(np.int32)
    noise = rng.standard_normal(shape).astype(np.float32)
    if len(shape) < 4:
        return noise
    coarse = rng.standard_normal((count, 8, 8, shape[-1])).astype(np.float32)
    smooth = keras.ops.image.resize(coarse, shape[1:3], "bicubic", data_format="channels_last")
    return np.array(smooth) + np.float32(0.3) * noise
