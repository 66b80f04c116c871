"""Where a convolution pads, and where a strided slice begins."""

from __future__ import annotations

import numpy as np

from causes import FromRecordings, Planted, conv
from nets import Middle, Net

SAME = [0, 0, 1, 1]
STRIDED = {"strides": [2, 2]}


def strided(starts: list[int]) -> Middle:
    def build(net: Net, x: str) -> str:
        values = (starts, [2**31, 2**31], [2, 3], [2, 2])
        names = [net.constant(n, v, np.int64) for n, v in zip(("starts", "ends", "axes", "steps"), values, strict=True)]
        return net.op("Slice", [x, *names], "middle")

    return build


class TestPadding(FromRecordings):
    PLANTED = (
        Planted("padding", "padding", conv(pads=SAME, **STRIDED), conv(pads=[1, 1, 1, 1], **STRIDED), recorded=True),
        Planted("auto_pad", "padding", conv(auto_pad="SAME_UPPER", **STRIDED), conv(pads=[1, 1, 1, 1], **STRIDED)),
        Planted("stride_offset", "stride_offset", strided([0, 0]), strided([1, 1])),
    )
