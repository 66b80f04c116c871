"""Integers, booleans and strings between operators and at the outputs, held against each other exactly.

Two of them are paired where one operator computes them from paired tensors. The run with every pair cut has already
computed each from the other side's values.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

import numpy as np

from aligndbg.core.layouts import layouts
from aligndbg.core.moves import LAYOUT_OPS
from aligndbg.core.qdq import read_through
from aligndbg.core.types import Array, Layout, Node, Pair, RunAgain, Trace
from aligndbg.locate.captured_pair import CapturedPair
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.replay import Replay
from aligndbg.measure.exact import CHOICES, Exact, as_numbers, best_layout, first_places, margin_of

__all__ = ["ExactTensors"]

ROUNDED = ("QuantizeLinear", "DynamicQuantizeLinear")  # integers that stand for real values: no choice is made there
DRAWN = ("Bernoulli", "Multinomial", "Dropout")
CUT = ("value", "user", "experiment")  # how a pair was found that the last run overrides


@dataclass(frozen=True)
class _Same:
    """A candidate's tensor that is held to be a reference's, and how it lies. `clean`: in the run with every pair cut
    both are equal, or one is overridden."""

    candidate: str
    layout: Layout
    clean: bool
    passed: bool = True


class ExactTensors:
    """`found` are all that are paired, with the pair where they are of one size. `passed` names the pairs of floats
    within tolerance, by reference."""

    def __init__(
        self, sides: CapturedPair, isolation: Isolation | None, pairs: tuple[Pair, ...], passed: Container[str]
    ) -> None:
        self._isolation = isolation
        self._left, self._right = sides.left.trace, sides.right.trace
        self._fixed = self._left.graph.fixed, self._right.graph.fixed
        self._theirs = [
            n for n in self._right.graph.nodes if any(self._countable(self._right, o, 1) for o in n.outputs)
        ]
        self._known: dict[str, _Same] = {}
        self._by_candidate: dict[str, str] = {}
        self.found: list[tuple[Exact, Pair | None]] = []
        for r, c, layout in sides.links:
            self._know(r, _Same(c, layout, True))
        for p in pairs:
            self._know(p.reference, _Same(p.candidate, p.layout, self.is_cut(p), p.reference in passed))
        self._compare()

    def _know(self, reference: str, same: _Same) -> None:
        self._known[reference] = same
        self._by_candidate[same.candidate] = reference

    def is_cut(self, pair: Pair) -> bool:
        i = self._isolation
        return i is not None and pair.method in CUT and pair.reference not in i.not_overridden

    @property
    def told(self) -> tuple[Exact, ...]:
        """Every pair of them that differs, and every one at the outputs; outputs without a counterpart, too."""
        return tuple(e for e, _ in self.found if e.share or e.output)

    def _compare(self) -> None:
        for node in self._left.graph.nodes:
            mine = [o for o in node.outputs if self._countable(self._left, o, 0) and node.canonical not in ROUNDED]
            partner = self._partner(node) if mine else None
            for r, c in zip(node.outputs, partner.outputs if partner else (), strict=False):
                if r in mine and self._countable(self._right, c, 1):
                    self._add(r, c, node, partner)
        self._outputs()

    def _countable(self, trace: Trace, name: str, side: int) -> bool:
        return bool(name) and name not in self._fixed[side] and is_exact(trace, name)

    # ---- which is which

    def _partner(self, node: Node) -> Node | None:
        """The candidate's one operator of this kind that reads the counterparts of what this one reads."""
        if node.canonical.startswith("Random") or node.canonical in DRAWN:
            return None
        read = [self._source(i, 0) for i in self._data(node, 0)]
        wanted = [self._known[r].candidate if r in self._known else None for r in read]
        if not wanted or None in wanted:
            return None
        alike = (other for other in self._theirs if other.canonical == node.canonical)
        fitting = [n for n in alike if [self._source(i, 1) for i in self._data(n, 1)] == wanted]
        return fitting[0] if len(fitting) == 1 else None

    def _data(self, node: Node, side: int) -> list[str]:
        return [i for i in node.inputs if i and i not in self._fixed[side]]

    def _source(self, name: str, side: int) -> str:
        """The nearest tensor with a counterpart that this one holds the values of."""
        trace, known = (self._left, self._known) if side == 0 else (self._right, self._by_candidate)
        while name not in known:
            made = trace.graph.producers().get(name)
            if made is None or not _copies(trace, made):
                break
            name = made.inputs[0]
        return name

    # ---- what they hold

    def _add(self, r: str, c: str, node: Node | None, partner: Node | None, why: str = "") -> None:
        ours, theirs = as_numbers(self._left.values[r], self._right.values[c])
        ends = r in self._left.graph.outputs or c in self._right.graph.outputs
        op = node.op_type if node else ""
        fitting = layouts(ours.shape, theirs.shape)
        best = best_layout(ours, theirs, fitting[:1] if ours.shape == theirs.shape else fitting)
        if best is None:
            note = f"{r!r} is {list(ours.shape)} in the reference, {c!r} {list(theirs.shape)} in the candidate"
            self.found.append((Exact(r, c, op, ours.size, 1.0, ends, note=note), None))
            return
        layout, unlike = best
        share = float(np.mean(unlike)) if ours.size else 0.0
        read = [self._known[self._source(i, 0)] for i in self._data(node, 0)] if node and partner else []
        own = self._own(r, c, layout, read) if share or self._isolation else None
        shown = self._left.values[r], np.asarray(layout.to_reference(self._right.values[c]))
        exact = Exact(
            r,
            c,
            op,
            ours.size,
            share,
            ends,
            first_places(*shown, unlike),
            own,
            bool(read) and all(same.passed for same in read) and own is False,
            constant=bool(ours.size) and bool((ours == ours.reshape(-1)[0]).all()),
        )
        if share and node is not None and partner is not None:
            exact = self._as_a_choice(self._with_margin(exact, node, layout, unlike), node, partner, read)
        exact = replace(exact, note=_note(exact, why))
        self.found.append((exact, Pair(r, c, layout, "experiment", 1.0, "one operator, computed from paired tensors")))
        self._know(r, _Same(c, layout, own is False, not share or exact.explained))

    def _own(self, r: str, c: str, layout: Layout, read: list[_Same]) -> bool | None:
        """Whether the two differ where both are computed from the same values."""
        if not read:
            return None
        i = self._isolation
        same = [self._alike(self._by_candidate[s.candidate], s) for s in read]
        if all(same):
            return bool(np.any(np.not_equal(*as_numbers(*self.values(r, c, layout, None)))))
        if i is None or i.replay is None or not all(s.clean and self._kept(s) for s in read):
            return None
        name = r if i.run_again is RunAgain.REFERENCE else c
        if name not in i.replay.trace.values:
            return None
        values = self.values(r, c, layout, i.replay)
        return values[0].shape != values[1].shape or bool(np.any(np.not_equal(*as_numbers(*values))))

    def values(self, r: str, c: str, layout: Layout, replay: Replay | None) -> tuple[Array, Array]:
        """Both, in the reference's layout where they are of one size; of one side as `replay` computed it."""
        ours, theirs = self._left.values[r], self._right.values[c]
        if replay is not None and self._isolation is not None:
            again = self._isolation.run_again is RunAgain.REFERENCE
            ours, theirs = (replay.trace.values[r], theirs) if again else (ours, replay.trace.values[c])
        return ours, layout.to_reference(theirs) if theirs.size == np.prod(layout.candidate_shape) else theirs

    def _alike(self, r: str, same: _Same) -> bool:
        """Whether both sides hold the very same values there."""
        named = ((self._left, r), (self._right, same.candidate))
        if any(n not in t.values for t, n in named):
            return False
        numbers = as_numbers(*(_real(t, n) for t, n in named))
        return bool(np.array_equal(numbers[0], same.layout.to_reference(numbers[1])))

    def _kept(self, same: _Same) -> bool:
        """Whether the side that is run again can hold the other side's very values."""
        assert self._isolation is not None
        r = self._by_candidate[same.candidate]
        told, again = (self._right, self._left), (same.candidate, r)
        if self._isolation.run_again is RunAgain.CANDIDATE:
            told, again = told[::-1], again[::-1]
        leader, follower = told
        if follower.quant(again[1]) is not None or read_through(leader.graph.consumers(), again[0]) is not None:
            return False
        types = [t.values[n].dtype for t, n in zip(told, again, strict=True) if n in t.values]
        return leader.quant(again[0]) is not None or (len(types) == 2 and np.can_cast(types[0], types[1], "safe"))

    def _as_a_choice(self, exact: Exact, node: Node, partner: Node, read: list[_Same]) -> Exact:
        """Which of equals is chosen is nobody's fault, unless the two files ask for another one."""
        asked = [n.attributes.get("select_last_index", 0) for n in (node, partner)]
        if node.canonical not in CHOICES or not exact.own or exact.margin is None:
            return replace(exact, own=None) if node.canonical in CHOICES and exact.margin is None else exact
        if exact.margin > 0 or asked[0] != asked[1]:
            return exact
        return replace(exact, own=None, explained=all(same.passed for same in read))

    def _with_margin(self, exact: Exact, node: Node, layout: Layout, unlike: Array) -> Exact:
        """How near the scores of a choice are where the choices differ."""
        source = self._data(node, 0)[0]
        same = self._known.get(source)
        if same is None or (len(node.inputs) > 1 and node.canonical != "TopK"):
            return exact  # an axis that is an input is not known here
        ours, theirs = self._left, self._right
        scores = _real(ours, source), _real(theirs, same.candidate)
        chosen = self._left.values[exact.reference], layout.to_reference(self._right.values[exact.candidate])
        told = margin_of(
            node.canonical, node.attributes, (scores[0], same.layout.to_reference(scores[1])), chosen, unlike
        )
        return exact if told is None else replace(exact, margin=told[0], apart=told[1])

    # ---- outputs

    def _outputs(self) -> None:
        """Those that no operator pairs: by name, or as the only one that is left on each side."""
        told = {e.reference for e, _ in self.found}, {e.candidate for e, _ in self.found}
        traces = self._left, self._right
        known = all(t.graph.outputs for t in traces)  # a dump does not say which are outputs
        among = [list(dict.fromkeys(t.graph.outputs)) or list(t.values) for t in traces]
        left, right = ([o for o in among[k] if o not in told[k] and is_exact(t, o)] for k, t in enumerate(traces))
        for name in [n for n in left if n in right]:
            self._add(name, name, self._left.graph.producers().get(name), None, "an output of this name on both sides")
            left.remove(name)
            right.remove(name)
        if known and len(left) == len(right) == 1:
            node = self._left.graph.producers().get(left[0])
            self._add(left.pop(), right.pop(), node, None, "the only outputs of whole numbers or words that are left")
        for k, names in enumerate((left, right)):
            for name in names if known else ():
                note = f"{name!r} has no counterpart in the {('candidate', 'reference')[k]}"
                ends = (name, "") if k == 0 else ("", name)
                self.found.append((Exact(*ends, "", 0, 1.0, True, note=note), None))


def _real(trace: Trace, name: str) -> Array:
    value, quant = trace.values[name], trace.quant(name)
    return value if quant is None else quant.dequantize(value)


def is_exact(trace: Trace, name: str) -> bool:
    return name in trace.values and trace.quant(name) is None and trace.values[name].dtype.kind in "biuOUS"


def _copies(trace: Trace, node: Node) -> bool:
    """Whether a node's output holds the values of its first input, none of them rounded."""
    if node.canonical in LAYOUT_OPS:
        return True
    if node.canonical != "Cast" or any(n not in trace.values for n in (node.inputs[0], node.outputs[0])):
        return False
    before, after = (trace.values[n].dtype for n in (node.inputs[0], node.outputs[0]))
    return before.kind == after.kind or np.can_cast(before, after, casting="safe")


def _note(e: Exact, why: str) -> str:
    """The whole in one sentence."""
    made = f" ({e.operator})" if e.operator else ""
    if not e.share:
        return f"{e.reference!r}{made}: all {e.count} values are equal"
    first = "; ".join(f"{list(p.index)}: {p.reference} against {p.candidate}" for p in e.first)
    text = f"{e.reference!r}{made}: {round(e.share * e.count)} of {e.count} values differ, the first at {first}"
    if e.margin is not None and e.apart is not None:
        near = f"at most {e.margin:.2g} apart" if e.margin else "ties"
        text += f"; there the two scores are {near}, and the sides' own differ by up to {e.apart:.2g}"
    if e.explained:
        same = "which of equals is chosen" if e.own is None else "computed from the same values both are equal"
        text += f"; {same}, and what it reads is within tolerance"
    return f"{text} (held together as {why})" if why else text
