"""What the command line writes: safe lines, and files, of which is checked beforehand that they can be written."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aligndbg.core.errors import AligndbgError

__all__ = ["check_files", "check_folders", "complain", "say"]


def complain(error: AligndbgError) -> None:
    """The error on stderr, one line a part: a name from a model can neither end a line nor move the cursor."""
    context, fact, hint = (_printable(text).replace("\n", "\\n") for text in (error.context, error.fact, error.hint))
    print(f"aligndbg: error: {f'{context}: ' if context else ''}{fact}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)


def say(text: str) -> None:
    """One line on stdout; whether anyone reads it changes no result."""
    try:
        print(_printable(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _printable(text: str) -> str:
    """Names from a model may hold control characters; line breaks are ours."""
    return "".join(ch if ch.isprintable() or ch == "\n" else f"\\x{ord(ch):02x}" for ch in text)


def check_files(paths: Sequence[str | None], models: Sequence[str]) -> None:
    """Raises UsageError before a long run whose result could not be written, or would overwrite what it is made of."""
    from aligndbg.core.errors import UsageError

    given = [path for path in paths if path]
    for path in given:
        folder = os.path.dirname(os.path.realpath(path))
        if os.path.isdir(path) or not os.path.isdir(folder):
            fact = "it is a folder" if os.path.isdir(path) else f"there is no folder {folder}"
            raise UsageError(f"cannot write: {fact}", context=path, hint="give a file in a folder that exists")
        if not os.access(folder, os.W_OK) and not (os.path.exists(path) and os.access(path, os.W_OK)):
            raise UsageError(f"cannot write into {folder}", context=path, hint="give a folder you may write to")
        if any(os.path.exists(m) and os.path.exists(path) and os.path.samefile(m, path) for m in models):
            raise UsageError("it is one of the models", context=path, hint="write the output elsewhere")
    if len({os.path.realpath(path) for path in given}) < len(given):
        raise UsageError("two outputs have the same name", context=given[0], hint="give each its own file")


def check_folders(folders: Sequence[str | None]) -> None:
    """Raises UsageError for a folder that cannot be made or written into."""
    from aligndbg.core.errors import UsageError

    for folder in filter(None, folders):
        above = os.path.realpath(folder)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not os.path.isdir(above) or not os.access(above, os.W_OK):
            raise UsageError(f"cannot write into {above}", context=folder, hint="give a folder you may write to")
