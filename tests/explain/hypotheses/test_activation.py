"""An activation that is missing, one too many, or another."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from causes import EitherSide, Planted, cause_of, op
from nets import Middle, Net, chain


def gelu(tanh: bool, curved: str = "Erf") -> Middle:
    def build(net: Net, x: str) -> str:
        scaled = net.op("Mul", [x, net.constant("two", 2.0)], "scaled")
        half, one = net.constant("half", 0.5), net.constant("one", 1.0)
        if tanh:
            cube = net.op("Pow", [scaled, net.constant("three", 3.0)], "cube")
            inside = net.op("Add", [scaled, net.op("Mul", [cube, net.constant("c", 0.044715)], "c3")], "inside")
            curve = net.op("Tanh", [net.op("Mul", [inside, net.constant("k", math.sqrt(2 / math.pi))], "ki")], "curve")
        else:
            inner = net.op("Mul", [scaled, net.constant("k", math.sqrt(0.5))], "ki")
            curve = net.op(curved, [inner], "curve") if curved else inner
        return net.op("Mul", [net.op("Mul", [scaled, half], "h"), net.op("Add", [curve, one], "s")], "middle")

    return build


class TestActivation(EitherSide):
    PLANTED = (
        Planted("relu6", "activation", op("Relu"), op("Sigmoid")),
        Planted("slope", "activation", op("LeakyRelu", alpha=0.1), op("LeakyRelu", alpha=0.27)),
        Planted("gelu", "approximation", gelu(tanh=False), gelu(tanh=True)),
        Planted("part", "activation", gelu(tanh=False), gelu(tanh=False, curved="Tanh")),
    )


ONE_WAY = (
    ("missing", "missing_activation", op("Relu"), op("Identity")),
    ("extra", "extra_activation", op("Identity"), op("Relu")),
    ("missing_tanh", "missing_activation", op("Tanh"), op("Identity")),
    ("missing_part", "missing_activation", gelu(tanh=False), gelu(tanh=False, curved="")),
)


@pytest.mark.parametrize(("name", "kind", "first", "second"), ONE_WAY, ids=[c[0] for c in ONE_WAY])
def test_what_one_side_lacks_the_other_has_too_much(
    tmp_path: Path, name: str, kind: str, first: Middle, second: Middle
) -> None:
    cause = cause_of(chain(first, tmp_path / "a.onnx"), chain(second, tmp_path / "b.onnx"))
    assert cause.kind == kind, cause.summary
