"""Messages between a worker and its parent: length-prefixed pickles over two pipes, large arrays beside them.

An array of 64 KiB or more travels as a file of a private folder (in /dev/shm where there is room) that the receiver
maps and unlinks at once, so it is copied once and lives exactly as long as it is referenced.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
import shutil
import types
from typing import Any, BinaryIO

import numpy as np

from aligndbg.core.arrays import bytes_of, plain_dtype, write_all
from aligndbg.core.errors import ModelError
from aligndbg.core.types import Array

__all__ = ["Channel"]


SEGMENT_BYTES = 64 << 10  # smaller arrays are cheaper inside the pickle
SHM_RESERVE = 32 << 20  # what is left free in /dev/shm for everyone else (containers often have 64 MB in all)


class _Packer(pickle.Pickler):
    """Pickles messages, moving large arrays into files of the first folder that has room."""

    def __init__(self, buffer: io.BytesIO, channel: Channel) -> None:
        super().__init__(buffer, protocol=5)
        self._channel = channel

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray) and plain_dtype(obj.dtype):
            flat = bytes_of(obj)
            if flat.nbytes < SEGMENT_BYTES:
                return _from_buffer, (bytearray(flat), obj.dtype, obj.shape)
            return _from_segment, (self._channel.write_segment(flat), obj.dtype, obj.shape)
        if type(obj) is types.MappingProxyType:
            return dict, (dict(obj),)
        return NotImplemented


def _from_buffer(data: bytearray | mmap.mmap, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    return np.frombuffer(data, np.uint8).view(dtype).reshape(shape)


def _from_segment(path: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    with open(path, "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    with contextlib.suppress(PermissionError):  # Windows keeps a mapped file; the folder goes with the worker
        os.unlink(path)
    return _from_buffer(mapped, dtype, shape)


class Channel:
    """One end of the conversation. `folders` are where segments may be written, best first; the last is on disk.

    `to_disk`: they go there at once, so that who receives them need not hold them in memory.
    """

    def __init__(self, reader: BinaryIO, writer: BinaryIO, side: str) -> None:
        self._reader, self._writer, self._side = reader, writer, side
        self._count = 0
        self.folders: tuple[str, ...] = ()
        self.to_disk = False

    def send(self, *message: Any) -> None:
        buffer = io.BytesIO(bytes(8))
        buffer.seek(8)
        _Packer(buffer, self).dump(message)
        data = buffer.getbuffer()
        data[:8] = (len(data) - 8).to_bytes(8, "little")
        self._writer.write(data)
        self._writer.flush()

    def receive(self) -> tuple[Any, ...]:
        """The next message; EOFError when the other side is gone."""
        size = int.from_bytes(self._read(8), "little")
        message: tuple[Any, ...] = pickle.loads(self._read(size))
        return message

    def _read(self, size: int) -> bytes:
        data = self._reader.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def write_segment(self, flat: Array) -> str:
        """Puts bytes (uint8, 1-d) in a new file, by write() and not mmap: a full disk is then an error, not SIGBUS."""
        self._count += 1
        for folder in self.folders:
            last = folder == self.folders[-1]
            if not last and (self.to_disk or shutil.disk_usage(folder).free < flat.nbytes + SHM_RESERVE):
                continue
            path = os.path.join(folder, f"{self._side}{self._count}")
            try:
                with open(path, "xb", buffering=0) as file:
                    write_all(file, flat)
                return path
            except OSError as error:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                if last:
                    raise ModelError(
                        f"no room to pass an array of {flat.nbytes} bytes between processes ({error.strerror})",
                        context=folder,
                        hint="free some space there, or point TMPDIR at a larger disk",
                    ) from error
        raise AssertionError("a channel has at least one folder")
