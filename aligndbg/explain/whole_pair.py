"""What is wrong with the pair as a whole: fed apart, axes swapped, one scale for unlike values, another network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aligndbg.core.moves import PASSIVE_OPS
from aligndbg.core.types import Array, Cause, Fault, LayoutKind, Node, Quant, Trace
from aligndbg.explain.advice import ADVICE
from aligndbg.explain.common_weights import CommonWeights
from aligndbg.explain.thresholds import (
    CLIPPED_SHARE,
    COARSE_STEPS,
    CUT_OFF,
    EQUAL_ONCE_MOVED,
    FEWEST_OF_PART,
    FEWEST_WEIGHTS,
    FINE_STEPS,
    IN_COMMON,
    LOST,
    SAME_SIZES,
    WEIGHTS_TO_BLAME,
)
from aligndbg.feeds.difference import FeedFinding
from aligndbg.measure.metrics import compare
from aligndbg.measure.results import Measurement

__all__ = ["another_network", "cut_off_outputs", "input_causes", "partly_trained", "shared_scales", "swapped_axes"]


WHOLE = frozenset({"weight", "bias", "missing_bias", "unexplained"})  # causes that other weights look like
MAX_PARTS = 512
MAX_ELEMENTS = 1 << 22
CLIPPED_INPUT = "feed values in the range that the input was calibrated for, or calibrate again with such values"


def input_causes(findings: Iterable[FeedFinding]) -> list[Cause]:
    """What the check of both sides' feeds found; each correction was proved there to leave rounding only.

    `verdict` in its details is what agreement of the outputs is worth then: of two that were not asked the same thing
    it is none.
    """
    return [
        Cause(
            f.kind,
            f"the candidate's input {f.candidate!r} is not what the reference is fed at {f.reference!r}: {f.what}",
            f.max_abs,
            None if f.kind in ("shape", "unexplained") else 0.0,
            {
                **f.details,
                "change": CLIPPED_INPUT if f.kind == "saturation" else ADVICE.get(f.kind, ""),
                "reference": f.reference,
                "candidate": f.candidate,
                "unit": "max_abs",
            }
            | _worth(f),
        )
        for f in findings
        if f.details.get("share", 1.0) >= CLIPPED_SHARE
    ]


def _worth(finding: FeedFinding) -> dict[str, str]:
    if finding.kind == "saturation":
        return {"verdict": "inconclusive"} if finding.details.get("cut", 0.0) > CUT_OFF else {}
    return {"verdict": "inconclusive" if finding.kind in ("unexplained", "shape") else "diverged"}


def swapped_axes(measured: Sequence[Measurement], outputs: frozenset[str], left: Trace, right: Trace) -> list[Cause]:
    """Height and width exchanged from end to end: an output of one shape, equal only once its axes are moved."""
    for m in measured:
        layout = m.pair.layout
        kept = [a for a in layout.permutation if layout.from_shape[a] != 1]
        same = layout.reference_shape == layout.candidate_shape and layout.kind is LayoutKind.PERMUTE
        equal = m.metrics.rel_l2 < EQUAL_ONCE_MOVED
        if m.pair.reference not in outputs or not same or kept == sorted(kept) or not equal:
            continue
        straight = compare(left.values[m.pair.reference], right.values[m.pair.candidate])
        moved = sum(o.pair.layout.permutation == layout.permutation for o in measured)
        order = list(layout.permutation)
        words = (
            f"the candidate has its axes in the order {order} throughout ({moved} tensors): its output "
            f"{m.pair.candidate!r} equals the reference's once they are moved; the error falls from "
            f"{straight.rel_l2:.2g} to {m.metrics.rel_l2:.2g}"
        )
        return [
            Cause(
                "layout",
                words,
                straight.rel_l2,
                m.metrics.rel_l2,
                {"change": ADVICE["layout"], "permutation": order, "tensors": moved},
            )
        ]
    return []


def another_network(
    faults: tuple[Fault, ...], reference: CommonWeights, candidate: CommonWeights, rounded: bool
) -> tuple[tuple[Fault, ...], list[Cause]]:
    """One cause instead of a fault for each layer, where the weights are another network's, or another checkpoint's.

    `reference` says what of the reference's weights is in the candidate, `candidate` the other way round; `rounded`
    that one side has weights on a grid, which are near those they were rounded from.
    """
    if min(reference.count, candidate.count) < FEWEST_WEIGHTS:
        return faults, []
    counts = f"of the reference's {reference.count} weight tensors {_counts(reference)}"
    known = [f.cause for f in faults if f.cause is not None]
    blamed = sum(c.kind in WHOLE for c in known) >= WEIGHTS_TO_BLAME * len(known)
    if max(reference.share, candidate.share) <= IN_COMMON:
        words = f"this is another network ({_what_differs(reference, candidate)}): {counts}"
    elif blamed and not rounded and reference.equal <= IN_COMMON * reference.count and reference.share >= 1 - IN_COMMON:
        words = f"this is another checkpoint of the network, or its weights were rounded coarsely: {counts}"
    else:
        return faults, []
    details = {
        "change": ADVICE["different_network"],
        "equal": reference.equal,
        "near": reference.near,
        "other": reference.other,
        "other_of_their_size": reference.sized,
        "reference_weights": reference.count,
        "candidate_weights": candidate.count,
        "faults": len(faults),
    }
    cause = Cause("different_network", words, 1.0 - reference.equal / reference.count, None, details)
    return tuple(replace(f, cause=cause) for f in faults[:1]), [cause]


def _what_differs(reference: CommonWeights, candidate: CommonWeights) -> str:
    if reference.sized > SAME_SIZES * reference.other:
        return "other weights throughout"
    return "other shapes" if reference.count == candidate.count else "other layers"


def partly_trained(faults: Sequence[Fault], reference: CommonWeights) -> list[str]:
    """How many weights differ, where several operators are at fault for theirs."""
    wrong = sum(f.cause is not None and f.cause.kind in ("weight", "bias") for f in faults)
    if wrong < 2 or not reference.near + reference.other:
        return []
    return [f"of the reference's {reference.count} weight tensors {_counts(reference)}"]


def _counts(common: CommonWeights) -> str:
    return f"{common.equal} are equal in the candidate, {common.near} near, {common.other} other"


def shared_scales(measured: Sequence[Measurement], outputs: frozenset[str], left: Trace, right: Trace) -> list[Cause]:
    """A quantized tensor whose parts need unlike scales: boxes of 0..640 and scores of 0..1 in one, the scores lost.

    Proved by putting the reference's values on the shared scale, and then each lost part on one of its own.
    """
    joined = right.graph.producers()
    for m in measured:
        stored = _stored(m.pair.candidate, right, joined)
        quant = right.quant(stored)
        if quant is None or quant.scale.size > 1 or m.pair.reference not in left.values:
            continue
        node = joined.get(m.pair.candidate)
        if m.pair.reference not in outputs and (node is None or node.canonical != "Concat"):
            continue
        reference = left.values[m.pair.reference]
        if reference.dtype.kind != "f" or reference.size > MAX_ELEMENTS:
            continue
        dtype = right.values[stored].dtype
        for axis in range(1, reference.ndim):
            found = _lost_parts(reference, axis, quant, dtype)
            if found is not None:
                cause = _shared(m, reference, axis, found, quant, dtype)
                dead = m.pair.reference in outputs and cause.kind == "saturation" and _joined(m, left, axis, found)
                return [replace(cause, details={**cause.details, "dead": True, "stored": True}) if dead else cause]
    return []


def cut_off_outputs(measured: Sequence[Measurement], outputs: frozenset[str], left: Trace, right: Trace) -> list[Cause]:
    """An output whose grid ends before the reference's values do."""
    joined, found = right.graph.producers(), []
    for m in (m for m in measured if m.pair.reference in outputs and m.pair.reference in left.values):
        stored, value = _stored(m.pair.candidate, right, joined), left.values[m.pair.reference]
        quant, norm = right.quant(stored), float(np.linalg.norm(value)) if value.dtype.kind == "f" else 0.0
        if quant is None or quant.scale.size > 1 or not norm or not np.isfinite(norm):
            continue
        limits = np.iinfo(right.values[stored].dtype)
        low, high = quant.dequantize(np.array([limits.min, limits.max], right.values[stored].dtype))
        share = float(np.linalg.norm(value - np.clip(value, low, high))) / norm
        if share > CUT_OFF:
            words = (
                f"the candidate's output {m.pair.candidate!r} holds {low:.3g} to {high:.3g}, and the reference's "
                f"{value.min():.3g} to {value.max():.3g}: {share:.0%} (relative L2) is cut off"
            )
            details = {"change": ADVICE["quantization_scale"], "unit": "rel_l2", "verdict": "inconclusive"}
            found.append(Cause("saturation", words, share, 0.0, details))
    return found


def _joined(m: Measurement, left: Trace, axis: int, lost: Sequence[int]) -> bool:
    """Whether the lost channels are all that one operand of a concatenation holds: what one operator gave is gone, and
    not a class that is just unlikely."""
    node = left.graph.producers().get(m.pair.reference)
    while node is not None and node.canonical in PASSIVE_OPS:
        node = left.graph.producers().get(node.inputs[0])
    if node is None or node.canonical != "Concat" or any(i not in left.values for i in node.inputs):
        return False
    shapes = [left.values[i].shape for i in node.inputs]
    along = next((k for k in range(len(shapes[0])) if len({s[k] for s in shapes}) > 1), axis)
    sizes = [s[along] for s in shapes] if along < len(shapes[0]) else []
    if sum(sizes) != m.pair.layout.reference_shape[axis]:
        return False
    ends = np.cumsum(sizes)
    return any(set(range(end - size, end)) <= set(lost) for end, size in zip(ends, sizes, strict=True))


def _stored(name: str, trace: Trace, producers: Mapping[str, Node]) -> str:
    """The quantized tensor whose values these are: itself, or what a DequantizeLinear reads."""
    node = producers.get(name)
    read = node.inputs[0] if node is not None and node.canonical == "DequantizeLinear" else name
    return read if read in trace.values else name


def _lost_parts(reference: Array, axis: int, quant: Quant, dtype: np.dtype[Any]) -> list[int] | None:
    """Channels that move, by less than the scale can show, beside others that it shows well."""
    if not 1 < reference.shape[axis] <= MAX_PARTS:
        return None
    rows = np.moveaxis(reference, axis, 0).reshape(reference.shape[axis], -1).astype(np.float64)
    if rows.shape[1] < FEWEST_OF_PART:
        return None
    on_grid = quant.dequantize(quant.quantize(rows, dtype)).astype(np.float64)
    norm = np.linalg.norm(rows, axis=1)
    lost = np.linalg.norm(on_grid - rows, axis=1) > LOST * norm
    coarse = np.ptp(rows, axis=1) < COARSE_STEPS * float(quant.scale.reshape(-1)[0])
    fine = np.ptp(rows, axis=1) > FINE_STEPS * float(quant.scale.reshape(-1)[0])
    parts = np.flatnonzero(lost & coarse & (norm > 0))
    return [int(k) for k in parts] if parts.size and fine.any() else None


def _shared(m: Measurement, reference: Array, axis: int, parts: list[int], quant: Quant, dtype: np.dtype[Any]) -> Cause:
    part = np.take(reference, parts, axis).astype(np.float64)
    rest = np.delete(reference, parts, axis)
    stored = quant.quantize(part, dtype)
    before = _relative(part, quant.dequantize(stored))
    limits = np.iinfo(dtype)
    low, high = min(0.0, float(part.min())), max(0.0, float(part.max()))
    scale = (high - low) / (limits.max - limits.min)
    own = Quant(np.array([scale], np.float32), np.array([round(limits.min - low / scale)]))
    after = _relative(part, own.dequantize(own.quantize(part, dtype)))
    distinct = int(np.unique(stored).size)
    shared = float(quant.scale.reshape(-1)[0])
    words = (
        f"{m.pair.candidate!r} ({m.candidate_op}) holds values of unlike size on one grid of steps of {shared:.3g}: "
        f"{len(parts)} of {reference.shape[axis]} channels (axis {axis}) span {part.min():.3g} to {part.max():.3g} and "
        f"collapse to {distinct} distinct values, while the others span {rest.min():.3g} to {rest.max():.3g}; with a "
        f"scale of their own ({scale:.2g}) their error falls from {before:.2g} to {after:.2g}"
    )
    details = {"reference": m.pair.reference, "candidate": m.pair.candidate, "axis": axis, "channels": parts[:100]}
    details |= {
        "change": ADVICE["saturation"],
        "scale": shared,
        "own_scale": scale,
        "distinct": distinct,
        "unit": "rel_l2",
    }
    return Cause("saturation" if distinct == 1 else "quantization_scale", words, before, after, details)


def _relative(r: Array, c: Array) -> float:
    return float(np.linalg.norm(r - c) / np.linalg.norm(r))
