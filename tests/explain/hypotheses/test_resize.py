"""How a resize picks its source."""

from __future__ import annotations

from typing import Any

import numpy as np

from causes import C, FromRecordings, Planted
from nets import SIZE, Middle, Net


def resize(**attributes: Any) -> Middle:
    def build(net: Net, x: str) -> str:
        sizes = net.constant("sizes", [1, C, 2 * SIZE, 2 * SIZE], np.int64)
        return net.op("Resize", [x, "", "", sizes], "middle", **attributes)

    return build


class TestResize(FromRecordings):
    PLANTED = (
        Planted(
            "half_pixel",
            "resize_mode",
            resize(mode="linear"),
            resize(mode="linear", coordinate_transformation_mode="align_corners"),
        ),
        Planted("nearest", "resize_mode", resize(mode="nearest"), resize(mode="nearest", nearest_mode="ceil")),
        Planted("cubic", "resize_mode", resize(mode="cubic"), resize(mode="cubic", cubic_coeff_a=-0.5), recorded=True),
    )
