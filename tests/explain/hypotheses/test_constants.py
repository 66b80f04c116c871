"""Weights, biases, factors."""

from __future__ import annotations

import numpy as np

from causes import C, EitherSide, Planted, conv, edited
from nets import Array, Middle, Net


def scale_channel(weights: dict[str, Array]) -> None:
    weights["middle.w"][2] *= 1.7


def scale_all(weights: dict[str, Array]) -> None:
    weights["middle.w"] *= 1.25


def shift_bias(weights: dict[str, Array]) -> None:
    weights["middle.b"][4] += 0.4


def to_half(weights: dict[str, Array]) -> None:
    weights["middle.w"] = weights["middle.w"].astype(np.float16).astype(np.float32)


def zero_bias(weights: dict[str, Array]) -> None:
    weights["middle.b"] = weights["middle.b"] * 0


def folded(conv_bias: bool) -> Middle:
    """A convolution into whose weights a batch normalization is folded, with or without the convolution's bias."""

    def build(net: Net, x: str) -> str:
        norm_first(net, x)
        del net.nodes[-2:]
        w, names = net.weights, ("bn.scale", "bn.shift", "bn.mean", "bn.var")
        scale, shift, mean, var = (w[n] for n in names)
        factor = scale / np.sqrt(var + 1e-5)
        bias = shift + ((w["pre.b"] if conv_bias else 0) - mean) * factor
        net.constant("folded.w", w["pre.w"] * factor.reshape(-1, 1, 1, 1))
        net.constant("folded.b", bias)
        for name in (*names, "pre.w", "pre.b"):
            del w[name]
        return net.op("Conv", [x, "folded.w", "folded.b"], "middle", pads=[1, 1, 1, 1])

    return build


def norm_first(net: Net, x: str) -> str:
    before = net.conv(x, "pre", C, C)
    inputs = [
        before,
        *(net.weight(f"bn.{p}", C) for p in ("scale", "shift", "mean")),
        net.weight("bn.var", C, low=0.5, high=1.5),
    ]
    return net.op("BatchNormalization", inputs, "middle")


class TestConstants(EitherSide):
    PLANTED = (
        Planted("weight", "weight", conv(), edited(scale_channel)),
        Planted("scale", "scale", conv(), edited(scale_all)),
        Planted("bias", "bias", conv(), edited(shift_bias)),
        Planted("missing_bias", "missing_bias", conv(), conv(bias=False)),
        Planted("zero_bias", "missing_bias", conv(), edited(zero_bias)),
        Planted("folded_without_bias", "missing_bias", norm_first, folded(conv_bias=False)),
        Planted("weights_fp16", "precision", conv(), edited(to_half)),
    )
