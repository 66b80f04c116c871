"""Names and numbers as every report writes them."""

from __future__ import annotations

import unicodedata
from typing import Any

__all__ = ["clean", "number"]


def clean(text: str, width: int | None = None) -> str:
    """A name from a model, safe for a terminal: control characters shown, the middle left out past `width`."""
    safe = "".join(
        ch if ch == " " or not unicodedata.category(ch).startswith(("C", "Z")) else f"\\x{ord(ch):02x}" for ch in text
    )
    if width is None or len(safe) <= width:
        return safe
    tail = (width - 1) * 2 // 3
    return safe[: width - 1 - tail] + "…" + safe[-tail:]


def number(value: Any) -> str:
    """Two significant digits; `-` for undefined, counts as they are."""
    if value is None or value != value:
        return "-"
    if isinstance(value, int) or value == 0:
        return str(int(value))
    return f"{value:.2g}" if 0.01 <= abs(value) < 1000 else f"{value:.1e}"
