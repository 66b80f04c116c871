"""Compares the values of a pair under its limits, and gives its status (DESIGN 6). Knows numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from aligndbg.core.errors import UsageError
from aligndbg.core.layouts import exchanges_axes
from aligndbg.core.threads import in_threads
from aligndbg.core.types import Array, LayoutKind, Pair, Quant, Status, Trace
from aligndbg.measure.detail import detail, element_limit
from aligndbg.measure.limits import Precision, quantized_weights, rounds_between, stored_tensor
from aligndbg.measure.metrics import compare
from aligndbg.measure.results import Detail, Measurement, Metrics
from aligndbg.measure.rounding import Rounding
from aligndbg.measure.tolerance import Tolerance, ToleranceRules, default_tolerance, degenerate, judge

__all__ = ["Judge", "read_bytes"]


# A float op on int8 weights and activations quantized on the fly: 1/127 on each side, with room for small sums.
HYBRID_OWN = 5e-2
# A float op of an explicitly quantized model (Q/DQ) against that of the float one, on the very values and weights that
# it reads: measured up to 4e-4, from biases that are rounded too.
EXPLICIT_OWN = 1e-3


# A region that rounds more inner tensors than this has only its cosine left. Weak, and said to be.
FEW_STEPS, WEAK_COSINE = 2, 0.95
# The candidate's weights cannot be read (a recorded trace), so the reference computes with unquantized ones: clean
# operators were measured up to 3 steps, some a little over. Weak, and said to be.
WEAK_LSB = 5.0
READ_BYTES = 4  # of an element, in most tensors
Result = TypeVar("Result")


class Judge:
    """Compares pairs of two traces under the user's tolerances, or those of the noise floor.

    `joint` gathers what other tolerances can be judged by later. `room` is bytes of values that may be read at a time.
    """

    def __init__(
        self,
        reference: Trace,
        candidate: Trace,
        rules: ToleranceRules,
        joint: bool = False,
        room: int | None = None,
    ) -> None:
        self.reference, self.candidate, self.rules = reference, candidate, rules
        self.joint, self.room = joint, room
        self._nodes_r = reference.graph.producers()
        self._nodes_c = candidate.graph.producers()
        self._precision_r, self._precision_c = Precision(reference), Precision(candidate)
        # Unpaired tensors that a pair's region computes and rounds on the candidate's side, by reference name.
        self.inner: Mapping[str, Rounding] = {}
        self.weights_unknown = False
        self._hybrid = quantized_weights(reference) or quantized_weights(candidate)
        self._grids: dict[tuple[bool, str], str] = {}
        self._explicit = (rounds_between(reference, self._nodes_r), rounds_between(candidate, self._nodes_c))

    def refuse_unused(self) -> None:
        """Raises UsageError for a rule that matches no operator and no tensor."""
        traces = (self.reference, self.candidate)
        unused = self.rules.unused(
            {n.op_type for t in traces for n in t.graph.nodes}, {n for t in traces for n in t.values}
        )
        if unused:
            fact = f"the tolerance {unused[0]!r} matches no operator and no tensor"
            raise UsageError(fact, hint="see `aligndbg layers`")

    def ops(self, pair: Pair) -> tuple[str, str]:
        rn, cn = self._nodes_r.get(pair.reference), self._nodes_c.get(pair.candidate)
        return (rn.op_type if rn else "", cn.op_type if cn else "")

    def same_op(self, pair: Pair) -> bool:
        """Whether both tensors hold the result of one op, whatever the runtimes call it."""
        rn, cn = self._nodes_r.get(pair.reference), self._nodes_c.get(pair.candidate)
        return rn is not None and cn is not None and rn.tail == cn.tail

    def tolerance(self, pair: Pair, *, isolated: bool = False) -> Tolerance:
        default = self.default(pair, isolated=isolated)
        return self.rules.resolve(self.ops(pair)[0], (pair.reference, pair.candidate), default)

    def default(self, pair: Pair, *, isolated: bool = False) -> Tolerance:
        """The limits of the noise floor, which hold where the user set none."""
        rn = self._nodes_r.get(pair.reference)
        dtypes = (self._precision_r.of(pair.reference), self._precision_c.of(pair.candidate))
        default = default_tolerance(*dtypes, op=rn.tail if rn else "", isolated=isolated)
        inner = self.inner.get(pair.reference)
        steps = inner.count if inner else 0
        if isolated and inner and default.max_lsb is not None:
            few = 1.5 + inner.lsb if steps <= FEW_STEPS else None
            default = Tolerance(min_cosine=WEAK_COSINE, max_lsb=few)
        elif isolated and self.weights_unknown and default.max_lsb is not None:
            default = Tolerance(max_lsb=WEAK_LSB)
        if default.max_lsb is not None and not self._on_grid(pair):
            default = Tolerance(rel_l2=HYBRID_OWN * (1 + steps) ** 0.5)  # a dump of an int8 run: its step is not known
        if isolated and (
            self._grid_of(self.reference, pair.reference) or self._grid_of(self.candidate, pair.candidate)
        ):
            return Tolerance(max_lsb=1.5 + (inner.lsb if inner else 0.0))
        if (self._hybrid or any(self._explicit)) and default.rel_l2 is not None:
            one_grid = self._explicit[0] != self._explicit[1] and not self._hybrid and not self.weights_unknown
            strict = one_grid and not steps
            own = EXPLICIT_OWN if strict else HYBRID_OWN * (1 + steps) ** 0.5
            default = Tolerance(rel_l2=own) if isolated else Tolerance(min_cosine=0.95)
        return default

    def _grid_of(self, trace: Trace, name: str) -> str:
        """The tensor on a grid whose values a float tensor holds, "" where there is none: a DequantizeLinear may have
        another scale than what it reads was made with."""
        key = (trace is self.candidate, name)
        if key not in self._grids:
            stored = stored_tensor(trace, self._nodes_c if key[0] else self._nodes_r, name)
            quant = trace.quant(stored) if stored else None
            same = quant is not None and np.allclose(quant.dequantize(trace.values[stored]), trace.values[name])
            self._grids[key] = stored if same else ""
        return self._grids[key]

    def _on_grid(self, pair: Pair) -> bool:
        sides = ((self.reference, pair.reference), (self.candidate, pair.candidate))
        return any(trace.quant(name) is not None for trace, name in sides)

    def each(self, work: Callable[[Pair], Result], pairs: Iterable[Pair]) -> Iterator[Result]:
        """`work` of each pair, in threads that together read no more than `room` bytes at a time."""
        return in_threads(work, pairs, read_bytes, self.room)

    def metrics(self, pair: Pair) -> Metrics:
        """The accumulated difference of one pair, in the reference's layout."""
        return self._compare(pair, self.reference, self.candidate, self.tolerance(pair))

    def isolated(self, pair: Pair, trace: Trace, forward: bool) -> Metrics:
        """The pair's own difference: `trace` is the side that was re-run on the other's values.

        Against a quantized candidate the reference's value is first put on the candidate's grid and clipped to its
        range (FACTS' rule for int8): what the grid cannot hold is no fault of the op.
        """
        left, right = (self.reference, trace) if forward else (trace, self.candidate)
        return self._compare(pair, left, right, self.tolerance(pair, isolated=True), on_grid=True)

    def needed(self, pair: Pair, forward: bool) -> set[str]:
        """The tensors of the side that is re-run that `isolated` reads."""
        trace, name = (self.candidate, pair.candidate) if forward else (self.reference, pair.reference)
        return {name, self._grid_of(trace, name) or name}

    def own_within(self, pair: Pair, metrics: Metrics) -> bool:
        """False where the pair's own error is over tolerance; equal tensors that prove nothing are no fault."""
        if degenerate(metrics) and not metrics.nonfinite_mismatch:
            return True
        return judge(metrics, self.tolerance(pair, isolated=True))[0]

    def _compare(self, pair: Pair, left: Trace, right: Trace, limits: Tolerance, on_grid: bool = False) -> Metrics:
        value, quant = without_axis(right.values[pair.candidate], right.quant(pair.candidate))
        ours, our_quant = left.values[pair.reference], left.quant(pair.reference)
        if on_grid and quant is None and (stored := self._grid_of(self.candidate, pair.candidate)):
            value, quant = right.values[stored], right.quant(stored)
        if on_grid and our_quant is None and (stored := self._grid_of(self.reference, pair.reference)):
            ours, our_quant = left.values[stored], left.quant(stored)
        if on_grid and quant is not None and our_quant is None:
            ours = quant.dequantize(quant.quantize(ours, value.dtype))
        value = pair.layout.to_reference(value)
        if on_grid and quant is None and our_quant is not None and our_quant.axis is None:
            value = our_quant.dequantize(our_quant.quantize(value, ours.dtype))
        return compare(
            ours,
            value,
            tolerance=limits,
            reference_quant=our_quant,
            candidate_quant=quant,
            joint=self.joint,
        )

    def detail(self, pair: Pair, metrics: Metrics) -> Detail | None:
        """The picture of the accumulated values whose `metrics` these are."""
        value, quant = without_axis(self.candidate.values[pair.candidate], self.candidate.quant(pair.candidate))
        ours, our_quant = self.reference.values[pair.reference], self.reference.quant(pair.reference)
        limit = element_limit(self.tolerance(pair), metrics)
        return detail(ours, pair.layout.to_reference(value), metrics, limit, our_quant, quant)

    def measure(
        self, pair: Pair, own: Metrics | None = None, doubt: str = "", why_not_isolated: str = ""
    ) -> Measurement:
        """The pair with its accumulated metrics, its own (`own`), and the status both give.

        `doubt` says why a provisional pair is not confirmed; `why_not_isolated` why there is no `own`.
        """
        metrics = self.metrics(pair)
        status, reason = self._status(pair, metrics, own, doubt, why_not_isolated)
        return Measurement(pair, metrics, status, reason, own, *self.ops(pair))

    def _status(
        self, pair: Pair, metrics: Metrics, own: Metrics | None, doubt: str, why_not: str
    ) -> tuple[Status, str]:
        within, why = judge(metrics, self.tolerance(pair))
        empty = degenerate(metrics)
        if doubt:
            return Status.UNKNOWN, doubt
        if pair.layout.kind is LayoutKind.AMBIGUOUS and self._layout_matters(pair, within):
            return Status.UNKNOWN, f"ambiguous layout: {len(pair.layout.alternatives) + 1} fit, and judge differently"
        if own is not None and not self.own_within(pair, own):
            return Status.FAULT, "own error: " + judge(own, self.tolerance(pair, isolated=True))[1]
        inner = self.inner.get(pair.reference)
        if own is not None and own.lsb_max is not None and inner:
            why += f"; weak: the region rounds {inner.count} inner tensors, so its own error has a wider limit"
        elif own is not None and own.lsb_max is not None and self.weights_unknown:
            why += f"; weak: the candidate's weights are unknown, so its own error is judged at {WEAK_LSB:g} steps"
        if empty:
            return Status.UNKNOWN, empty
        if exchanges_axes(pair.layout):
            why += f"; equal shapes, but its axes are in another order {pair.layout.permutation}"
        if own is not None:
            return (Status.PASS, why) if within else (Status.DRIFT, why)
        if within:
            return Status.PASS, f"{why}; own error unknown: {why_not}"
        return Status.UNKNOWN, f"{why}; own error unknown, so not told from an inherited one: {why_not}"

    def _layout_matters(self, pair: Pair, within: bool) -> bool:
        for permutation in pair.layout.alternatives:
            other = replace(pair, layout=replace(pair.layout, permutation=permutation, alternatives=()))
            if judge(self.metrics(other), self.tolerance(pair))[0] != within:
                return True
        return False


def read_bytes(pair: Pair) -> int:
    """What is read of both tensors to compare them."""
    return 2 * READ_BYTES * math.prod(pair.layout.reference_shape)


def without_axis(value: Array, quant: Quant | None) -> tuple[Array, Quant | None]:
    """A tensor quantized per channel is dequantized: its axis means nothing in the reference's layout."""
    if quant is not None and quant.axis is not None and quant.scale.size > 1:
        return quant.dequantize(value), None
    return value, quant
