"""What the integers of quantized torch programs stand for: packed weights, and quantizing operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from aligndbg.core.types import Quant

__all__ = ["grid_of", "packed_weights"]


_TO_GRID, _FROM_GRID = "quantized_decomposed.quantize_", "quantized_decomposed.dequantize_"


def packed_weights(value: Any) -> Iterator[tuple[Any, Quant | None]]:
    """The weights in the packed objects among an operator's arguments: as stored, with their grid."""
    import torch

    if isinstance(value, list | tuple):
        for item in value:
            yield from packed_weights(item)
    elif isinstance(value, torch.ScriptObject) and value._has_method("unpack"):
        yield _stored(value.unpack()[0])
    elif isinstance(value, torch.ScriptObject) and value._has_method("__getstate__"):  # an LSTM's, which hold others
        yield from packed_weights(value.__getstate__())


def _stored(weight: Any) -> tuple[Any, Quant | None]:
    import torch

    if not weight.is_quantized:
        half = weight.to(torch.float16)
        return (half if torch.equal(half.to(weight.dtype), weight) else weight), None
    if weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return weight.int_repr(), _quant(weight.q_scale(), weight.q_zero_point(), None)
    scales, zeros = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
    return weight.int_repr(), _quant(scales, zeros, weight.q_per_channel_axis())


def grid_of(word: str, func: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[str, Quant] | None:
    """For an operator between floats and integers: whether it "makes" or "reads" them, and their grid."""
    side = "makes" if word.startswith(_TO_GRID) else "reads" if word.startswith(_FROM_GRID) else ""
    if not side:
        return None
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | dict(kwargs)
    scale = given.get("scale", given.get("scales"))
    zero = given.get("zero_point", given.get("zero_points"))
    axis = given.get("axis")
    if scale is None or ("channel" in word) != isinstance(axis, int) or "group" in word or "token" in word:
        return None
    return side, _quant(scale, 0 if zero is None else zero, axis)


def _quant(scale: Any, zero: Any, axis: int | None) -> Quant:
    import torch

    scales = torch.as_tensor(scale).detach().cpu().reshape(-1).to(torch.float32).numpy()
    zeros = torch.as_tensor(zero).detach().cpu().reshape(-1).to(torch.int64).numpy()
    return Quant(np.array(scales), np.broadcast_to(zeros, scales.shape).copy(), axis if scales.size > 1 else None)
