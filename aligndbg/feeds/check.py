"""One array against one input's signature."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from aligndbg.core.arrays import is_float_dtype, numpy_dtype
from aligndbg.core.errors import FeedError
from aligndbg.core.types import Array, TensorInfo

__all__ = ["check_feed"]


def check_feed(info: TensorInfo, array: Array, allow_nonfinite: bool = False) -> tuple[Array, str]:
    """The array as the input takes it (contiguous, its dtype) and a note of what was converted, or "".

    float64 is rounded to float32; other casts must be exact and of the same kind. Raises FeedError for another rank,
    dimension or kind, and for NaN or Inf.
    """
    _check_shape(info, array)
    cast, note = _cast(info, np.asarray(array))
    if is_float_dtype(cast.dtype) and not allow_nonfinite:
        bad = ~np.isfinite(cast.astype(np.float32) if cast.dtype.kind == "V" else cast)
        if bad.any():
            where = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
            raise FeedError(
                f"the input {info.name!r} has {np.count_nonzero(bad)} NaN or Inf, the first at {where}",
                hint="--allow-nonfinite feeds it as it is",
            )
    return np.ascontiguousarray(cast).reshape(cast.shape), note


def _check_shape(info: TensorInfo, array: Array) -> None:
    if info.shape is None:
        return
    fits = len(info.shape) == array.ndim and all(
        not isinstance(want, int) or want == have for want, have in zip(info.shape, array.shape, strict=True)
    )
    if not fits:
        raise FeedError(
            f"the input {info.name!r} is {_shape_text(info.shape)}, the array is {_shape_text(array.shape)}",
            hint="the array must be in the model's own layout",
        )


def _cast(info: TensorInfo, array: Array) -> tuple[Array, str]:
    if not info.dtype or array.dtype.name == info.dtype:
        return array, ""
    want = numpy_dtype(info.dtype, info.name)
    if array.dtype.kind == "V" and array.dtype.names is None and array.dtype.itemsize == want.itemsize:
        return array.view(want), ""  # numpy's files keep the bits of bfloat16 and fp8, not their name
    kinds = {_kind(array.dtype), _kind(want)}
    with np.errstate(all="ignore"):
        cast = array.astype(want) if len(kinds) == 1 and "other" not in kinds else None
        exact = cast is not None and bool(np.array_equal(cast.astype(array.dtype), array, equal_nan=kinds == {"float"}))
    note = f"the input {info.name!r} was given as {array.dtype} and is fed as {info.dtype}"
    if cast is not None and exact:
        return cast, note
    if cast is not None and (array.dtype.name, info.dtype) == ("float64", "float32"):
        if np.array_equal(np.isfinite(cast), np.isfinite(array)):
            return cast, f"{note}, rounded"
        raise FeedError(f"the input {info.name!r} has values beyond float32", hint="scale them, or feed float32")
    hint = f"convert it to {info.dtype}"
    if info.quant is not None and is_float_dtype(array.dtype):
        hint += f": round(x / {info.quant.scale.flat[0]:g}) + {info.quant.zero_point.flat[0]}"
    raise FeedError(f"the input {info.name!r} takes {info.dtype}, the array is {array.dtype}", hint=hint)


def _kind(dtype: np.dtype[Any]) -> str:
    if is_float_dtype(dtype):
        return "float"
    return "int" if dtype.kind in "iu" else "other"


def _shape_text(shape: Iterable[int | str | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "a scalar"
