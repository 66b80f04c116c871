"""One array against one input's signature."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from aligndbg.core.errors import FeedError, UsageError
from aligndbg.core.types import Quant, TensorInfo
from aligndbg.feeds.check import check_feed
from feed_cases import X


@pytest.mark.parametrize(
    ("info", "array", "message"),
    [
        (X, np.zeros((1, 4, 5, 3), np.float32), "is 1x3x4x5, the array is 1x4x5x3"),
        (X, np.zeros((3, 4, 5), np.float32), "the array is 3x4x5"),
        (X, np.zeros((1, 3, 4, 5), np.uint8), "takes float32, the array is uint8"),
        (TensorInfo("i", (1,), "int32"), np.array([2**40]), "takes int32"),
        (TensorInfo("i", (1,), "int32"), np.array([0.5]), "takes int32"),
        (TensorInfo("h", (1,), "float16"), np.float32([0.1]), "takes float16"),
        (TensorInfo("f", (1,), "float32"), np.array([1e300]), "beyond float32"),
        (TensorInfo("f", (2, 2), "float32"), np.float32([[1, 2], [np.nan, np.inf]]), r"2 NaN or Inf, .* at \(1, 0\)"),
        (TensorInfo("s", (1,), "string"), np.array(["a"]), "cannot be fed"),
    ],
)  # fmt: skip
def test_check_feed_refuses(info: TensorInfo, array: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_feed(info, array)


def test_check_feed_hints_how_to_quantize() -> None:
    info = TensorInfo("q", (1,), "int8", Quant(np.array([0.5], np.float32), np.array([3])))
    with pytest.raises(FeedError, match=r"round\(x / 0.5\) \+ 3"):
        check_feed(info, np.float32([1]))


def test_check_feed_lets_nonfinite_through_when_asked_and_keeps_scalars() -> None:
    bad = np.array([1, np.nan], ml_dtypes.bfloat16)
    info = TensorInfo("b", (None,), "bfloat16")
    with pytest.raises(FeedError, match="1 NaN"):
        check_feed(info, bad)
    assert check_feed(info, bad, allow_nonfinite=True)[0] is not None
    assert check_feed(TensorInfo("s", (), "float32"), np.array(1.5))[0].shape == ()
