"""Integer biases as a file stores them: cut off at int32's limit, read in other steps, rounded to steps too coarse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aligndbg.core.types import Array, Node
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Half, Trial
from aligndbg.explain.constant_roles import role_constants
from aligndbg.explain.hypothesis import Hypothesis, other_side
from aligndbg.explain.thresholds import OTHER_STEP

__all__ = ["StoredBias"]


LIMIT = np.iinfo(np.int32).max
NAMED = 8  # channels
BIASED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
WIDER = "quantize this operator's weights per tensor, or widen the grid of the channel whose weights are all but zero"
OWN_BIAS = "give each operator a bias of its own, in steps of its input's scale times its weights' scale"
FINER = "calibrate the input of this operator to a narrower range, or keep this operator in float"


@dataclass(frozen=True, eq=False)
class _Bias:
    """One operator's: the integers, the steps that the file gives them, those in which the runtime reads them (None:
    the same), and the axis of the output that it is added along."""

    node: Node
    integers: Array
    step: Array
    read_in: Array | None
    axis: int

    def along(self, values: Array, rank: int) -> Array:
        shape = [1] * rank
        shape[self.axis] = -1
        return values.reshape(shape)


class StoredBias(Hypothesis):
    """The output with that bias put right, where what is wrong with it is plain in the file."""

    name = "stored_bias"

    def applies(self, case: Case) -> bool:
        return any(True for side in case.halves for _ in _stored(case.half(side)))

    def trials(self, case: Case) -> Iterator[Trial]:
        for side, half in case.halves.items():
            for bias in _stored(half):
                if half.value.ndim and half.value.shape[bias.axis] == bias.integers.size:
                    yield from _at_the_limit(case, side, bias)
                    yield from _in_other_steps(half, bias)
                    yield from _coarse(case, side, bias)


def _stored(half: Half) -> Iterator[_Bias]:
    """The integer biases of a region's operators."""
    graph, producers = half.own.graph, half.own.graph.producers()
    for node in half.nodes:
        name = node.inputs[2] if node.canonical in BIASED and len(node.inputs) > 2 else ""
        made = producers.get(name)
        scaled = made.inputs[1] if made is not None and made.canonical == "DequantizeLinear" else ""
        if scaled and made is not None:
            name = made.inputs[0]
        info = graph.tensors.get(name)
        if info is None or info.dtype not in ("int32", "int64") or name not in graph.constants:
            continue
        found = half.own.read([n for n in (name, scaled) if n])
        step = found.get(scaled) if scaled else info.quant.scale if info.quant is not None else None
        if name in found and step is not None:
            axis = 1 if graph.opset and node.canonical.startswith("Conv") else -1
            yield _Bias(node, found[name].reshape(-1).astype(np.int64), step.reshape(-1), _read_in(half, node), axis)


def _read_in(half: Half, node: Node) -> Array | None:
    """The steps of an integer kernel's sums; None of float arithmetic, which takes the file's."""
    into, weight = (half.own.quant(n) for n in node.inputs[:2])
    return None if half.own.graph.opset or into is None or weight is None else into.scale * weight.scale


def _at_the_limit(case: Case, side: str, bias: _Bias) -> Iterator[Trial]:
    """Proved by the other channels: leaving these out, nothing is left of the error."""
    cut = np.flatnonzero(np.abs(bias.integers) >= LIMIT)
    if not cut.size or cut.size == bias.integers.size:
        return
    half, other = case.half(side), case.other(side)
    layout = case.pair.layout
    theirs = layout.to_candidate(other.value) if side == "candidate" else layout.to_reference(other.value)
    made = half.value.copy()
    at: list[slice | Array] = [slice(None)] * made.ndim
    at[bias.axis] = cut
    made[tuple(at)] = theirs[tuple(at)]
    most = np.broadcast_to(bias.step, bias.integers.shape)[cut] * float(LIMIT)
    words = (
        f"the {side}'s int32 bias of {bias.node.op_type} is clipped at int32's limit in {_channels(cut, bias)}: in "
        f"steps of input scale times weight scale it can hold {float(most.min()):.3g} at most"
    )
    details = {"channels": cut.tolist()[:100], "most": most.tolist()[:100], "change": WIDER}
    yield Trial("overflow", side, made, words, "with those channels left out", costs.STORED_BIAS, details)


def _in_other_steps(half: Half, bias: _Bias) -> Iterator[Trial]:
    if bias.read_in is None:
        return
    ratio = bias.step / bias.read_in
    if not np.max(np.abs(ratio - 1)) > OTHER_STEP:
        return
    off = bias.integers * (bias.step.astype(np.float64) - bias.read_in)
    made = (half.value + bias.along(off, half.value.ndim)).astype(half.value.dtype)
    if bias.node.tail != bias.node.canonical:  # what a fused activation has cut off tells nothing
        low = half.value.min()
        made = np.where(half.value == low, low, np.maximum(made, low))
    words = (
        f"the {half.side}'s bias of {bias.node.op_type} is stored in steps of {_span(bias.step)}, and the runtime adds "
        f"it in steps of input scale times weight scale, {_span(bias.read_in)}: {_span(1 / ratio)} times what it is"
    )
    details = {"stored_step": bias.step.tolist()[:32], "read_in": bias.read_in.tolist()[:32], "change": OWN_BIAS}
    change = "with it added in the steps that it is stored in"
    yield Trial("quantization_scale", half.side, made, words, change, costs.STORED_BIAS, details)


def _coarse(case: Case, side: str, bias: _Bias) -> Iterator[Trial]:
    """Its steps are so wide that rounding to them is seen in the output: the other side's bias rounded so."""
    half, theirs = case.half(side), case.other(side).plain
    out = half.own.quant(half.output) or case.quant
    if theirs is None or out is None or out.scale.size > 1 or not np.max(bias.step) > float(out.scale[0]):
        return
    terms = [r for r in role_constants(theirs) if r.role == "term" and r.value.size == bias.integers.size]
    rounded = bias.integers * bias.step.astype(np.float64)
    if len(terms) != 1 or np.max(np.abs(terms[0].value.reshape(-1) - rounded) / bias.step) > 1:
        return  # another bias altogether
    words = (
        f"the {side}'s bias of {bias.node.op_type} is rounded to steps of {_span(bias.step)} (input scale times weight "
        f"scale), wider than the output's own steps of {float(out.scale[0]):.3g}"
    )
    details = {"step": bias.step.tolist()[:32], "output_step": float(out.scale[0]), "change": FINER}
    change, made = f"with the {other_side(side)}'s rounded so", terms[0].put(rounded.reshape(terms[0].value.shape))
    yield Trial("quantization_scale", other_side(side), made, words, change, costs.STORED_BIAS, details)


def _channels(which: Array, bias: _Bias) -> str:
    shown = ", ".join(map(str, which[:NAMED])) + (", ..." if which.size > NAMED else "")
    return f"channel{'s' if which.size > 1 else ''} {shown} of {bias.integers.size}"


def _span(values: Array) -> str:
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.3g}" if np.isclose(low, high, rtol=1e-3) else f"{low:.3g} to {high:.3g}"
