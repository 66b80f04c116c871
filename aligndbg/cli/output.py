"""One safe line on stdout or stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aligndbg.core.errors import AligndbgError

__all__ = ["complain", "say"]


def complain(error: AligndbgError) -> None:
    """The error on stderr, one line a part: a name from a model can neither end a line nor move the cursor."""
    context, fact, hint = (printable(text).replace("\n", "\\n") for text in (error.context, error.fact, error.hint))
    print(f"aligndbg: error: {f'{context}: ' if context else ''}{fact}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)


def say(text: str) -> None:
    """One line on stdout; whether anyone reads it changes no result."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """Names from a model may hold control characters; line breaks are ours."""
    return "".join(ch if ch.isprintable() or ch == "\n" else f"\\x{ord(ch):02x}" for ch in text)
