"""What values leave: the models' outputs, and the tensors of a trace without a graph."""

from __future__ import annotations

from collections import defaultdict

from aligndbg.match.layouts import Fit
from aligndbg.match.names import similarity
from aligndbg.match.side import Side
from aligndbg.match.state import Link, State
from aligndbg.match.thresholds import NEAR, SHARED_WORDS
from aligndbg.match.values import settle_layout

__all__ = ["match_names", "match_outputs", "outputs_of"]


GUESSES = ("structure", "name", "output")  # how pairs are made that values do not prove


def match_outputs(state: State) -> None:
    """Pair the models' outputs that are left: they must be compared even where nothing before them could be.

    Where each side has as many outputs left, one that agrees with the input of the other model's last operator counts
    as left: that operator is missing here, or it moves its input otherwise than the user of this output expects. Two of
    one name are each other's, unless values speak for another counterpart.
    """
    ours, theirs = _open_outputs(state, state.reference), _open_outputs(state, state.candidate)
    even = len(ours) == len(theirs)
    options: dict[tuple[str, str], tuple[float, list[Fit]]] = {}
    for r in ours:
        for c in theirs:
            fits = state.fits(r, c)
            left = even or (r not in state.links and c not in state.by_candidate)
            if fits and ((r == c and _guessed(state, r)) or (left and _one_step(state, r, c))):
                options[(r, c)] = (2.0 * (r == c) + similarity(r, c) - min(fits[0].error, 10.0), fits)
    while options:
        (r, c), (_, fits) = max(options.items(), key=lambda item: item[1][0])
        alone = sum(1 for k in options if k[0] == r) == 1 and sum(1 for k in options if k[1] == c) == 1
        fit = settle_layout(state, r, c, fits)
        why = "the only outputs that fit each other" if alone else "the likeliest by name and value of the outputs left"
        for link in (state.links.get(r), state.by_candidate.get(c)):
            if link:
                state.drop(link)
        state.add(Link(r, c, fit.layout, "output", fit.error, why))
        options = {k: v for k, v in options.items() if k[0] != r and k[1] != c}


def _guessed(state: State, name: str) -> bool:
    """Whether no value speaks for what the two tensors of one name are paired with."""
    links = (state.links.get(name), state.by_candidate.get(name))
    return all(link is None or link.method in GUESSES for link in links)


def _one_step(state: State, r: str, c: str) -> bool:
    """Whether each of two outputs is free, or agrees with what the other one is computed from by one operator, or is
    a moved copy of."""
    inner_r = state.by_candidate[c].reference if c in state.by_candidate else None
    inner_c = state.links[r].candidate if r in state.links else None
    return (inner_r is None or inner_r in state.right_before(state.reference, r)) and (
        inner_c is None or inner_c in state.right_before(state.candidate, c)
    )


def _open_outputs(state: State, side: Side) -> list[str]:
    """The outputs of one model that are not paired with an output of the other, nor by the user."""
    mine = side is state.reference
    others = set(outputs_of(state, state.candidate if mine else state.reference))
    found = []
    for o in outputs_of(state, side):
        link = state.link_of(side, o)
        if o not in side.comparable or (link and link.method == "user"):
            continue
        if link is None or (link.candidate if mine else link.reference) not in others:
            found.append(o)
    return found


def outputs_of(state: State, side: Side) -> tuple[str, ...]:
    """A model's outputs; of a recording that does not say, those that are called as the other model's are."""
    other = state.candidate if side is state.reference else state.reference
    if side.graph.nodes or side.graph.outputs:
        return side.graph.outputs
    return tuple(o for o in other.graph.outputs if o in side.comparable)


def match_names(state: State) -> None:
    """For a trace without a graph: names propose, values must roughly agree, and both must choose each other."""
    if state.reference.graph.nodes and state.candidate.graph.nodes:
        return
    best: dict[str, list[tuple[float, str, str, list[Fit]]]] = defaultdict(list)
    for r in state.reference.names:
        for c in state.candidate.names if r not in state.links else ():
            if c in state.by_candidate or state.reference.count(r) != state.candidate.count(c):
                continue
            alike = similarity(r, c)
            if alike < SHARED_WORDS:
                continue
            fits = state.fits(r, c)
            if fits and fits[0].error <= NEAR:
                option = (alike - fits[0].error, r, c, fits)
                best[f"r:{r}"].append(option)
                best[f"c:{c}"].append(option)
    chosen = {key: max(options, key=lambda o: o[0]) for key, options in best.items()}
    for key, (_, r, c, fits) in chosen.items():
        if key.startswith("r:") and chosen[f"c:{c}"][1] == r:
            fit = settle_layout(state, r, c, fits)
            evidence = f"names share {similarity(r, c):.0%} of their words, sampled error {fit.error:.2g} of the spread"
            state.add(Link(r, c, fit.layout, "name", fit.error, evidence))
