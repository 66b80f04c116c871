"""Which pooling."""

from __future__ import annotations

from causes import FromRecordings, Planted, op


class TestPooling(FromRecordings):
    PLANTED = (
        Planted(
            "count_include_pad",
            "pool_mode",
            op("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            op("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
            recorded=True,
        ),
        Planted("pool", "pool_mode", op("MaxPool", kernel_shape=[2, 2]), op("AveragePool", kernel_shape=[2, 2])),
    )
