"""Names as a hint, never as proof: converters rename, join and reuse them."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["similarity", "tokens"]


_NOISE = frozenset(
    {"output", "0", "statefulpartitionedcall", "partitionedcall", "model", "graph", "main", "onnx", "aten"}
)


@lru_cache(maxsize=65536)
def tokens(name: str) -> frozenset[str]:
    """Words and numbers of a name, in lower case: `/layer1/Conv_output_0` -> {layer, 1, conv}."""
    words = re.findall(r"[^\W\d_]+|\d+", name)
    split = [part for word in words for part in re.findall(r"[A-Z]?[^A-Z]+|[A-Z]+", word)]
    return frozenset(w.lower() for w in split) - _NOISE


def similarity(a: str, b: str) -> float:
    """Share of common tokens (Jaccard), 0..1; 1 for equal names."""
    if a == b:
        return 1.0
    ta, tb = tokens(a), tokens(b)
    return len(ta & tb) / len(ta | tb) if ta and tb else 0.0
