"""Images as inputs: normalized, laid out, resized, and refused where something is left open."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligndbg.core.errors import FeedError, UsageError
from aligndbg.core.types import Quant, TensorInfo
from aligndbg.feeds.files import load_inputs
from aligndbg.feeds.images import ImageOptions
from feed_cases import X


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
