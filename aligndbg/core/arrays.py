"""Arrays of any dtype: their dtypes by name, from what users hand in, as bytes for pipes and files, and lazily."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from aligndbg.core.errors import FeedError, UsageError
from aligndbg.core.types import Array

__all__ = [
    "Lazy",
    "as_array",
    "bytes_of",
    "dtype_of",
    "in_order",
    "is_float_dtype",
    "numpy_dtype",
    "plain_dtype",
    "write_all",
]


def dtype_of(name: str) -> np.dtype[Any]:
    """numpy's or ml_dtypes' dtype. Raises AttributeError for a name that neither knows."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found


def numpy_dtype(name: str, tensor: str = "") -> np.dtype[Any]:
    """`dtype_of` for the input `tensor`. Raises UsageError for a kind that is no number ("string", ...)."""
    try:
        return dtype_of(name)
    except AttributeError:
        raise UsageError(f"the input {tensor!r} is of the kind {name!r}, which cannot be fed") from None


def is_float_dtype(dtype: Any) -> bool:
    """True for numpy's and ml_dtypes' floating-point dtypes."""
    dtype = np.dtype(dtype)
    return bool(dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")))


def plain_dtype(dtype: np.dtype[Any]) -> bool:
    """True for numbers, bools and ml_dtypes' types: bits of a fixed size, without references."""
    return dtype.kind in "biufc" or (dtype.kind == "V" and dtype.type is not np.void)


def as_array(value: Any) -> Array:
    """A numpy array from an array, a tensor of torch, or nested lists. Raises FeedError."""
    if hasattr(value, "detach"):  # a torch tensor, without importing torch
        value, kind = value.detach().cpu(), str(value.dtype).removeprefix("torch.")
        if kind == "bfloat16" or kind.startswith("float8"):  # numpy has no word for it; float32 holds it exactly
            return np.asarray(value.float()).astype(numpy_dtype(kind))
    try:
        return np.asarray(value)
    except ValueError as error:  # ragged lists
        raise FeedError(f"an input is no array: {error}", hint="pass numpy arrays") from None


def in_order(array: Any) -> Array:
    """The array in C order, copied only where it lies otherwise. numpy's ascontiguousarray makes a scalar of rank 1."""
    return np.asarray(array, order="C")


def bytes_of(array: Array) -> Array:
    """The bytes of `array` in C order, uint8 (n,): a view where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def write_all(file: Any, data: Array) -> None:
    """Writes every byte of `data` (uint8) to an unbuffered file, which may take less than it is given at a time."""
    view = memoryview(data.data)
    while view:
        view = view[file.write(view) :]


class Lazy(Mapping[Any, Array]):
    """Arrays made anew whenever they are read."""

    def __init__(self, makers: Mapping[Any, Callable[[], Array]]) -> None:
        self._makers = dict(makers)

    def but(self, names: Container[Any]) -> Lazy:
        """Without those of `names`."""
        return Lazy({name: make for name, make in self._makers.items() if name not in names})

    def over(self, others: Mapping[Any, Array]) -> Lazy:
        """With the others too, where they are not here."""
        return Lazy({name: partial(others.__getitem__, name) for name in others} | self._makers)

    def __getitem__(self, name: Any) -> Array:
        made: Array = self._makers[name]()
        return made

    def __contains__(self, name: object) -> bool:  # Mapping's own would make the array
        return name in self._makers

    def __iter__(self) -> Iterator[Any]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
