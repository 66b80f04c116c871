"""What no feed can change."""

from __future__ import annotations

from aligndbg.core.types import Trace

__all__ = ["value_independent"]


def value_independent(trace: Trace) -> frozenset[str]:
    """Tensors that the feeds' values cannot change: made from constants and from shapes alone."""
    fixed = set(trace.graph.constants)
    for node in trace.graph.nodes:
        read = node.inputs[:1] if node.canonical == "CastLike" else node.inputs  # the second one gives its type only
        inputs = [n for n in read if n]
        shape_only = node.canonical in ("Shape", "Size")
        if node.canonical.startswith("Random"):
            continue
        if shape_only or (inputs and all(n in fixed for n in inputs)):
            fixed.update(n for n in node.outputs if n)
    return frozenset(fixed)
