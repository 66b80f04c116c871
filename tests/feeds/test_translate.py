"""The candidate's feeds from the reference's: which input, which layout, which dtype."""

from __future__ import annotations

import numpy as np
import pytest

from aligndbg.core.errors import FeedError, UsageError
from aligndbg.core.types import Quant, TensorInfo
from aligndbg.feeds.random_inputs import random_inputs
from aligndbg.feeds.translate import translate
from feed_cases import INT8, UINT8, X, agree, model, values


def test_nchw_to_nhwc_with_h_and_w_swapped_as_a_later_plan() -> None:
    left, right = model(TensorInfo("x", (1, 3, 6, 6), "float32")), model(TensorInfo("y", (1, 6, 6, 3), "float32"))
    feeds = {"x": values(1, 3, 6, 6)}
    plans = translate(feeds, left, right)
    np.testing.assert_array_equal(plans[0].feeds["y"], feeds["x"].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(plans[1].feeds["y"], feeds["x"].transpose(0, 3, 2, 1))
    assert plans[0].ambiguous == ()
    assert all(agree(plan, feeds, left, right) == [] for plan in plans)


def test_equal_shapes_stay_and_all_equal_dimensions_are_ambiguous() -> None:
    left, right = model(TensorInfo("x", (1, 4, 4, 4), "float32")), model(TensorInfo("x", (1, 4, 4, 4), "float32"))
    feeds = {"x": values(1, 4, 4, 4)}
    plans = translate(feeds, left, right)
    np.testing.assert_array_equal(plans[0].feeds["x"], feeds["x"])
    usual = [plan.feeds["x"] for plan in plans[1:3]]
    assert any(np.array_equal(array, feeds["x"].transpose(0, 2, 3, 1)) for array in usual)
    assert plans[0].ambiguous == ("x",)
    assert len(plans) == 6


def test_squeezes_and_dynamic_dimensions() -> None:
    feeds = {"x": values(1, 1, 28, 30)}
    left = model(TensorInfo("x", (1, 1, 28, 30), "float32"))
    squeezed = translate(feeds, left, model(TensorInfo("y", (28, 30), "float32")))[0]
    np.testing.assert_array_equal(squeezed.feeds["y"], feeds["x"][0, 0])
    grown = translate(feeds, left, model(TensorInfo("y", (None, 30, 28), "float32")))[0]
    np.testing.assert_array_equal(grown.feeds["y"], feeds["x"][0].transpose(0, 2, 1))
    dynamic = translate(feeds, left, model(TensorInfo("y", (None, None, None, 1), "float32")))[0]
    np.testing.assert_array_equal(dynamic.feeds["y"], feeds["x"].transpose(0, 2, 3, 1))
    for plan in (squeezed, grown, dynamic):
        layout = plan.links[0].layout
        np.testing.assert_array_equal(layout.to_reference(plan.feeds["y"]), feeds["x"])


@pytest.mark.parametrize(
    ("dtype", "quant"),
    [("float16", None), ("float64", None), ("bfloat16", None), ("int8", INT8), ("uint8", UINT8)],
)  # fmt: skip
def test_dtypes_are_cast_or_quantized_and_back(dtype: str, quant: Quant | None) -> None:
    left, right = model(X), model(TensorInfo("x", (1, 4, 5, 3), dtype, quant))
    feeds = {"x": values(1, 3, 4, 5)}
    plan = translate(feeds, left, right)[0]
    assert plan.feeds["x"].dtype.name == dtype
    assert agree(plan, feeds, left, right) == []
    back = translate(dict(plan.feeds), right, left)[0]
    assert back.feeds["x"].dtype == np.float32
    np.testing.assert_allclose(back.feeds["x"], feeds["x"], atol=1e-2)


def test_integers_must_fit_exactly() -> None:
    feeds = {"ids": np.array([[1, 300]])}
    left = model(TensorInfo("ids", (1, 2), "int64"))
    assert translate(feeds, left, model(TensorInfo("ids", (1, 2), "int32")))[0].feeds["ids"].dtype == np.int32
    with pytest.raises(UsageError, match="the uint8 input 'ids' has no quantization"):
        translate(feeds, left, model(TensorInfo("ids", (1, 2), "uint8")))
    big = {"x": np.float32([1e6])}
    with pytest.raises(FeedError, match="1 values of the feed overflow the float16"):
        translate(big, model(TensorInfo("x", (1,), "float32")), model(TensorInfo("x", (1,), "float16")))


def test_inputs_are_paired_by_decorated_names_in_another_order() -> None:
    infos = [TensorInfo(name, (1, 8), "int64") for name in ("input_ids", "attention_mask", "token_type_ids")]
    names = ("serving_default_token_type_ids:0", "serving_default_input_ids:0", "serving_default_attention_mask:0")
    feeds = random_inputs(infos)
    plans = translate(feeds, model(*infos), model(*(TensorInfo(name, (1, 8), "int64") for name in names)))
    assert len(plans) == 1
    assert [link.reference for link in plans[0].links] == ["token_type_ids", "input_ids", "attention_mask"]


def test_same_shaped_inputs_without_names_give_every_pairing() -> None:
    left = [TensorInfo(name, (1, 7), "float32") for name in ("a", "b")]
    right = [TensorInfo(name, (1, 7), "float32") for name in ("args_0", "args_1")]
    feeds = random_inputs(left)
    plans = translate(feeds, model(*left), model(*right))
    found = [[link.reference for link in plan.links] for plan in plans]
    assert sorted(found) == [["a", "b"], ["b", "a"]]
    assert plans[0].ambiguous == ("args_0", "args_1")
    mapped = translate(feeds, model(*left), model(*right), {"a": "args_1"})
    assert [[link.reference for link in plan.links] for plan in mapped] == [["b", "a"]]


def test_shapes_tell_inputs_apart_and_unused_ones_are_told() -> None:
    left = [TensorInfo("a", (1, 3, 4, 5), "float32"), TensorInfo("b", (1, 9), "float32")]
    feeds = random_inputs(left)
    plan = translate(feeds, model(*left), model(TensorInfo("p", (1, 9), "float32")))[0]
    assert plan.links[0].reference == "b"
    assert plan.unused == ("a",)
    many = [TensorInfo(f"i{k}", (2,), "float32") for k in range(8)]
    assert (
        len(translate(random_inputs(many), model(*many), model(*(TensorInfo(c, (2,), "float32") for c in "abcdefgh"))))
        == 24
    )


def test_no_fit_names_both_signatures() -> None:
    with pytest.raises(UsageError, match=r"x: float32 \[1, 3, 4, 5\].*y: float32 \[1, 9\]") as caught:
        translate({"x": values(1, 3, 4, 5)}, model(X), model(TensorInfo("y", (1, 9), "float32")))
    assert "--candidate-input" in caught.value.hint
    with pytest.raises(UsageError, match="the candidate has no input 'z'"):
        translate({"x": values(1, 3, 4, 5)}, model(X), model(X), {"x": "z"})


def test_an_input_that_the_reference_lacks_is_named() -> None:
    left = model(TensorInfo("x", (1, 8), "float32"))
    scalar = TensorInfo("sr", (), "int64")
    with pytest.raises(UsageError, match="nothing that the reference is fed has the shape of 'sr'"):
        translate({"x": values(1, 8)}, left, model(TensorInfo("x", (1, 8), "float32"), scalar))
    twice = model(TensorInfo("a", (1, 8), "float32"), TensorInfo("b", None, "float32"))
    with pytest.raises(UsageError, match=r"b: float32 of any shape\): the candidate has 1 input more"):
        translate({"x": values(1, 8)}, left, twice)
