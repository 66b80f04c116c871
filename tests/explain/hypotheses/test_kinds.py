"""Kinds of faults that reports brought: each planted on either side of a small network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from causes import C, EitherSide, Planted, cause_of, op
from nets import Middle, Net, chain


def padded(mode: str = "constant", window: str = "") -> Middle:
    """A Pad before a convolution, or before a pool."""

    def build(net: Net, x: str) -> str:
        pads = net.constant("pads", [0, 0, 1, 1, 0, 0, 1, 1], np.int64)
        y = net.op("Pad", [x, pads], "padded", mode=mode)
        if window:
            return net.op(window, [y], "middle", kernel_shape=[3, 3])
        return net.conv(y, "middle", C, C, pads=[0] * 4)

    return build


def placed(reduction: str) -> Middle:
    """Rows with repeated places."""

    def build(net: Net, x: str) -> str:
        nothing = net.op("Mul", [x, net.constant("nil", 0.0)], "nothing")
        rows = np.tile(np.array([0, 0, 1, 3, 3, 5])[None, :, None, None], (1, 1, 12, 12))
        return net.op(
            "ScatterElements", [nothing, net.constant("rows", rows, np.int64), x], "middle", axis=1, reduction=reduction
        )

    return build


def recurrent(word: str, gates: int, states: tuple[str, ...] = (), **attributes: int) -> Middle:
    def build(net: Net, x: str) -> str:
        seq = net.op("Reshape", [x, net.constant("shape", [C, 12, 12], np.int64)], "seq")
        weights = [net.weight("W", 1, gates * 5, 12), net.weight("R", 1, gates * 5, 5), net.weight("B", 1, gates * 10)]
        inputs = [seq, *weights, "", *(net.weight(name, 1, 12, 5) for name in states)]
        return net.op(word, inputs, "middle", hidden_size=5, **attributes)

    return build


def sliced(constant: str, shape: tuple[int, ...], word: str) -> Middle:
    """A constant for each channel, where channels, height and width are alike."""

    def build(net: Net, x: str) -> str:
        ends = [net.constant(n, v, np.int64) for n, v in (("from", [0, 0]), ("to", [6, 6]), ("on", [2, 3]))]
        square = net.op("Slice", [x, *ends], "square")
        value = np.array([0.1, 0.9, -0.5, 0.3, 1.2, -0.2]).reshape(shape)
        return net.op(word, [square, net.constant(constant, value)], "middle")

    return build


def hard_swish(net: Net, x: str) -> str:
    shifted = net.op("Add", [x, net.constant("three", 3.0)], "shifted")
    clipped = net.op("Clip", [shifted, net.constant("low", 0.0), net.constant("high", 6.0)], "clipped")
    return net.op("Div", [net.op("Mul", [x, clipped], "product"), net.constant("six", 6.0)], "middle")


def silu(net: Net, x: str) -> str:
    return net.op("Mul", [x, net.op("Sigmoid", [x], "gate")], "middle")


def chosen(*names: str) -> Middle:
    def build(net: Net, x: str) -> str:
        values = {"x": x, "other": net.op("Tanh", [net.conv(x, "branch", C, C)], "other")}
        over = net.op("Greater", [x, net.constant("limit", 0.3)], "over")
        return net.op("Where", [over, *(values[name] for name in names)], "middle")

    return build


def deviation(less: float) -> Middle:
    def build(net: Net, x: str) -> str:
        axes = net.constant("axes", [2, 3], np.int64)
        apart = net.op("Sub", [x, net.op("ReduceMean", [x, axes], "mean", keepdims=1)], "apart")
        total = net.op("ReduceSum", [net.op("Mul", [apart, apart], "square"), axes], "total", keepdims=1)
        mean = net.op("Div", [total, net.constant("count", 144.0 - less)], "variance")
        return net.op("Sqrt", [mean], "middle")

    return build


class TestKinds(EitherSide):
    PLANTED = (
        Planted("reflected", "padding", padded("reflect"), lambda net, x: net.conv(x, "middle", C, C)),
        Planted("edge", "padding", padded("edge"), padded("reflect")),
        Planted(
            "zeros before a max pool",
            "padding",
            op("MaxPool", kernel_shape=[3, 3], pads=[1] * 4),
            padded(window="MaxPool"),
        ),
        Planted("scatter", "attribute", placed("add"), placed("none")),
        Planted("reset", "attribute", recurrent("GRU", 3, linear_before_reset=1), recurrent("GRU", 3)),
        Planted("cell", "attribute", recurrent("LSTM", 4, ("h0", "c0")), recurrent("LSTM", 4, ("h0",))),
        Planted("both states", "attribute", recurrent("LSTM", 4, ("h0", "c0")), recurrent("LSTM", 4)),
        Planted("slopes", "axis", sliced("slope", (6, 1, 1), "PRelu"), sliced("slope", (1, 6, 1), "PRelu")),
        Planted("term", "axis", sliced("term", (6, 1, 1), "Add"), sliced("term", (6,), "Add")),
        Planted("operands of Where", "operand_order", chosen("x", "other"), chosen("other", "x")),
        Planted("Bessel", "scale", deviation(1), deviation(0)),
        Planted("rounding", "attribute", op("Floor"), op("Round")),
        Planted("hard swish", "activation", hard_swish, silu),
        Planted("no part of it", "activation", hard_swish, op("Relu")),
    )


def opset(number: int, path: Path) -> Path:
    net = Net(0, number)
    y = net.op("Softmax", [net.conv("x", "stem", C, 3)], "middle", axis=1)
    return net.save(path, net.op("Mul", [y, net.constant("last", 0.5)], "y"))


def test_a_softmax_is_what_it_is_in_its_own_opset(tmp_path: Path, swapped: bool) -> None:
    paths = [opset(12, tmp_path / "a.onnx"), opset(13, tmp_path / "b.onnx")]
    cause = cause_of(*(paths[::-1] if swapped else paths))
    assert cause.kind == "axis"
    assert "all behind it" in cause.summary


def test_what_leaves_no_signal_explains_nothing(tmp_path: Path) -> None:
    reference = chain(op("Relu"), tmp_path / "a.onnx")
    candidate = chain(lambda net, x: net.op("Mul", [x, net.constant("nil", 0.0)], "middle"), tmp_path / "b.onnx")
    assert cause_of(reference, candidate).kind == "unexplained"
