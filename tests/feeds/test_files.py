"""feeds: what users hand in, what is made at random, and what the other side is fed with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aligndbg.core.errors import FeedError, UsageError
from aligndbg.core.types import Graph, Quant, TensorInfo
from aligndbg.feeds.check import check_feed
from aligndbg.feeds.difference import logical_difference
from aligndbg.feeds.files import load_inputs
from aligndbg.feeds.images import ImageOptions
from aligndbg.feeds.random_inputs import parse_ranges, parse_shapes, random_inputs, resolve_shapes
from aligndbg.feeds.translate import FeedPlan, translate

RNG = np.random.default_rng(3)
X = TensorInfo("x", (1, 3, 4, 5), "float32")
INT8 = Quant(np.array([1 / 128], np.float32), np.array([0]))
UINT8 = Quant(np.array([1 / 64], np.float32), np.array([64]))


def model(*infos: TensorInfo) -> Graph:
    return Graph(tensors={info.name: info for info in infos}, inputs=tuple(info.name for info in infos))


def values(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.9, 0.9, shape).astype(np.float32)


# --- files --------------------------------------------------------------------------------------------------------


def test_npz_by_name_npy_by_name_and_the_remaining_one(tmp_path: Path) -> None:
    a, b, c = TensorInfo("a", (2,), "float32"), TensorInfo("b=:0", (2,), "int32"), TensorInfo("c", (2,), "float32")
    np.savez(tmp_path / "a.npz", a=np.float32([1, 2]))
    np.save(tmp_path / "b.npy", np.int64([3, 4]))
    np.save(tmp_path / "c=1.npy", np.float64([0.1, 2]))
    notes: list[str] = []
    specs = [str(tmp_path / "c=1.npy"), str(tmp_path / "a.npz"), f"b=:0={tmp_path / 'b.npy'}"]
    feeds = load_inputs(specs, [a, b, c], notes=notes)
    assert {name: (x.dtype.name, x.tolist()) for name, x in feeds.items()} == {
        "a": ("float32", [1, 2]),
        "b=:0": ("int32", [3, 4]),
        "c": ("float32", [np.float32(0.1), 2]),
    }
    assert [note.split(" was ")[0] for note in notes] == ["the input 'b=:0'", "the input 'c'"]


def test_a_single_array_goes_to_a_single_input_under_any_name(tmp_path: Path) -> None:
    x = values(1, 3, 4, 5)
    np.savez(tmp_path / "x.npz", whatever=x)
    np.testing.assert_array_equal(load_inputs([str(tmp_path / "x.npz")], [X])["x"], x)


def test_bfloat16_survives_numpys_files(tmp_path: Path) -> None:
    x = values(4).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "x.npy", x)
    loaded = load_inputs([str(tmp_path / "x.npy")], [TensorInfo("x", (4,), "bfloat16")])["x"]
    assert loaded.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(loaded.view(np.uint16), x.view(np.uint16))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["missing.npy"], "there is no such file"),
        (["y=a.npy"], "no input 'y'"),
        (["a.npy"], "cannot be told"),
        (["x=a.npy", "x=a.npy"], "given twice"),
        (["x=a.npy"], "no value is given for the input 'mask'"),
        (["other.npz"], "no input 'msk'"),
        (["x=broken.npy", "mask=a.npy"], "cannot be read"),
        (["x=broken.npz"], "cannot be read"),
        (["x=pickled.npy"], "cannot be read"),
        (["x=notes.txt"], "the kind of input file .txt is unknown"),
        (["x=broken.png"], "the image cannot be read"),
        ([], "no input is given"),
    ],
)
def test_bad_files_are_usage_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, specs: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.zeros((1, 3, 4, 5), np.float32))
    np.savez("other.npz", x=np.zeros((1, 3, 4, 5), np.float32), msk=np.zeros(1))
    np.save("pickled.npy", np.array([{}], object), allow_pickle=True)
    for name in ("broken.npy", "broken.npz", "broken.png", "notes.txt"):
        Path(name).write_bytes(b"PK\x03\x04 not what it says")
    with pytest.raises(UsageError, match=message):
        load_inputs(specs, [X, TensorInfo("mask", (1,), "int64")])


# --- checks -------------------------------------------------------------------------------------------------------


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


# --- images -------------------------------------------------------------------------------------------------------


def picture(path: Path, height: int = 6, width: int = 5, **save: Any) -> np.ndarray:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **save)
    return pixels


def test_an_image_is_normalized_and_laid_out_by_the_model(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "p.png").astype(np.float32)
    spec = [str(tmp_path / "p.png")]
    options = ImageOptions(pixel_format="bgr", mean=(1, 2, 3), std=(2, 4, 8))
    expected = (pixels[..., ::-1] - np.float32([1, 2, 3])) / np.float32([2, 4, 8])
    nchw = load_inputs(spec, [TensorInfo("x", (1, 3, 6, 5), "float32")], options)["x"]
    np.testing.assert_allclose(nchw, expected.transpose(2, 0, 1)[None], rtol=1e-6)
    nhwc = load_inputs(spec, [TensorInfo("x", (None, 6, 5, 3), "float32")], options)["x"]
    np.testing.assert_array_equal(nhwc, nchw.transpose(0, 2, 3, 1))
    scaled = load_inputs(spec, [TensorInfo("x", (2, 6, 5, 3), "float16")], ImageOptions(scale=(0.5,)))["x"]
    np.testing.assert_array_equal(scaled, np.stack([pixels * 0.5] * 2).astype(np.float16))


def test_integer_image_inputs(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "p.png")
    spec = [str(tmp_path / "p.png")]
    info = TensorInfo("x", (1, 6, 5, 3), "uint8")
    np.testing.assert_array_equal(load_inputs(spec, [info])["x"], pixels[None])
    quantized = dataclasses.replace(info, dtype="int8", quant=Quant(np.array([1 / 255], np.float32), np.array([-128])))
    got = load_inputs(spec, [quantized], ImageOptions(scale=(1 / 255,)))["x"]
    np.testing.assert_array_equal(got, (pixels.astype(int) - 128).astype(np.int8)[None])
    with pytest.raises(FeedError, match="% of the pixels are outside"):
        load_inputs(spec, [quantized])
    with pytest.raises(FeedError, match="do not fit the int8 input"):
        load_inputs(spec, [dataclasses.replace(info, dtype="int8")])


def test_resize_letterbox_and_grayscale(tmp_path: Path) -> None:
    Image.new("L", (8, 4), 200).save(tmp_path / "g.png")
    spec = [str(tmp_path / "g.png")]
    square = TensorInfo("x", (1, 1, 8, 8), "float32")
    options = ImageOptions(keep_aspect_ratio=True, pad_value=7)
    expected = np.full((8, 8), 7.0)
    expected[2:6] = 200
    with pytest.raises(UsageError, match="NCHW or NHWC cannot be told"):
        load_inputs(spec, [dataclasses.replace(square, shape=(1, 3, 8, 4))], options)
    np.testing.assert_array_equal(load_inputs(spec, [square], options)["x"][0, 0], expected)
    stretched = load_inputs(spec, [dataclasses.replace(square, shape=(1, 3, 8, 8))])["x"]
    np.testing.assert_array_equal(stretched, np.full((1, 3, 8, 8), 200.0))
    dynamic = TensorInfo("x", ("n", 3, "h", "w"), "float32")
    assert load_inputs(spec, [dynamic])["x"].shape == (1, 3, 4, 8)
    assert load_inputs(spec, [dynamic], ImageOptions(resize=(6, 2)))["x"].shape == (1, 3, 6, 2)
    with pytest.raises(FeedError, match="is 1x1x8x8, the array is 1x1x6x2"):
        load_inputs(spec, [square], ImageOptions(resize=(6, 2)))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees
    pixels = picture(tmp_path / "p.png", exif=exif)
    got = load_inputs([str(tmp_path / "p.png")], [TensorInfo("x", (1, 5, 6, 3), "uint8")])["x"]
    np.testing.assert_array_equal(got[0], np.rot90(pixels, -1))


def test_ambiguous_layout_wants_to_be_told(tmp_path: Path) -> None:
    picture(tmp_path / "p.png", 3, 3)
    info = TensorInfo("x", (1, 3, 3, 3), "uint8")
    with pytest.raises(UsageError, match="--input-layout"):
        load_inputs([str(tmp_path / "p.png")], [info])
    first = load_inputs([str(tmp_path / "p.png")], [info], ImageOptions(layout="nchw"))["x"]
    last = load_inputs([str(tmp_path / "p.png")], [info], ImageOptions(layout="nhwc"))["x"]
    np.testing.assert_array_equal(first.transpose(0, 2, 3, 1), last)


def test_images_that_do_not_fit(tmp_path: Path) -> None:
    picture(tmp_path / "p.png")
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(FeedError, match="not 8-bit"):
        load_inputs([str(tmp_path / "deep.png")], [X])
    with pytest.raises(UsageError, match="is not an image"):
        load_inputs([str(tmp_path / "p.png")], [TensorInfo("ids", (1, 128), "int64")])
    with pytest.raises(UsageError, match="mean has 2 values"):
        load_inputs([str(tmp_path / "p.png")], [X], ImageOptions(mean=(1, 2)))


@pytest.mark.parametrize(
    "options",
    [{"pixel_format": "yuv"}, {"scale": (1,), "std": (1,)}, {"std": (0,)}, {"resize": (0, 4)}, {"pad_value": 300}],
)
def test_contradicting_image_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ImageOptions(**options)


# --- random -------------------------------------------------------------------------------------------------------


def test_random_inputs_depend_on_seed_and_name_only() -> None:
    infos = [X, TensorInfo("ids", (2, 9), "int64"), TensorInfo("m", (9,), "bool"), TensorInfo("u", (9,), "uint8"),
             TensorInfo("h", (9,), "bfloat16"), TensorInfo("q", (50,), "int8", INT8)]  # fmt: skip
    one, other = random_inputs(infos, seed=1), random_inputs(infos[::-1], seed=1)
    for info in infos:
        array = one[info.name]
        assert array.dtype.name == info.dtype
        assert array.shape == info.shape
        np.testing.assert_array_equal(array, other[info.name])
        assert len(np.unique(array.astype(np.float64))) > 1
    assert 0 <= one["x"].min() < 0.2 < 0.8 < one["x"].max() < 1
    assert set(one["ids"].ravel()) == {0, 1}
    assert one["q"].min() < -60
    assert one["q"].max() > 60
    assert (random_inputs([X], seed=2)["x"] != one["x"]).any()


@given(st.integers(0, 1000), st.sampled_from(["int64", "bool", "float32", "uint8"]), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_random_inputs_are_never_constant_or_zero(seed: int, dtype: str, size: int) -> None:
    array = random_inputs([TensorInfo("t", (size,), dtype)], seed=seed)["t"]
    assert array.any()
    assert size == 1 or len(np.unique(array)) > 1


def test_random_ranges() -> None:
    ids = TensorInfo("ids", (500,), "int32")
    got = random_inputs([X, ids], val_range={"": (-2, -1), "ids": (5, 9)})
    assert -2 <= got["x"].min() <= got["x"].max() < -1
    assert set(got["ids"]) == {5, 6, 7, 8, 9}
    normal = random_inputs([TensorInfo("x", (4000,), "float32")], distribution="normal", val_range=(0, 6))["x"]
    assert (normal.mean(), normal.std()) == pytest.approx((3, 1), abs=0.1)
    with pytest.raises(UsageError, match="holds no int32"):
        random_inputs([ids], val_range=(0.2, 0.8))
    with pytest.raises(UsageError, match="no input 'idz'"):
        random_inputs([ids], val_range={"idz": (0, 1)})
    with pytest.raises(UsageError, match="no random values"):
        random_inputs([TensorInfo("c", (1,), "complex64")])


def test_dynamic_shapes() -> None:
    a, b = TensorInfo("a", ("batch", "seq"), "int64"), TensorInfo("b", ("batch", "seq", 4), "float32")
    assert resolve_shapes([a, b], {"a": (2, 7)}) == {"a": (2, 7), "b": (2, 7, 4)}
    with pytest.raises(UsageError, match=r"dimension 1 \(seq\) of the input 'a'.*\n.*--shape a=NxN"):
        resolve_shapes([a, b])
    with pytest.raises(UsageError, match=r"--shape gives 3 where the input 'b' has batch = 2"):
        resolve_shapes([a, b], {"a": (2, 7), "b": (3, 7, 4)})
    with pytest.raises(UsageError, match="no input 'c'"):
        resolve_shapes([a], {"c": (1,)})
    notes: list[str] = []
    assert resolve_shapes([TensorInfo("x", (None, 3), "float32")], notes=notes) == {"x": (1, 3)}
    assert "taken as 1" in notes[0]
    hint = TensorInfo("serving_default_x:0", (1, 6, 8, 3), "float32")
    assert resolve_shapes([TensorInfo("x", (None, 3, None, None))], hints=[hint]) == {"x": (1, 3, 6, 8)}


def test_options_are_parsed_or_refused() -> None:
    assert parse_shapes(["x=1x3x4x5"], [X]) == parse_shapes(["1,3,4,5"], [X]) == {"x": (1, 3, 4, 5)}
    assert parse_ranges(["-1,1", "x=0,255"], [X]) == {"": (-1, 1), "x": (0, 255)}
    for specs in (["y=1x2"], ["x=axb"], ["x="]):
        with pytest.raises(UsageError):
            parse_shapes(specs, [X])
    for specs in (["1"], ["2,1"], ["y=0,1"], ["0,nan"]):
        with pytest.raises(UsageError):
            parse_ranges(specs, [X])


# --- translation --------------------------------------------------------------------------------------------------


def agree(plan: FeedPlan, feeds: dict[str, np.ndarray], left: Graph, right: Graph) -> list[Any]:
    quants = ({name: graph.tensors[name].quant for name in graph.inputs} for graph in (left, right))
    return logical_difference(feeds, plan.feeds, plan.links, *quants)


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


# --- did both get the same? ---------------------------------------------------------------------------------------

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
    (other,) = difference(RNG.uniform(0, 1, same.shape).astype(np.float32))
    assert other.kind == "unexplained"
    assert other.max_abs > 0.5
    (shape,) = difference(same[:, :4])
    assert shape.kind == "shape"
    assert difference(np.zeros_like(same))[0].kind == "unexplained"
    assert difference(np.full_like(same, 0.3))[0].kind == "unexplained"


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
