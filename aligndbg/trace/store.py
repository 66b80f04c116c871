"""Arrays by name, in memory and past a budget on disk."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from aligndbg.core.arrays import bytes_of, plain_dtype, write_all
from aligndbg.core.errors import UsageError
from aligndbg.core.types import Array

__all__ = ["Store"]

_ALIGN = 64  # where each spilled array starts: aligned for every dtype and for vector loads


class Store(Mapping[str, Array]):
    """Arrays by name, in the order they were put. Past `budget` bytes (None: no limit) they go to a temporary file.

    Reading gives a read-only array of the same dtype, shape and bits; a spilled one is mapped, not loaded, and
    stays valid after `close`. Other threads may read while one puts. The file has no name where the system allows it,
    so that nothing is left behind.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._budget = budget
        self._resident: dict[str, Array] = {}
        self._spilled: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}
        self._order: dict[str, None] = {}
        self._file: IO[bytes] | None = None
        self._end = 0
        self.resident_bytes = 0
        self.spilled_bytes = 0

    @property
    def nbytes(self) -> int:
        return self.resident_bytes + self.spilled_bytes

    def put(self, name: str, array: Array) -> None:
        """Keeps `array`, which belongs to the store from now on. Raises UsageError for a name already there."""
        if name in self._order:
            raise UsageError(f"{name!r} is in the store already")
        array = np.asarray(array)  # a numpy scalar has no view
        over = self._budget is not None and self.resident_bytes + array.nbytes > self._budget
        if over and array.nbytes and plain_dtype(array.dtype):
            self._spill(name, array)
        else:
            self._resident[name] = array
            self.resident_bytes += array.nbytes
        self._order[name] = None

    def _spill(self, name: str, array: Array) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="aligndbg-", buffering=0)  # noqa: SIM115 - see close()
            self._file.seek(self._end)
            write_all(self._file, bytes_of(array))
        except OSError as error:
            raise UsageError(
                f"no room to spill the {array.nbytes} bytes of {name!r} ({error.strerror})",
                context=tempfile.gettempdir(),
                hint="raise the memory limit, or point TMPDIR at a larger disk",
            ) from error
        self._spilled[name] = (self._end, array.dtype, array.shape)
        self._end += -(-array.nbytes // _ALIGN) * _ALIGN
        self.spilled_bytes += array.nbytes

    def __getitem__(self, name: str) -> Array:
        if name in self._resident:
            view = self._resident[name].view()
            view.flags.writeable = False
            return view
        offset, dtype, shape = self._spilled[name]
        assert self._file is not None
        # Not np.memmap, which moves the file's position: another thread may be writing.
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        size = math.prod(shape) * dtype.itemsize
        mapped = mmap.mmap(self._file.fileno(), offset - start + size, access=mmap.ACCESS_READ, offset=start)
        return np.frombuffer(mapped, np.uint8, size, offset - start).view(dtype).reshape(shape)

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the array
        return name in self._order

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def close(self) -> None:
        """Forgets every array and gives the disk space back."""
        self._resident, self._spilled, self._order = {}, {}, {}
        self.resident_bytes = self.spilled_bytes = self._end = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
