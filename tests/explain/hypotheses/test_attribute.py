"""Any other attribute with another value."""

from __future__ import annotations

from causes import C, EitherSide, Planted, conv, op
from nets import Middle


def depth_to_space(mode: str) -> Middle:
    return lambda net, x: net.op("DepthToSpace", [net.conv(x, "up", 2 * C, C)], "middle", blocksize=2, mode=mode)


class TestAttribute(EitherSide):
    PLANTED = (
        Planted("dilation", "attribute", conv(), conv(dilations=[2, 2], pads=[2, 2, 2, 2])),
        Planted("elu", "attribute", op("Elu", alpha=1.0), op("Elu", alpha=0.5)),
        Planted("lrn", "attribute", op("LRN", size=3, alpha=0.5), op("LRN", size=5, alpha=0.5)),
        Planted("depth_to_space", "attribute", depth_to_space("DCR"), depth_to_space("CRD")),
    )
