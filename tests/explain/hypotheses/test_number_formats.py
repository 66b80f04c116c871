"""Rounding, overflow, NaN and Inf."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from causes import C, EitherSide, Planted, cause_of, conv, edited
from nets import SIZE, Array, Middle, Net, chain


def half_precision(net: Net, x: str) -> str:
    net.op("Cast", [net.conv(x, "middle0", C, C)], "h", to=10)
    return net.op("Cast", ["h"], "middle", to=1)


def single(net: Net, x: str) -> str:
    return net.op("Identity", [net.conv(x, "middle0", C, C)], "middle")


def large(cast: bool) -> Middle:
    def build(net: Net, x: str) -> str:
        y = net.op("Mul", [x, net.constant("large", 6e4)], "grown")
        if not cast:
            return net.op("Identity", [y], "middle")
        return net.op("Cast", [net.op("Cast", [y], "h", to=10)], "middle", to=1)

    return build


def root(absolute: bool) -> Middle:
    """A square root, of negative values unless their sign is taken off first."""
    return lambda net, x: net.op("Sqrt", [net.op("Abs", [x], "size") if absolute else x], "middle")


def one_nan(weights: dict[str, Array]) -> None:
    weights["middle.w"][2, 0, 0, 0] = np.nan


def masked(huge: float) -> Middle:
    """Every other column masked."""

    def build(net: Net, x: str) -> str:
        where = net.constant("where", np.arange(SIZE) % 2 == 0, bool)
        hidden = net.op("Where", [where, net.constant("huge", huge), x], "hidden")
        return net.op("Identity", [hidden], "middle")

    return build


class TestNumberFormats(EitherSide):
    PLANTED = (
        Planted("result_fp16", "precision", single, half_precision),
        Planted("overflow", "overflow", large(False), large(True)),
        Planted("nan_begins", "nonfinite", root(absolute=True), root(absolute=False)),
        Planted("nan_weight", "nonfinite", conv(), edited(one_nan)),
        Planted("infinite_mask", "nonfinite", masked(-3.4e38), masked(-np.inf)),
    )


def test_where_nan_begins_is_said_with_its_side(tmp_path: Path, swapped: bool) -> None:
    paths = chain(root(absolute=True), tmp_path / "a.onnx"), chain(root(absolute=False), tmp_path / "b.onnx")
    cause = cause_of(*(paths[::-1] if swapped else paths))
    assert cause.details["on"] == ("reference" if swapped else "candidate")
    assert cause.details["inputs_finite"] is True
    assert cause.details["nan"] > 0
    assert cause.details["inf"] == 0
    assert "they begin here" in cause.summary


def test_a_mask_that_is_infinite_on_one_side_is_no_overflow(tmp_path: Path, swapped: bool) -> None:
    """Float32's lowest is past float16's range, too."""
    paths = chain(masked(-3.4e38), tmp_path / "a.onnx"), chain(masked(-np.inf), tmp_path / "b.onnx")
    cause = cause_of(*(paths[::-1] if swapped else paths))
    on, other = ("reference", "candidate") if swapped else ("candidate", "reference")
    assert f"the {on}'s mask is -inf where the {other}'s is -3.4e+38" in cause.summary
    assert "finite value" in cause.details["change"]


def lengths(epsilon: float) -> Middle:
    """Each column by its length and an epsilon; half the columns are zero."""

    def build(net: Net, x: str) -> str:
        where = net.constant("where", np.arange(SIZE) % 2 == 0, bool)
        some = net.op("Where", [where, net.constant("none", 0.0), x], "some")
        squares = net.op("Mul", [some, some], "squares")
        sums = net.op("ReduceSum", [squares, net.constant("axes", np.array([1, 2]), np.int64)], "sums")
        kept = net.op("Sqrt", [net.op("Add", [sums, net.constant("epsilon", epsilon)], "kept")], "length")
        return net.op("Div", [some, kept], "middle")

    return build


def test_a_lost_epsilon_is_told_as_what_it_does(tmp_path: Path, swapped: bool) -> None:
    """Isolated, the division is given the other side's length: it is explained as each side ran."""
    paths = chain(lengths(1e-12), tmp_path / "a.onnx"), chain(lengths(0.0), tmp_path / "b.onnx")
    cause = cause_of(*(paths[::-1] if swapped else paths))
    assert cause.kind == "nonfinite"
    other = "candidate" if swapped else "reference"
    assert f"a division by zero, where the {other} divides by 1e-06 at least" in cause.summary
