"""What experiments proved, and which of it stands under a user's limits."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from aligndbg.core.regions import region
from aligndbg.core.types import Array, Fault, Graph, Pair, Region
from aligndbg.measure.judge import Judge
from aligndbg.measure.results import Metrics
from aligndbg.measure.tolerance import Tolerance

__all__ = ["Probed", "Proved", "ProvedFault", "fault_at", "standing_faults"]


@dataclass(frozen=True)
class ProvedFault:
    """A fault with the pair of tensors that it lies between, that pair's own metrics, and the usual limits of both.

    `as_run`: the metrics are those of the plain runs, since it shows only where each side reads its own values.
    """

    fault: Fault
    pair: Pair
    own: Metrics
    limits: Tolerance
    as_run: bool = False


class Probed(TypedDict):
    """On how many random inputs of its own each of how many regions was tested; and why on no more."""

    runs: int
    regions: int
    why_not: str


@dataclass(frozen=True)
class Proved:
    """`excused` says, by reference name, why a pair over its limit is no fault: nothing computed from it feels it.

    `witnesses` gives, for an operator that one side lacks, by the fault's tensors, the pair below that shows it (its
    reference name) with the values of the side that is run again where the fault is not corrected.

    `standing` are the faults under the user's limits with what they do at the outputs, and `corrected` each output's
    error, relative L2 by the reference's name, with all of those corrected; None where no run told it. `left_open` says
    what no experiment could tell, by reference name.
    """

    faults: tuple[ProvedFault, ...]
    excused: Mapping[str, str] = field(default_factory=dict)
    experiments: int = 0
    standing: tuple[Fault, ...] = ()
    corrected: Mapping[str, float] | None = None
    left_open: Mapping[str, str] = field(default_factory=dict)
    probed: Probed | None = None

    witnesses: Mapping[tuple[str | None, str | None], tuple[str, Mapping[str, Array]]] = field(default_factory=dict)

    def hidden(self, reference: str) -> str:
        """Why a pair whose own error is within its limit on this input is a fault all the same; "" for any other."""
        for one in self.faults:
            if one.as_run and one.fault.reference == reference:
                return "NaN or Inf begin here, from what its own side computed: isolated, it is given the other side's"
            if one.fault.hidden and one.fault.reference == reference:
                error = one.fault.isolated_error
                return f"own error {error:.2g} on other values at its borders, hidden on this input"
        return ""


def standing_faults(
    judge: Judge, proved: Proved, pairs: Iterable[Pair], own: Mapping[str, Metrics], not_overridden: Container[str]
) -> list[Fault]:
    """The proved faults that are over the user's limits too, where there are any; and what is over those alone."""
    known = list(pairs)
    borders = [p for p in known if p.reference not in not_overridden]
    found = [p.fault for p in proved.faults if not judge.proved_within(p.pair, p.own, p.limits)]
    places = {(p.fault.reference, p.fault.candidate) for p in proved.faults}
    for pair in known:
        metrics = own.get(pair.reference)
        if metrics is None or (pair.reference, pair.candidate) in places or not judge.limited_by_user(pair):
            continue
        if not judge.own_within(pair, metrics):
            found.append(fault_at(judge, pair, borders, metrics))
    order = {p.reference: k for k, p in enumerate(known)}
    return sorted(found, key=lambda f: order.get(f.reference or "", -1)) if len(found) > len(proved.faults) else found


def fault_at(judge: Judge, pair: Pair, borders: Iterable[Pair], own: Metrics, lacking: str = "") -> Fault:
    """The fault between two tensors that differ by `own`. `lacking` is the side, if any, that has no operator there."""
    known = list(borders)
    ours, theirs = {p.reference for p in known}, {p.candidate for p in known}
    left, right = judge.reference.graph, judge.candidate.graph
    node_r, node_c = left.producers().get(pair.reference), right.producers().get(pair.candidate)
    return Fault(
        reference=pair.reference,
        candidate=pair.candidate,
        reference_op=node_r.op_type if node_r else "",
        candidate_op=node_c.op_type if node_c else "",
        isolated_error=own.rel_l2 if own.lsb_max is None else own.lsb_max,
        isolated_unit="rel_l2" if own.lsb_max is None else "lsb",
        region_reference=_region(left, pair.reference, ours, lacking == "reference"),
        region_candidate=_region(right, pair.candidate, theirs, lacking == "candidate"),
        reference_scope=node_r.scope if node_r else "",
        candidate_scope=node_c.scope if node_c else "",
    )


def _region(graph: Graph, name: str, paired: set[str], lacking: bool) -> Region:
    """A border tensor has no operator of its own in the fault: it is where the other side has one more."""
    if lacking:
        return Region((), (name,), (name,))
    return region(graph, name, paired - {name})
