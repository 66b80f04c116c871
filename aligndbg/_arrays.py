"""Arrays of any dtype as bytes: what the worker, the spill file and trace files share."""

from __future__ import annotations

from typing import Any

import numpy as np

from aligndbg._types import Array

__all__ = ["bytes_of", "dtype_of", "plain_dtype", "write_all"]


def plain_dtype(dtype: np.dtype[Any]) -> bool:
    """True for numbers, bools and ml_dtypes' types: bits of a fixed size, without references."""
    return dtype.kind in "biufc" or (dtype.kind == "V" and dtype.type is not np.void)


def bytes_of(array: Array) -> Array:
    """The bytes of `array` in C order, uint8 (n,): a view where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def write_all(file: Any, data: Array) -> None:
    """Writes every byte of `data` (uint8) to an unbuffered file, which may take less than it is given at a time."""
    view = memoryview(data.data)
    while view:
        view = view[file.write(view) :]


def dtype_of(name: str) -> np.dtype[Any]:
    """numpy's or ml_dtypes' dtype. Raises AttributeError for a name that neither knows."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found
