"""The epsilon of a normalization."""

from __future__ import annotations

from typing import Any

from causes import C, FromRecordings, Planted
from nets import Middle, Net


def norm(**attributes: Any) -> Middle:
    def build(net: Net, x: str) -> str:
        inputs = [
            x,
            *(net.weight(f"bn.{p}", C) for p in ("scale", "shift", "mean")),
            net.weight("bn.var", C, low=0.001, high=0.02),
        ]
        return net.op("BatchNormalization", inputs, "middle", **attributes)

    return build


class TestEpsilon(FromRecordings):
    PLANTED = (
        Planted("epsilon", "epsilon", norm(epsilon=1e-3), norm(epsilon=1e-5), recorded=True),
        Planted("odd_epsilon", "epsilon", norm(epsilon=1e-5), norm(epsilon=0.0123)),
    )
