"""What storing a network's weights in fewer bits does to its outputs, told by a run with weights that are rounded so.

How far rounding carries depends on the network: an output next to nothing, or one of many layers, is moved further than
any fixed limit. So the side with more digits is run once more with its own weights in the other's precision. The other
side is held to that run by the usual limits, so a fault stays as visible as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from aligndbg.core.arrays import dtype_of
from aligndbg.core.errors import AligndbgError
from aligndbg.core.types import Array, Backend, Pair, Trace
from aligndbg.locate.captured_pair import CapturedPair
from aligndbg.measure.judge import Judge
from aligndbg.measure.limits import Precision
from aligndbg.measure.tolerance import ToleranceRules, within

__all__ = ["moved_by_rounding"]


WIDE = "float32"


def moved_by_rounding(sides: CapturedPair, pairs: Iterable[Pair]) -> dict[str, float]:
    """By the reference's name the relative L2 by which rounding weights moves an output, where that alone explains how
    far it is off: the other side then agrees with the run of rounded weights. Nothing where that cannot be run."""
    left, right = sides.left.trace, sides.right.trace
    stored = Precision(left).computed, Precision(right).computed
    if WIDE not in stored or stored[0] == stored[1] or not {*stored} <= {WIDE, "float16", "bfloat16"}:
        return {}
    ours = stored[0] == WIDE
    backend, trace = (sides.reference, left) if ours else (sides.candidate, right)
    feeds = sides.feeds if ours else sides.plan.feeds
    outputs = {(p.reference if ours else p.candidate): p for p in pairs}
    if feeds is None or not outputs or not {"run", "override"} <= backend.capabilities:
        return {}
    try:
        weights = _rounded(backend, max(stored, key=lambda name: name != WIDE))
        got = dict(backend.run(feeds, list(outputs), weights)) if weights else {}
    except AligndbgError:
        return {}
    again = replace(trace, values=got)
    judge = Judge(again, right, ToleranceRules()) if ours else Judge(left, again, ToleranceRules())
    return {
        pair.reference: _apart(trace, got, name)
        for name, pair in outputs.items()
        if name in got and within(judge.metrics(pair), judge.tolerance(pair))[0]
    }


def _rounded(backend: Backend, dtype: str) -> dict[str, Array]:
    """Weights in that dtype, and back; one that it cannot hold (a mask's huge values) is left as it is."""
    graph = backend.graph()
    read = {i for node in graph.nodes for i in node.inputs} & graph.constants
    wanted = sorted(n for n in read if n in graph.tensors and graph.tensors[n].dtype == WIDE and graph.tensors[n].shape)
    out = {}
    for name, value in backend.run({}, wanted) if wanted else ():
        with np.errstate(over="ignore"):
            rounded = value.astype(dtype_of(dtype)).astype(value.dtype)
        if np.isfinite(rounded).all():
            out[name] = rounded
    return out


def _apart(trace: Trace, got: Mapping[str, Array], name: str) -> float:
    before, after = trace.values[name].astype(np.float64), got[name].astype(np.float64)
    return float(np.linalg.norm(after - before) / max(float(np.linalg.norm(before)), np.finfo(float).tiny))
