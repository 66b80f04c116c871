"""The operators that compute other integers, booleans or strings from the same values: an argmax that takes the last of
equals, a division that rounds otherwise."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from aligndbg.core.errors import AligndbgError
from aligndbg.core.regions import next_pairs, region, upward
from aligndbg.core.types import Array, Pair, RunAgain
from aligndbg.locate.captured_pair import CapturedPair
from aligndbg.locate.exact import ExactTensors
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.proved import ProvedFault, fault_at
from aligndbg.locate.replay import rerun_name
from aligndbg.measure.exact import Exact, as_numbers
from aligndbg.measure.judge import Judge
from aligndbg.measure.metrics import compare
from aligndbg.measure.tolerance import Tolerance

__all__ = ["ExactFaults"]


class ExactFaults:
    """`proved()` is the isolation with these faults."""

    def __init__(self, sides: CapturedPair, judge: Judge, isolation: Isolation | None, tensors: ExactTensors) -> None:
        self._sides, self._judge, self._isolation, self._tensors = sides, judge, isolation, tensors
        self._left, self._right = sides.left.trace, sides.right.trace

    def proved(self) -> tuple[Isolation | None, dict[str, str]]:
        """The isolation with those that are faults: they differ when computed from the same values, and an output is
        wrong by it, or what is computed from it next comes right with the other side's. Such a pair is no fault of its
        own any more: the second says so, by its reference name."""
        if self._isolation is None:
            return None, {}
        isolation, healed = self._isolation, dict[str, str]()
        exact_pairs = [(e, p) for e, p in self._tensors.found if p is not None]
        borders = [*isolation.matching.pairs, *(p for _, p in exact_pairs)]
        faults: list[ProvedFault] = []
        for exact, pair in exact_pairs:
            tied = bool(exact.share) and exact.explained and exact.margin == 0
            if not exact.own and not tied:
                continue
            below = self._comes_right(exact, pair)
            healed |= dict.fromkeys(below, f"own error from the {exact.operator} before it, {exact.reference!r}")
            if tied or self._of_a_fault(exact) or not (below or self._at_an_output(exact.reference)):
                continue
            values = as_numbers(*self._tensors.values(pair.reference, pair.candidate, pair.layout, isolation.replay))
            own = compare(*values, tolerance=Tolerance(rel_l2=0.0))
            fault = fault_at(self._judge, pair, borders, own)
            faults.append(ProvedFault(fault, pair, own, Tolerance(rel_l2=0.0)))
        if not faults and not healed:
            return isolation, {}
        return _with(isolation, faults, healed, self._left.order), healed

    def _of_a_fault(self, exact: Exact) -> bool:
        """An output of a node whose other output is a fault already."""
        node = self._left.graph.producers().get(exact.reference)
        assert self._isolation is not None
        told = {f.reference for f in self._isolation.proved.standing}
        return node is not None and not told.isdisjoint(node.outputs)

    def _at_an_output(self, name: str) -> bool:
        return name in self._left.graph.outputs or any(
            e.output and e.share and any(i == name for _, i in upward(self._left.graph, [e.reference], lambda _: True))
            for e, _ in self._tensors.found
        )

    def _comes_right(self, exact: Exact, pair: Pair) -> list[str]:
        """Of the pairs below, by reference name, those that are wrong alone and right with the other side's values."""
        i = self._isolation
        if i is None or i.replay is None:
            return []
        again = i.run_again is RunAgain.CANDIDATE
        follower, backend = (self._right, self._sides.candidate) if again else (self._left, self._sides.reference)
        name = rerun_name(pair, i.run_again)
        pairs = {rerun_name(p, i.run_again): p for p in i.matching.pairs if self._tensors.is_cut(p)}
        wrong = [
            p
            for p in next_pairs(follower.graph.consumers(), pairs, name)
            if p.reference in i.own and not self._judge.own_within(p, i.own[p.reference])
        ]
        names = [rerun_name(p, i.run_again) for p in wrong]
        overrides = dict(i.replay.weights) | {name: self._given(pair)}
        for at in names:
            for border in region(follower.graph, at, pairs.keys() - {at} | {name}).inputs:
                if border in pairs:
                    overrides[border] = self._given(pairs[border])
        try:
            got = dict(backend.run(i.replay.feeds, names, overrides)) if names else {}
        except AligndbgError:
            return []
        trace = replace(i.replay.trace, values=ChainMap(got, cast(dict[str, Array], i.replay.trace.values)))
        return [p.reference for p in wrong if self._judge.own_within(p, self._judge.isolated(p, trace, i.run_again))]

    def _given(self, pair: Pair) -> Array:
        """The other side's value as the side that is run again takes it."""
        assert self._isolation is not None
        again = self._isolation.run_again is RunAgain.CANDIDATE
        told, follower = (self._left, self._right) if again else (self._right, self._left)
        a, b = (pair.reference, pair.candidate)[:: 1 if again else -1]
        quant, own, like = told.quant(a), follower.quant(b), follower.values[b].dtype
        real = told.values[a] if quant is None else quant.dequantize(told.values[a])
        moved = pair.layout.to_candidate(real) if again else pair.layout.to_reference(real)
        return np.asarray(moved.astype(like) if own is None else own.quantize(moved, like), order="C")


def _with(
    isolation: Isolation, faults: list[ProvedFault], healed: Mapping[str, str], names: Sequence[str]
) -> Isolation:
    """With these faults, and without those of the pairs that they explain."""

    def stays(one: ProvedFault) -> bool:
        return one.pair.reference not in healed

    proved = isolation.proved
    gone = {(f.fault.reference, f.fault.candidate) for f in proved.faults if not stays(f)}
    standing = [f for f in proved.standing if (f.reference, f.candidate) not in gone]
    order = {name: k for k, name in enumerate(names)}
    proved = replace(
        proved,
        faults=(*filter(stays, proved.faults), *faults),
        excused={**proved.excused, **healed},
        standing=tuple(sorted([*standing, *(f.fault for f in faults)], key=lambda f: order.get(f.reference or "", -1))),
        corrected=None,
    )
    own = frozenset(f.pair.reference for f in faults)
    return replace(
        isolation,
        proved=proved,
        over_tolerance=isolation.over_tolerance - healed.keys() | own,
        exact=tuple(f.pair for f in faults),
    )
