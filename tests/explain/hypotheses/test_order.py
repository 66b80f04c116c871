"""The right values in the wrong place."""

from __future__ import annotations

from typing import Any

import numpy as np

from causes import C, FromRecordings, Planted, op
from nets import SIZE, Middle, Net

ORDERS = ([0, 1, 2, 3, 4, 5], [3, 1, 4, 0, 5, 2])


def two(word: str, order: tuple[int, int], **attributes: Any) -> Middle:
    """An operator of two operands, each of them computed."""

    def build(net: Net, x: str) -> str:
        parts = [net.conv(x, "left", C, C, kernel=1), net.conv(x, "right", C, C, kernel=1)]
        return net.op(word, [parts[k] for k in order], "middle", **attributes)

    return build


def gather(order: list[int]) -> Middle:
    return lambda net, x: net.op("Gather", [x, net.constant("order", order, np.int64)], "middle", axis=1)


def reversed_rows(net: Net, x: str) -> str:
    names = [net.constant(n, [v], np.int64) for n, v in (("s", -1), ("e", -(2**31)), ("a", 2), ("t", -1))]
    return net.op("Slice", [x, *names], "middle")


def reshaped(permutation: list[int] | None) -> Middle:
    """view(1, C, H*W) of a permuted tensor, with the copy or without."""

    def build(net: Net, x: str) -> str:
        y = net.op("Transpose", [x], "moved", perm=permutation) if permutation else x
        return net.op("Reshape", [y, net.constant("shape", [1, C, SIZE * SIZE], np.int64)], "middle")

    return build


class TestOrder(FromRecordings):
    PLANTED = (
        Planted("subtraction", "operand_order", two("Sub", (0, 1)), two("Sub", (1, 0))),
        Planted("concat", "operand_order", two("Concat", (0, 1), axis=1), two("Concat", (1, 0), axis=1)),
        Planted("contiguous", "layout", reshaped(None), reshaped([0, 1, 3, 2])),
        Planted("flip", "flip", op("Identity"), reversed_rows, recorded=True),
        Planted("channels", "channel_order", gather(ORDERS[0]), gather(ORDERS[1])),
    )
