"""Did both sides get the same logical input, and if not, what was done."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from aligndbg.core.errors import FeedError
from aligndbg.core.types import Quant, TensorInfo
from aligndbg.feeds.difference import logical_difference
from aligndbg.feeds.translate import translate
from feed_cases import INT8, X, model, values

NHWC = TensorInfo("y", (1, 8, 6, 3), "float32")
FED = np.random.default_rng(5).uniform(0, 1, (1, 3, 8, 6)).astype(np.float32)


def difference(candidate: np.ndarray, info: TensorInfo = NHWC) -> list[Any]:
    plan = translate({"x": FED}, model(TensorInfo("x", FED.shape, "float32")), model(info))[0]
    return logical_difference({"x": FED}, {"y": candidate}, plan.links, None, {"y": info.quant})


def test_findings_name_the_cause() -> None:
    same = FED.transpose(0, 2, 3, 1)
    assert difference(same) == []
    (order,) = difference(same[..., ::-1])
    assert (order.kind, order.details["permutation"], order.details["axis"]) == ("input_channel_order", (2, 1, 0), 1)
    (scale,) = difference(same * np.float32(255) - np.float32(3))
    assert scale.kind == "input_normalization"
    assert (scale.details["scale"], scale.details["offset"]) == ([pytest.approx(255)], [pytest.approx(-3, abs=1e-3)])
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    (channels,) = difference((same - mean) / std)
    np.testing.assert_allclose(channels.details["scale"], 1 / std, rtol=1e-4)
    both = difference((same[..., ::-1] - mean) / std)
    assert [finding.kind for finding in both] == ["input_channel_order", "input_normalization"]
    (memory,) = difference(FED.reshape(1, 8, 6, 3))
    assert memory.kind == "layout"
    (flip,) = difference(same[:, :, ::-1])
    assert (flip.kind, flip.details["axis"]) == ("flip", 3)
    (other,) = difference(np.random.default_rng(3).uniform(0, 1, same.shape).astype(np.float32))
    assert other.kind == "unexplained"
    assert other.max_abs > 0.5
    (shape,) = difference(same[:, :4])
    assert shape.kind == "shape"
    assert difference(np.zeros_like(same))[0].kind == "unexplained"
    assert difference(np.full_like(same, 0.3))[0].kind == "unexplained"


def test_a_scalar_is_compared_too() -> None:
    left = right = model(TensorInfo("rate", (), "float32"))
    feeds = {"rate": np.array(16000, np.float32)}
    (plan,) = translate(feeds, left, right)
    assert plan.feeds["rate"].shape == ()
    assert logical_difference(feeds, plan.feeds, plan.links) == []
    (found,) = logical_difference(feeds, {"rate": np.array(8000, np.float32)}, plan.links)
    assert (found.kind, found.max_abs) == ("unexplained", 8000)


def test_swapped_height_and_width_is_a_layout_finding() -> None:
    x = values(1, 3, 6, 6)
    left, right = model(TensorInfo("x", x.shape, "float32")), model(TensorInfo("y", (1, 6, 6, 3), "float32"))
    plans = translate({"x": x}, left, right)
    (found,) = logical_difference({"x": x}, plans[1].feeds, plans[0].links)
    assert (found.kind, found.details["permutation"]) == ("layout", (0, 1, 3, 2))


def test_quantized_feeds_may_be_half_a_step_off_but_not_clipped() -> None:
    info = dataclasses.replace(NHWC, dtype="int8", quant=INT8)
    half = dataclasses.replace(NHWC, dtype="int8", quant=Quant(np.array([1 / 256], np.float32), np.array([0])))
    same = FED.transpose(0, 2, 3, 1)
    assert difference(INT8.quantize(same * np.float32(0.99), np.int8), info)[0].kind == "input_normalization"
    assert difference(INT8.quantize(same, np.int8), info) == []
    (clipped,) = difference(half.quant.quantize(same, np.int8), half)  # type: ignore[union-attr]
    assert clipped.kind == "saturation"
    assert clipped.details["share"] == pytest.approx(0.5, abs=0.15)


def test_nonfinite_feeds_agree_where_they_are_the_same() -> None:
    x = values(1, 3, 4, 5)
    x[0, 0, 0, :2] = np.nan, np.inf
    plan = translate({"x": x}, model(X), model(X))[0]
    assert logical_difference({"x": x}, plan.feeds, plan.links) == []
    with pytest.raises(FeedError, match="no feed for the input 'x'"):
        logical_difference({}, plan.feeds, plan.links)
