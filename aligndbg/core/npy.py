""".npy and .npz files that anyone may have written: numpy's reader trusts them, this one does not.

It allocates no more than the file holds and the machine has, never unpickles, and has one error for all damage: a
ValueError whose text follows the name of the array ("is damaged").
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from aligndbg.core.types import Array

__all__ = ["damage", "npy_header", "read_npy"]

# What the parsers of the standard library and of numpy raise for damaged bytes.
_DAMAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError, MemoryError, RecursionError),
    *(SyntaxError, tokenize.TokenError, struct.error, NotImplementedError, RuntimeError, OSError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
_SURE = 64 << 20  # bytes that are there without asking how much memory is free


@contextmanager
def damage(fact: str) -> Iterator[None]:
    """Turns what damaged bytes make a parser raise into ValueError(fact)."""
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(fact) from error


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype) of the .npy that `file` is at. Raises ValueError."""
    with damage("has a damaged header"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own, of odd literals in a damaged header
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if version > (3, 0) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(version, shape)
    return shape, fortran, dtype


def read_npy(file: IO[bytes], size: int) -> Array:
    """The array of an .npy stream of `size` bytes in all. Raises ValueError, for Python objects too."""
    shape, fortran, dtype = npy_header(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are not read")
    nbytes = math.prod(shape) * dtype.itemsize
    if file.tell() + nbytes > size:
        raise ValueError("is cut short")
    if nbytes > _SURE and nbytes > _free_memory():
        raise ValueError(f"takes {nbytes} bytes, more than the memory that is free")
    with damage("is damaged"):
        data = np.empty(nbytes, np.uint8)
        view, filled = memoryview(data.data), 0
        while filled < nbytes:
            count = file.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            filled += count
        return np.ndarray(shape, dtype, data.data, order="F" if fortran else "C")


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
