"""A mask's huge values (-3.4e38, -65504 before a softmax), which hide everything else: where they are (DESIGN 5.1).

Knows numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from aligndbg.core.types import Array

__all__ = ["LEAST", "beyond", "huge_values", "mask_limit"]


# A mask holds one huge value at many places: over 2,000 times the rms of the rest (DESIGN 5.1), and all within 1 % of
# each other, since scores are added to them; or of half of it, where two masks are added.
HUGE, ALIKE = 2e3, 1e-2
# It is huge by itself, too: -1e4 and beyond in use, -1250 once divided by sqrt(64). What peaks lower is a signal: a
# softmax or a heat map (1), ReLU6 (6), a pixel (255). Chosen.
LEAST = 1e3
APART = 10  # times under the hugest one begins the rest. Chosen.

Blocks = Callable[[], Iterable[Array]]


def mask_limit(blocks: Blocks, count: int, least: float, greatest: float) -> float:
    """The limit beyond which (below a negative one, above a positive one) lie a mask's values; 0.0 without a mask.

    `blocks()` gives a tensor's `count` finite values, flat float64, and is asked again where masks of several sizes may
    lie in it; `least` and `greatest` are theirs. Where the rest is all zero the mask is no less one.
    """
    top, limit = float(least if -least >= greatest else greatest), 0.0
    while abs(top) >= LEAST:
        rest = _rest(blocks(), count, top, limit)
        if rest is None:
            break
        limit, top = top / APART, rest
    return limit


def beyond(values: Array, limit: float) -> Array:
    """Which values lie beyond the limit of a mask, bool."""
    found: Array = values <= limit if limit < 0 else values >= limit
    return found


def huge_values(values: Array) -> Array:
    """Which of a tensor's finite values are a mask's: bool of its shape."""
    finite = np.isfinite(values)
    inner = values[finite].astype(np.float64)
    with np.errstate(over="ignore"):
        limit = mask_limit(lambda: [inner], inner.size, inner.min(initial=0.0), inner.max(initial=0.0))
    return finite & beyond(values, limit) if limit else np.zeros(values.shape, bool)


def _rest(blocks: Iterable[Array], count: int, top: float, limit: float) -> float | None:
    """Where the rest ends on the side of `top`, if what is as huge is a mask; else None.

    `limit` is that of hugher masks, found before. An ordinary tensor is told by its first block: what is under its peak
    has more than a mask's rest may have.
    """
    size, end, huge, held, squares = abs(top), 0.0, 0, 0, 0.0
    room = count * (size / HUGE) * (size / HUGE)
    for block in blocks:
        values = block[~beyond(block, limit)] if limit else block
        held += values.size
        high = beyond(values, top / APART)
        if high.any():
            level = values[high] / top
            if float(np.abs(np.abs(level - 0.75) - 0.25).max()) > ALIKE:
                return None
            huge += level.size
            values = np.where(high, 0.0, values)
        if not values.size:
            continue
        squares += float(np.dot(values, values))
        if squares > room:
            return None
        end = min(end, float(values.min())) if top < 0 else max(end, float(values.max()))
    rest = math.sqrt(squares / (held - huge)) if held > huge else math.inf
    return end if huge > 1 and rest < size / HUGE else None
