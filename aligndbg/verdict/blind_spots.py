"""What an input cannot show, whatever the models do."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aligndbg.core.ops import SIGNED
from aligndbg.core.types import Array, LayoutKind, Matching, Trace
from aligndbg.measure.fingerprint import Fingerprint
from aligndbg.verdict.checks import Checks

__all__ = ["blind_spots"]


def blind_spots(trace: Trace, prints: Mapping[str, Fingerprint], matching: Matching) -> Checks:
    """What this input cannot tell apart: constant feeds, constant tensors (dead ReLUs), layouts left ambiguous,
    integers that never reach what an operator treats apart."""
    feeds = trace.feeds or {}
    constant = [n for n, a in feeds.items() if a.size > 1 and bool((a == a.reshape(-1)[0]).all())]
    told = trace.graph.fixed.union(feeds)  # what no feed can change tells nothing of this one
    dead = [n for n, fp in prints.items() if fp.count > 1 and fp.constant and n not in told]
    ambiguous = [p.reference for p in matching.pairs if p.layout.kind is LayoutKind.AMBIGUOUS]
    return {
        "constant_feeds": constant,
        "constant_tensors": dead,
        "ambiguous_layouts": ambiguous,
        "no_negatives": _without_negatives(trace),
        "no_repeats": _without_repeats(trace),
    }


def _integers(trace: Trace, name: str) -> Array | None:
    value = trace.values.get(name)
    return value if value is not None and value.dtype.kind == "i" and trace.quant(name) is None else None


def _without_negatives(trace: Trace) -> list[str]:
    """Operators that treat negative integers apart, and were given none."""
    fixed, found = trace.graph.fixed, []
    for node in trace.graph.nodes:
        if node.canonical in SIGNED and node.inputs[0] not in fixed:
            value = _integers(trace, node.inputs[0])
            if value is not None and value.size and not (value < 0).any():
                found.append(node.name)
    return found


def _without_repeats(trace: Trace) -> list[str]:
    """Operators that write where indices say, and were given no place twice."""
    fixed, found = trace.graph.fixed, []
    for node in trace.graph.nodes:
        if not node.canonical.startswith("Scatter") or len(node.inputs) < 2 or node.inputs[1] in fixed:
            continue
        value = _integers(trace, node.inputs[1])
        if value is None or not value.ndim:
            continue
        axis = int(node.attributes.get("axis", 0))
        rows = value.reshape(-1, value.shape[-1]) if node.canonical == "ScatterND" else np.sort(value, axis=axis)
        if node.canonical == "ScatterND":
            repeated = len(np.unique(rows, axis=0)) < len(rows)
        else:
            repeated = bool((np.diff(rows, axis=axis) == 0).any())
        if not repeated:
            found.append(node.name)
    return found
