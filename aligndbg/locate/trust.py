"""Which pairs are confirmed, and which are in doubt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aligndbg.core.regions import next_pairs
from aligndbg.core.types import Graph, Pair, RunAgain
from aligndbg.locate.replay import rerun_name
from aligndbg.match.pairing import EVIDENT
from aligndbg.match.thresholds import NEAR
from aligndbg.measure.results import Metrics

__all__ = ["Standing", "spread_error", "stand"]


@dataclass(frozen=True)
class Standing:
    """What tells which pairs are in doubt: the own metrics of all of them, and those over tolerance.

    `refused` says why a pair could not be overridden, `set_aside` are the user's pairs that are overridden no more. Of
    the pairs over tolerance, `improved` are far less so than when nothing was overridden, `worsened` more so.
    """

    own: Mapping[str, Metrics]
    over_tolerance: frozenset[str]
    refused: Mapping[str, str]
    set_aside: frozenset[str]
    run_again: RunAgain
    improved: frozenset[str]
    worsened: frozenset[str]


def stand(graph: Graph, pairs: Sequence[Pair], s: Standing) -> tuple[dict[str, str], dict[str, str]]:
    """Pairs whose own error cannot be known, and pairs that nothing confirms, each with the reason."""
    shadowed = _shadowed(graph, pairs, s.over_tolerance, s.refused, s.run_again)
    own = {r: m for r, m in s.own.items() if r not in shadowed}
    return shadowed, _unconfirmed(graph, pairs, own, s.over_tolerance - shadowed.keys(), s)


def _shadowed(
    graph: Graph, pairs: Sequence[Pair], over_tolerance: frozenset[str], refused: Mapping[str, str], run_again: RunAgain
) -> dict[str, str]:
    """Pairs over tolerance that are computed from a wrong tensor that could not be overridden, with the reason."""
    by_name = {rerun_name(p, run_again): p for p in pairs}
    consumers = graph.consumers()
    out: dict[str, str] = {}
    todo = [name for name, p in by_name.items() if p.reference in refused and p.reference in over_tolerance]
    while todo:
        name = todo.pop()
        why = refused[by_name[name].reference]
        for p in next_pairs(consumers, by_name, name):
            if p.reference in over_tolerance and p.reference not in out:
                out[p.reference] = f"computed from {name}, which is over tolerance and cannot be overridden: {why}"
                if p.reference in refused:
                    todo.append(rerun_name(p, run_again))
    return out


def _unconfirmed(
    graph: Graph,
    pairs: Iterable[Pair],
    own: Mapping[str, Metrics],
    over_tolerance: frozenset[str],
    s: Standing,
) -> dict[str, str]:
    """Provisional pairs over tolerance that nothing confirms, with the reason."""
    # A pair set aside is not overridden: what is computed from it is computed from what comes before it.
    by_name = {rerun_name(p, s.run_again): p for p in pairs if p.reference not in s.set_aside}
    consumers = graph.consumers()
    out = dict.fromkeys(s.set_aside, "given by --map, and its values or what is computed from it disagree")
    for name, p in by_name.items():
        if p.reference not in over_tolerance:
            continue  # values that agree by chance (x - y for y - x twice over) come out here too
        below = next_pairs(consumers, by_name, name)
        if p.method != "user" and spread_error(own[p.reference]) <= NEAR:
            continue  # (the user may have crossed two that are near)
        if p.provisional and not below:
            continue  # where nothing is computed from it, nothing could confirm it, nor be poisoned by it
        if p.confidence == EVIDENT and not any(d.reference in s.worsened for d in below):
            continue
        if any(d.reference in own and (d.reference not in over_tolerance or d.reference in s.improved) for d in below):
            continue
        out[p.reference] = "nothing computed from it comes out right once it is overridden"
    return out


def spread_error(m: Metrics) -> float:
    return m.rmse / m.std_reference if m.std_reference > 0 else float("inf")
