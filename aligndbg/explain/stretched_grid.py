"""A grid that was calibrated with a mask's huge values, so that all else falls between its steps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from aligndbg.core.qdq import read_through
from aligndbg.core.types import Array, Cause, Fault, Pair, Quant, Trace
from aligndbg.measure.distance import distance
from aligndbg.measure.masks import huge_values
from aligndbg.measure.reading import Grids, lost_to_a_mask

__all__ = ["stretched_by_mask"]


CHANGE = "clip the mask (to -100, say) before it is calibrated, or keep its addition and the softmax in float"


def stretched_by_mask(fault: Fault, pairs: Iterable[Pair], left: Trace, right: Trace) -> Cause | None:
    """The cause of a fault whose pair is such a one; proved by a grid of the rest's own, which keeps it."""
    pair = next((p for p in pairs if (p.reference, p.candidate) == (fault.reference, fault.candidate)), None)
    if pair is None:
        return None
    lost = lost_to_a_mask(pair, left, right, (Grids(left), Grids(right)))
    for trace, name, real in (
        (right, pair.candidate, left.values[pair.reference]),
        (left, pair.reference, right.values[pair.candidate]),
    ):
        stored = _stored(trace, name)
        quant = trace.quant(stored) if stored else None
        if quant is None or quant.scale.size > 1 or real.dtype.kind != "f":
            continue
        if lost or not np.isfinite(quant.scale[0]):
            return _cause(stored, quant, trace.graph.tensors[stored].dtype, real)
    return None


def _stored(trace: Trace, name: str) -> str:
    """The tensor on a grid that holds these values: itself, what is made of it, or what it is made of."""
    node = trace.graph.producers().get(name)
    through = read_through(trace.graph.consumers(), name)
    found = (name, through[0] if through else "", node.inputs[0] if node else "")
    return next((n for n in found if trace.quant(n) is not None), "")


def _cause(stored: str, quant: Quant, dtype: str, real: Array) -> Cause | None:
    values = real[np.isfinite(real)].astype(np.float64)
    huge = huge_values(values)
    rest, limits = values[~huge], np.iinfo(dtype)
    low, high = min(0.0, float(rest.min())), max(0.0, float(rest.max()))
    wide, step = float(quant.scale.reshape(-1)[0]), (high - low) / (limits.max - limits.min)
    endless = not np.isfinite(wide)
    if not step or not (huge.any() or endless):
        return None
    own = Quant(np.array([step], np.float32), np.array([round(limits.min - low / step)]))
    after = distance(rest, own.dequantize(own.quantize(rest, dtype)))
    before = np.inf if endless else distance(rest, quant.dequantize(quant.quantize(rest, dtype)))
    mask = float(np.mean(real[~np.isfinite(real)])) if endless else values[huge].mean()
    words = (
        f"a mask of {mask:.3g} stretches the grid of {stored!r} to steps of {wide:.3g}, between which "
        f"all else ({rest.min():.3g} to {rest.max():.3g}) is lost; on a grid of its own (steps of {step:.2g}) "
        f"its error falls from {before:.2g} to {after:.2g}"
    )
    details = {"change": CHANGE, "tensor": stored, "scale": wide, "own_scale": step, "unit": "rel_l2"}
    return Cause("quantization_scale", words, before, after, details)
