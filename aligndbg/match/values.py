"""Pairing by value: fingerprints propose, sampled values under a solved layout decide, graph position breaks ties."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from aligndbg.core.layouts import exchanged_orders, order_of
from aligndbg.match.layouts import Fit, with_alternatives
from aligndbg.match.shortlist import near_pairs
from aligndbg.match.state import Link, Orders, State
from aligndbg.match.thresholds import (
    COARSE,
    COARSE_NOISE,
    DIVERGED,
    DIVERGED_TIE,
    LAYOUT_TIE,
    NOISE,
    PRECISION,
    PRINT_WINDOW,
    STRICT,
    TIE,
)

__all__ = ["match_values", "settle_layout", "strict_error"]


# By reference name: the sampled error, the candidate's name and every layout of each candidate tensor like it.
_Near = dict[str, list[tuple[float, str, list[Fit]]]]


def strict_error(state: State, r: str, c: str) -> float:
    """The sampled error under which `r` and `c` pair by value."""
    if state.coarse:
        return COARSE
    computed_in = state.reference.precision.of(r), state.candidate.precision.of(c)
    return max(STRICT, *(PRECISION.get(dtype, 0.0) for dtype in computed_in))


def match_values(state: State) -> dict[str, list[str]]:
    """Pair every tensor whose value the other side has too. Returns, for each reference tensor, all its equals."""
    reference, candidate = state.reference, state.candidate
    near: _Near = defaultdict(list)
    computed_in = {side.precision.of(n) for side in (reference, candidate) for n in side.names}
    widest = COARSE if state.coarse else max([STRICT, *(PRECISION.get(dtype, 0.0) for dtype in computed_in)])
    for r, c in near_pairs(reference, candidate, PRINT_WINDOW * widest, widest):
        state.tick()
        limit = strict_error(state, r, c)
        if r in state.links or c in state.by_candidate:
            continue
        fits = state.fits(r, c, limit)
        if fits and fits[0].error <= limit:
            near[r].append((fits[0].error, c, fits))
    state.orders = _orders(near, [link for link in state.links.values() if link.method == "value"])
    near = {r: kept for r, found in near.items() if (kept := _as_usual(state, r, found))}
    best_c: dict[str, float] = {}
    for found in near.values():
        for error, c, _ in found:
            best_c[c] = min(error, best_c.get(c, np.inf))
    equals: _Near = {}
    for r, found in near.items():
        best_r = min(e for e, _, _ in found)
        kept = [f for f in found if f[0] <= _tie(state, best_r) and f[0] <= _tie(state, best_c[f[1]])]
        if kept:
            equals[r] = kept
    for members in _classes(equals):
        _assign(state, members, equals)
    return {r: [c for _, c, _ in found] for r, found in equals.items()}


def _as_usual(state: State, r: str, found: list[tuple[float, str, list[Fit]]]) -> list[tuple[float, str, list[Fit]]]:
    """The equals of `r` that are so without an odd layout."""
    kept = []
    for _, c, _ in found:
        limit = strict_error(state, r, c)
        fits = state.fits(r, c, limit)
        if fits and fits[0].error <= limit:
            kept.append((fits[0].error, c, fits))
    return kept


def _orders(near: _Near, paired: Iterable[Link]) -> Orders:
    """How the tensors that have an equal are laid out, where their values tell it."""
    usual = Counter(order_of(link.layout) for link in paired if not link.layout.alternatives)
    despite: Counter[tuple[int, ...]] = Counter()
    for found in near.values():
        told = [f[0].layout for _, _, f in found if len(f) == 1 or f[1].error > TIE * max(f[0].error, NOISE)]
        usual.update({order_of(layout) for layout in told})
        despite.update({order_of(layout) for layout in told if exchanged_orders(layout)})
    return Orders(usual, despite)


def _tie(state: State, best: float) -> float:
    return max(TIE * best, COARSE_NOISE if state.coarse else NOISE)


def _classes(equals: _Near) -> list[list[str]]:
    """Reference tensors that share possible counterparts, as connected components in execution order."""
    owner: dict[str, int] = {}
    members: dict[int, list[str]] = {}
    for k, (r, found) in enumerate(equals.items()):
        touched = {owner[c] for _, c, _ in found if c in owner}
        root = min(touched, default=k)
        merged = [m for t in sorted(touched) for m in members.pop(t)]
        members[root] = [*merged, r]
        for m in members[root]:
            for _, c, _ in equals[m]:
                owner[c] = root
    return [members[k] for k in sorted(members)]


def _assign(state: State, members: list[str], equals: _Near) -> None:
    """One-to-one within a class of equal values, the best resemblance first, in rounds as pairs inform each other."""
    open_r = list(members)
    while open_r:
        state.tick()
        scored = [
            (state.resemblance(r, c), -state.reference.position[r], -error, r, c, fits)
            for r in open_r
            for error, c, fits in equals[r]
            if c not in state.by_candidate
        ]
        if not scored:
            return
        score, _, error, r, c, fits = max(scored, key=lambda s: s[:3])
        rivals = len({c for _, c, _ in equals[r]})
        evidence = f"values agree within {-error:.1e} of the spread"
        if rivals > 1:
            evidence += f"; chosen among {rivals} equal tensors by graph position (score {score:.2f})"
        fit = settle_layout(state, r, c, fits, _tie(state, -error))
        state.add(Link(r, c, fit.layout, "value", -error, evidence))
        open_r.remove(r)


def settle_layout(state: State, r: str, c: str, fits: list[Fit], slack: float = 0.0) -> Fit:
    """The best layout; of several, the one that the inputs continue, else the usual one, else ambiguous.

    Several fit when their errors lie within `slack`, which a pair proved by value has, or near the best one.
    """
    best = fits[0].error
    slack = slack or max(LAYOUT_TIE * best, NOISE)
    rivals = [f for f in fits if f.error <= max(slack, DIVERGED_TIE * best if best > DIVERGED else 0.0)] or fits[:1]
    if len(rivals) > 1:
        above = {layout.permutation for layout in state.inputs_layouts(r, c)}
        flowing = [f for f in rivals if f.layout.permutation in above]
        usual = state.usual_permutation(len(rivals[0].layout.permutation))
        narrowed = flowing or [f for f in rivals if f.layout.permutation == usual]
        if narrowed:
            return with_alternatives(narrowed)
    return with_alternatives(rivals)
