"""Grids that lose what the reference has although every operator computes right: integers read by another grid than
they were written by, parts that one grid wipes out. Each is read in the file, and proved by its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aligndbg.core.moves import LAYOUT_OPS
from aligndbg.core.regions import region
from aligndbg.core.types import Array, Backend, Cause, Fault, Node, Pair, Quant, Region, Trace
from aligndbg.explain.thresholds import HALVED, SEEN_STEPS
from aligndbg.locate.captured_pair import CapturedPair
from aligndbg.measure.distance import distance

__all__ = ["lost_at", "unlike_grids"]

MOVES = LAYOUT_OPS | {"MaxPool", "Slice", "Split", "Gather", "Pad"}  # what integers come through as they are
CHANGE = "give the DequantizeLinear the scale and zero point that its QuantizeLinear has"


@dataclass(frozen=True)
class _Read:
    """A tensor `name` of real values, read by `reader` on another grid than `writer` put them on."""

    name: str
    stored: str
    source: str
    writer: Node
    reader: Node
    written: Quant
    read: Quant


def unlike_grids(faults: tuple[Fault, ...], pairs: Sequence[Pair], sides: CapturedPair) -> tuple[Fault, ...]:
    """The faults, with each Q/DQ pair of one side whose halves do not fit: the cause of the fault there, or one more.

    What the other side does likewise is none.
    """
    backends, traces = (sides.reference, sides.candidate), (sides.left.trace, sides.right.trace)
    by_name = ({p.reference: p for p in pairs}, {p.candidate: p for p in pairs})
    found: dict[int, dict[str, _Read]] = {}
    for k in (0, 1):
        found[k] = {r.name: r for r in _read_otherwise(backends[k], traces[k])}
    for k, side in enumerate(("reference", "candidate")):
        for name, one in found[k].items():
            pair = by_name[k].get(name) or by_name[k].get(one.source)
            if pair is None or (pair.candidate if k == 0 else pair.reference) in found[1 - k]:
                continue
            at = {(p.candidate if k == 0 else p.reference) for n in (name, one.source) if (p := by_name[k].get(n))}
            if not _one_value([traces[1 - k].values[n] for n in at]):
                continue  # an operator of the other side lies between the two
            cause = _cause(side, one, traces[k])
            if cause is not None:
                faults = lost_at(faults, pair, cause, traces, (one.writer.name, one.reader.name))
    return faults


def _one_value(values: Sequence[Array]) -> bool:
    """Whether these are copies of each other, at most moved."""
    rows = [np.sort(v, axis=None) for v in values] if len(values) > 1 else []
    return all(np.array_equal(row, rows[0]) for row in rows)


def _read_otherwise(backend: Backend, trace: Trace) -> Iterator[_Read]:
    """Where a DequantizeLinear reads integers that a QuantizeLinear wrote with another scale or zero point."""
    producers = trace.graph.producers()
    chains = []
    for node in trace.graph.nodes:
        made = producers.get(node.inputs[0]) if node.canonical == "DequantizeLinear" and node.inputs else None
        while made is not None and made.canonical in MOVES:
            made = producers.get(made.inputs[0])
        if made is not None and made.canonical == "QuantizeLinear" and len(made.inputs) > 1 < len(node.inputs):
            chains.append((made, node))
    names = {n for pair in chains for node in pair for n in node.inputs[1:3] if n in trace.graph.constants}
    known = dict(backend.run({}, sorted(names))) if names and "run" in backend.capabilities else {}
    for writer, reader in chains:
        written, read = _quant(writer, known), _quant(reader, known)
        if written is None or read is None or _same(written, read):
            continue
        named = writer.outputs[0], reader.outputs[0], writer.inputs[0], reader.inputs[0]
        if all(n in trace.values for n in named):
            yield _Read(reader.outputs[0], reader.inputs[0], writer.inputs[0], writer, reader, written, read)


def _quant(node: Node, known: Mapping[str, Array]) -> Quant | None:
    """Its grid for a whole tensor, as the file has it."""
    parts = [known.get(n) for n in node.inputs[1:3] if n]
    if any(part is None or part.size != 1 for part in parts):
        return None
    values = [np.asarray(part).reshape(-1) for part in parts]
    zero = values[1].astype(np.int64) if len(values) > 1 else np.zeros(1, np.int64)
    return Quant(values[0].astype(np.float32), zero)


def _same(one: Quant, other: Quant) -> bool:
    return bool(one.zero_point[0] == other.zero_point[0] and np.isclose(one.scale[0], other.scale[0], rtol=1e-6))


def _cause(side: str, one: _Read, trace: Trace) -> Cause | None:
    """Proved by reading the same integers with the grid that wrote them: what was stored comes back. None where it
    makes no difference to be seen."""
    stored, seen = trace.values[one.stored], trace.values[one.name].astype(np.float64)
    right = one.written.dequantize(stored).astype(np.float64)
    step = float(one.written.scale[0])
    if seen.shape != right.shape or not np.max(np.abs(seen - right), initial=0.0) > SEEN_STEPS * step:
        return None
    real = trace.values[one.source].astype(np.float64)
    before, after = distance(right, seen), 0.0
    if real.shape == right.shape:
        before, after = distance(real, seen), distance(real, right)
    if not after <= HALVED * before:
        return None
    w, r = one.written, one.read
    parts = ("zero point", w.zero_point[0], r.zero_point[0]), ("scale", w.scale[0], r.scale[0])
    unlike = [f"the {what} {a:.7g}, and is read with {b:.7g}" for what, a, b in parts if a != b]
    words = (
        f"the {side}'s {one.source!r} is put on a grid with {' and '.join(unlike)} ({one.writer.name} against "
        f"{one.reader.name}): values are off by up to {np.max(np.abs(seen - right)) / step:.3g} steps; read with the "
        f"grid that wrote it, its error falls from {before:.2g} to {after:.2g}"
    )
    details = {"change": CHANGE, "tensor": one.name, "on": side, "unit": "rel_l2", "stored": True}
    return Cause("quantization_scale", words, before, after, details)


def lost_at(
    faults: tuple[Fault, ...],
    pair: Pair,
    cause: Cause,
    traces: tuple[Trace, Trace],
    nodes: tuple[str, ...] = (),
) -> tuple[Fault, ...]:
    """The cause at the fault whose region holds these nodes, or at one more."""
    for k, fault in enumerate(faults):
        held = {*fault.region_reference.nodes, *fault.region_candidate.nodes}
        if not held.isdisjoint(nodes) or (fault.reference, fault.candidate) == (pair.reference, pair.candidate):
            return (*faults[:k], replace(fault, cause=cause), *faults[k + 1 :])
    return (*faults, _fault(pair, cause, traces, nodes))


def _fault(pair: Pair, cause: Cause, traces: tuple[Trace, Trace], nodes: tuple[str, ...]) -> Fault:
    """A fault of what the file stores, at a pair whose operators compute right: `cause` proves it."""
    regions = []
    for trace, name in zip(traces, (pair.reference, pair.candidate), strict=True):
        made = trace.graph.producers().get(name)
        own = region(trace.graph, name, set(made.inputs) if made else set())
        there = [n for n in nodes if n in trace.graph.places()]
        regions.append(Region(tuple(dict.fromkeys((*own.nodes, *there))), own.inputs, own.outputs))
    named = zip(traces, (pair.reference, pair.candidate), strict=True)
    ops = [made.op_type if (made := t.graph.producers().get(n)) else "" for t, n in named]
    error = float("nan") if cause.before is None else cause.before
    return Fault(pair.reference, pair.candidate, ops[0], ops[1], error, "rel_l2", regions[0], regions[1], cause)
