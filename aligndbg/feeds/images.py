"""An image file as a model input: resize, channel order, normalization, layout. Pillow is imported in the reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aligndbg.core.arrays import dtype_of
from aligndbg.core.errors import FeedError, MissingDependencyError, UsageError
from aligndbg.core.types import FLOAT_DTYPES, Array, TensorInfo

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGE_SUFFIXES", "ImageOptions", "load_image"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
CHANNELS = (1, 3, 4)
MOST_CLIPPED = 0.1  # share of pixels outside the quantization's range; over it, the normalization is missing


@dataclass(frozen=True)
class ImageOptions:
    """How an image becomes numbers: `(x - mean) * scale`, or `(x - mean) / std`, with x in 0..255.

    `mean`, `scale` and `std` hold one number or one a channel, in the order of `pixel_format`. `resize` is (H, W), by
    default the model's own. `keep_aspect_ratio` fits the image inside, centred, with `pad_value` (0..255) around it.
    `layout` ("nchw" or "nhwc") settles what the model's shape leaves open. Raises UsageError for a contradiction.
    """

    resize: tuple[int, int] | None = None
    keep_aspect_ratio: bool = False
    pad_value: float = 0.0
    pixel_format: str = "rgb"
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str = ""

    def __post_init__(self) -> None:
        if self.pixel_format not in ("rgb", "bgr"):
            raise UsageError(f"the pixel format {self.pixel_format!r} is unknown", hint="use rgb or bgr")
        if self.layout not in ("", "nchw", "nhwc"):
            raise UsageError(f"the input layout {self.layout!r} is unknown", hint="use nchw or nhwc")
        if self.scale and self.std:
            raise UsageError("both scale and std are given", hint="scale multiplies, std divides: give one of them")
        if any(value == 0 for value in self.std):
            raise UsageError("std holds a zero", hint="std divides every pixel")
        if self.resize is not None and min(self.resize) < 1:
            raise UsageError(f"cannot resize to {self.resize}", hint="--resize takes H,W of at least 1")
        if not 0 <= self.pad_value <= 255:
            raise UsageError(f"the pad value {self.pad_value} is not in 0..255", hint="it is set before mean and scale")


@dataclass(frozen=True)
class _Signature:
    """What a model's input shape says: where the channels are, how many, which H and W (None: dynamic)."""

    channels_last: bool
    channels: int
    size: tuple[int | None, int | None]
    batch: int | None  # None: no batch axis


def load_image(path: Path, info: TensorInfo, options: ImageOptions) -> Array:
    """The image at `path` as an array of `info`'s shape and dtype; a dynamic batch is 1, a larger one repeats it.

    Raises UsageError where the layout is ambiguous or an option does not fit, FeedError for an unreadable image or
    values the dtype cannot hold.
    """
    signature = _signature(info, options.layout)
    pixels = _read(path, signature.channels, lambda image: _fit(image, signature, options))
    if options.pixel_format == "bgr" and signature.channels >= 3:
        pixels = pixels[..., [2, 1, 0, 3][: signature.channels]]
    values = _to_dtype(_normalize(pixels, options), pixels, info, options, signature)
    if signature.batch is not None:
        values = np.repeat(values[None], signature.batch, axis=0)
    return np.ascontiguousarray(values)


def _signature(info: TensorInfo, layout: str) -> _Signature:
    shape = info.shape
    if shape is None or len(shape) not in (3, 4):
        raise UsageError(
            f"the input {info.name!r} of shape {shape} is not an image", hint="feed it an array: --input NAME=x.npy"
        )
    dims = [size if isinstance(size, int) else None for size in shape]
    batch = (dims[0] or 1) if len(dims) == 4 else None
    first, last = dims[-3], dims[-1]
    channels_last = _channels_last(info, first, last, layout)
    channels = last if channels_last else first
    if channels is not None and channels not in CHANNELS:
        raise UsageError(
            f"the input {info.name!r} of shape {shape} has {channels} channels as {layout.upper()}",
            hint="an image has 1, 3 or 4; try the other --input-layout",
        )
    size = (dims[-3], dims[-2]) if channels_last else (dims[-2], dims[-1])
    return _Signature(channels_last, channels or 3, size, batch)


def _channels_last(info: TensorInfo, first: int | None, last: int | None, layout: str) -> bool:
    if layout:
        return layout == "nhwc"
    if (first in CHANNELS) == (last in CHANNELS):
        raise UsageError(
            f"whether the input {info.name!r} of shape {info.shape} is NCHW or NHWC cannot be told",
            hint="say --input-layout nchw or nhwc",
        )
    return last in CHANNELS


def _read(path: Path, channels: int, fit: Callable[[Image.Image], Image.Image]) -> Array:
    """uint8 pixels (H, W, channels) of the upright, fitted image."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingDependencyError("images are read with Pillow", hint="pip install pillow") from None
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise FeedError(
                    f"its pixels ({image.mode}) are not 8-bit", context=str(path), hint="feed an array: --input x.npy"
                )
            upright = ImageOps.exif_transpose(image).convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
            pixels = np.asarray(fit(upright), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FeedError(f"the image cannot be read: {error}", context=str(path), hint="is the file whole?") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _fit(image: Image.Image, signature: _Signature, options: ImageOptions) -> Image.Image:
    """The image in the size that options or the model ask for."""
    from PIL import Image

    own = (image.height, image.width)
    height, width = options.resize or tuple(want or have for want, have in zip(signature.size, own, strict=True))
    if (height, width) == own:
        return image
    if not options.keep_aspect_ratio:
        return image.resize((width, height), Image.Resampling.BILINEAR)
    ratio = min(height / own[0], width / own[1])
    inner = (max(1, round(own[1] * ratio)), max(1, round(own[0] * ratio)))
    pad = round(options.pad_value)
    canvas = Image.new(image.mode, (width, height), pad if signature.channels == 1 else (pad,) * signature.channels)
    canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def _normalize(pixels: Array, options: ImageOptions) -> Array:
    channels = pixels.shape[-1]
    for name in ("mean", "scale", "std"):
        count = len(getattr(options, name))
        if count not in (0, 1, channels):
            raise UsageError(f"{name} has {count} values, the image {channels} channels", hint="give one or one each")
    values = pixels.astype(np.float32)
    if options.mean:
        values -= np.asarray(options.mean, np.float32)
    if options.scale:
        values *= np.asarray(options.scale, np.float32)
    if options.std:
        values /= np.asarray(options.std, np.float32)
    return values


def _to_dtype(values: Array, pixels: Array, info: TensorInfo, options: ImageOptions, signature: _Signature) -> Array:
    """The normalized pixels laid out (without batch) and in the input's dtype."""
    if not signature.channels_last:
        values, pixels = values.transpose(2, 0, 1), pixels.transpose(2, 0, 1)
    if info.dtype in FLOAT_DTYPES or not info.dtype:
        return values.astype(dtype_of(info.dtype or "float32"))
    normalized = bool(options.mean or options.scale or options.std)
    if info.dtype == "uint8" and info.quant is None and not normalized:
        return pixels
    if info.quant is not None:
        return _quantize(values, info, signature)
    dtype = np.dtype(info.dtype)
    whole = np.rint(values)
    if dtype.kind not in "iu" or whole.min() < np.iinfo(dtype).min or whole.max() > np.iinfo(dtype).max:
        raise FeedError(
            f"pixels from {values.min():g} to {values.max():g} do not fit the {info.dtype} input {info.name!r}",
            hint="set --mean and --scale for its range",
        )
    return whole.astype(dtype)


def _quantize(values: Array, info: TensorInfo, signature: _Signature) -> Array:
    assert info.quant is not None
    batched = values[None] if signature.batch is not None else values  # a per-channel axis counts the batch axis
    stored = info.quant.quantize(batched, np.dtype(info.dtype))
    apart = np.abs(info.quant.dequantize(stored) - batched)
    clipped = float(np.mean(apart > float(info.quant.scale.max())))
    if clipped > MOST_CLIPPED:
        raise FeedError(
            f"{clipped:.0%} of the pixels are outside what the {info.dtype} input {info.name!r} can hold",
            hint="set --mean and --scale or --std as the model was quantized for",
        )
    return stored[0] if signature.batch is not None else stored
