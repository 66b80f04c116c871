"""Names and numbers as every report writes them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any

__all__ = ["UNITS", "bar", "clean", "cosine", "number", "shape_text"]

UNITS = {"lsb": "LSB", "rel_l2": "relative L2", "max_abs": "max abs"}  # of an error, by its kind


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
    """Two significant digits, hundreds whole; `-` for undefined, counts as they are."""
    if value is None or value != value:
        return "-"
    if isinstance(value, int) or value == 0:
        return str(int(value))
    if 99.5 <= abs(value) < 1000:
        return f"{value:.0f}"
    return f"{value:.2g}" if 0.01 <= abs(value) < 1000 else f"{value:.1e}"


def cosine(value: float | None) -> str:
    """Six decimals: a cosine near 1 says nothing in two digits."""
    return "-" if value is None or value != value else f"{value:.6f}"


def shape_text(shape: Iterable[int | str | None] | None) -> str:
    """`1x3x?x?`; `?` alone where even the number of axes is unknown."""
    return "?" if shape is None else "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def bar(value: float | None) -> int:
    """An error as percents of a logarithmic bar from 1e-8 to 1; 0 for none, 100 for undefined."""
    if value is None or value == 0:
        return 0
    if not math.isfinite(value):
        return 100
    return max(2, min(100, round((math.log10(value) + 8) / 8 * 100)))
