"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from aligndbg.core.errors import UsageError

__all__ = ["replacing", "write_bytes", "write_text"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file under a temporary name beside `path`, renamed to it when the block ends, removed when it fails.

    A link is followed; what is there and is no regular file (/dev/stdout, a pipe) is written directly. Raises
    UsageError for a place that cannot be written, and for a disk that fills up.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            with open(target, "wb") as file:
                yield file
            return
        handle, part = tempfile.mkstemp(dir=target.parent, prefix=".aligndbg-", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            os.chmod(part, 0o666 & ~_umask())
            os.replace(part, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
            raise
    except OSError as error:
        hint = "choose a folder that exists, with room and permission to write"
        raise UsageError(f"cannot write: {error.strerror or error}", context=os.fspath(path), hint=hint) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes all of it or nothing: a reader never sees half a file. Raises UsageError."""
    with replacing(path) as file:
        file.write(data)
