"""Pairing by place in the graph, where values have diverged: same paired ancestors, same size, same op.

Never by position in a list. A pair found here is provisional: the report says so, and only what is found downstream
of it, once its output has been overridden, confirms it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np

from aligndbg.core.layouts import Shape, layouts
from aligndbg.core.ops import (
    FAMILIES,
    KINDRED,
    PASSIVE_OPS,
    RECURRENT_OPS,
    SAME_RESULT,
    WEIGHT_OPS,
    ops_agree,
    step_of,
    written_out,
)
from aligndbg.core.types import Node
from aligndbg.match.candidates import possible
from aligndbg.match.layouts import Fit, clearly_apart
from aligndbg.match.names import similarity
from aligndbg.match.side import Side, is_cell, is_hidden, moved_from
from aligndbg.match.state import Link, State
from aligndbg.match.thresholds import FAR_BETTER, NEAR, NEAR_QUANTIZED, STRICT
from aligndbg.match.values import settle_layout

__all__ = ["match_structure", "reaches_pairs"]


ACCEPT = 0.5
MARGIN = 0.04
MANY = 16  # pairs that are compared at once rather than one by one


def match_structure(state: State) -> None:
    """Pair what is left, region by region in the reference's order, until a whole pass finds nothing new.

    One pair at a time: each makes the regions after it smaller, and what looks alike now may not then.
    """
    if not state.reference.graph.nodes or not state.candidate.graph.nodes:
        return
    given = frozenset(state.links)
    while True:
        before = len(state.links)
        barren: set[tuple[frozenset[str], int]] = set()
        for r in state.reference.names:
            while r not in state.links:
                state.tick()
                border = state.frontier(state.reference, r)
                key = (border, state.reference.count(r))
                if not border or border == {"?"} or key in barren:
                    break
                link = _best_in_region(state, *key)
                if link is None:
                    barren.add(key)
                else:
                    state.add(link)
        if len(state.links) == before:
            _pair_what_is_read(state)
        if len(state.links) == before:
            break
    for link in [link for r, link in state.links.items() if r not in given and _vanishes(state, link)]:
        state.drop(link)


def _pair_what_is_read(state: State) -> None:
    """Pair upwards: what the same op reads on both sides, where nothing before it could be paired."""
    for r in reversed(state.reference.names):
        link = state.links.get(r)
        rn, cn = state.reference.node(r), state.candidate.node(link.candidate) if link else None
        if link is None or rn is None or cn is None or ops_agree(rn, cn) < SAME_RESULT:
            continue
        read = state.unpaired_inputs(rn, cn)
        if read is None:
            continue
        fits = state.fits(*read)
        above_r, above_c = state.reference.node(read[0]), state.candidate.node(read[1])
        if not fits or above_r is None or above_c is None or step_of(above_r, above_c):
            continue
        if not state.ends_alike(*read) or not _plays_its_part(state, *read):
            continue
        fit = settle_layout(state, *read, fits)
        evidence = f"read by {r} and {link.candidate}, which are paired, sampled error {fit.error:.2g} of the spread"
        state.add(Link(*read, fit.layout, "structure", fit.error, evidence))


def _vanishes(state: State, link: Link) -> bool:
    """True where a large difference is gone in every pair right below: then the two are not counterparts but different
    steps of the same computation (a scale folded into a weight on one side, say)."""
    quantized = state.reference.quant(link.reference) is not None or state.candidate.quant(link.candidate) is not None
    if link.error <= (NEAR_QUANTIZED if quantized else NEAR):
        return False
    if _read_alike(state, link.reference, link.candidate):
        return False  # what reads them hides a fault (Softmax a common offset, pooling a pixel)
    lower, seen, stack = [], {link.reference}, [link.reference]
    while stack:
        for node in state.reference.consumers.get(stack.pop(), ()):
            for o in node.outputs:
                if not o or o in seen:
                    continue
                seen.add(o)
                if o in state.links:
                    lower.append(state.links[o].error)
                else:
                    stack.append(o)
    return bool(lower) and all(error < link.error / 3 for error in lower)


def _best_in_region(state: State, border: frozenset[str], count: int) -> Link | None:
    """The best-scored pair among the tensors of one size that hang on the same paired tensors on both sides."""
    ours = _hanging(state, state.reference, border, count)
    theirs = _hanging(state, state.candidate, border, count)
    _tell_apart(state, ours, theirs)
    scored: dict[tuple[str, str], tuple[float, list[Fit]]] = {}
    for r, c in possible(state, ours, theirs):
        scored_pair = None if state.hopeless.get((r, c)) else _score(state, r, c)
        if scored_pair:
            scored[(r, c)] = scored_pair
    for r, c in _out_of_turn(state, list(scored), ours, theirs):
        del scored[(r, c)]
    while scored:
        best = max(scored, key=lambda key: scored[key][0])
        if scored[best][0] < ACCEPT:
            return None
        close, steps = _rivals(state, scored, *best)
        alike = [key for key in (best, *close, *steps) if _read_alike(state, *key)] if close or steps else []
        chosen = alike[0] if len(alike) == 1 else None if close else best
        if chosen:
            (r, c), (score, fits) = chosen, scored[chosen]
            fit = settle_layout(state, r, c, fits)
            evidence = (
                f"same paired ancestors ({len(border)}), {state.reference.op(r)} against {state.candidate.op(c)}, "
                f"sampled error {fit.error:.2g} of the spread, score {score:.2f}"
            )
            return Link(r, c, fit.layout, "structure", fit.error, evidence, _evident(state, r, c, ours, theirs))
        scored = {k: v for k, v in scored.items() if k[0] != best[0] and k[1] != best[1]}
    return None


def _rivals(
    state: State, scored: Mapping[tuple[str, str], tuple[float, list[Fit]]], r: str, c: str
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs of `r` or `c` with another tensor, equal tensors aside: those that score about as well, and those of two
    steps of one weighted op (its bias, its normalization)."""
    close, steps = [], []
    for (rr, cc), (score, _) in scored.items():
        if (rr == r) == (cc == c) or (_equal(state.reference, r, rr) and _equal(state.candidate, c, cc)):
            continue
        if score > scored[r, c][0] - MARGIN:
            close.append((rr, cc))
        elif score >= ACCEPT and _same_weight(state, r, c) and _same_weight(state, rr, cc):
            steps.append((rr, cc))
    return close, steps


def _same_weight(state: State, r: str, c: str) -> bool:
    return state.weights_agree(*_nodes(state, r, c)) == 1


def _out_of_turn(
    state: State, scored: Sequence[tuple[str, str]], ours: Sequence[str], theirs: Sequence[str]
) -> list[tuple[str, str]]:
    """The pairs that skip one: of ops that take each other's place, as many on both sides, those that read the same
    belong together, even where one of them has become another op of its kind."""
    reads_same = {(r, c) for r, c in scored if state.same_inputs(*_nodes(state, r, c))}
    out = []
    for r, c in scored:
        rn, cn = _nodes(state, r, c)
        family = next((f for f in FAMILIES if rn.tail in f and cn.tail in f), None)
        if family is None or (r, c) in reads_same:
            continue
        left = [n for n in ours if state.reference.producer[n].tail in family]
        right = [n for n in theirs if state.candidate.producer[n].tail in family]
        skipped = any((r, n) in reads_same for n in right) or any((n, c) in reads_same for n in left)
        if skipped and len(left) == len(right):
            out.append((r, c))
    return out


def _nodes(state: State, r: str, c: str) -> tuple[Node, Node]:
    return state.reference.producer[r], state.candidate.producer[c]


def _equal(side: Side, one: str, other: str) -> bool:
    """Whether two tensors hold the same values, as an LSTM's two hidden outputs do: either will do."""
    return one == other or np.array_equal(side.sample(one), side.sample(other))


def _plays_its_part(state: State, r: str, c: str) -> bool:
    """False for an output of an LSTM against a step that computes something else."""
    for (fused, name), (steps, other) in (
        ((state.reference, r), (state.candidate, c)),
        ((state.candidate, c), (state.reference, r)),
    ):
        node, step = fused.producer[name], steps.producer[other]
        if node.canonical == "LSTM" != step.canonical and written_out(node, step):
            return is_cell(steps, other) if node.outputs.index(name) == 2 else is_hidden(steps, other)
    return True


def _evident(state: State, r: str, c: str, ours: list[str], theirs: list[str]) -> bool:
    """Whether two nodes are of the same op, an activation inside it aside, and read the same, and no other two of the
    region do with either."""

    def same(one: str, other: str) -> bool:
        rn, cn = state.reference.producer[one], state.candidate.producer[other]
        alike = rn.tail == cn.tail or rn.canonical == cn.canonical
        return alike and rn.canonical not in PASSIVE_OPS and state.same_inputs(rn, cn)

    return same(r, c) and not any(same(r, n) for n in theirs if n != c) and not any(same(n, c) for n in ours if n != r)


def _hanging(state: State, side: Side, border: frozenset[str], count: int) -> list[str]:
    near = list(islice((n for n in state.below(side, border) if side.count(n) == count), 64))
    return [n for n, found in zip(near, state.frontiers(side, near), strict=True) if found == border]


def _score(state: State, r: str, c: str) -> tuple[float, list[Fit]] | None:
    rn, cn = state.reference.node(r), state.candidate.node(c)
    if rn is None or cn is None:
        return None
    ops = ops_agree(rn, cn)
    if (r, c) not in state.hopeless:  # whatever else is paired
        state.hopeless[(r, c)] = not state.ends_alike(r, c) or (_far(state, r, c) and ops < KINDRED)
    if state.hopeless[(r, c)]:
        return None
    if _far(state, r, c) and _nothing_agrees(state, rn, cn):
        return None  # told here for most, before layouts are weighed
    fits = state.fits(r, c)
    if not fits:
        return None
    error = fits[0].error
    if ops < KINDRED and (error > NEAR or step_of(rn, cn) or _only_one_moves(state, r, c)):
        return None
    inputs, weights = state.inputs_agree(rn, cn), state.weights_agree(rn, cn)
    if error > NEAR and _nothing_agrees(state, rn, cn):
        return None
    quantized = state.reference.quant(r) is not None or state.candidate.quant(c) is not None
    near = ops >= SAME_RESULT and error <= (NEAR_QUANTIZED if quantized else NEAR)
    swapped = any({rn.tail, cn.tail} <= family for family in FAMILIES)
    alike = (ops == 1.0 or swapped) and inputs >= 0.8 and _read_alike(state, r, c)
    if not near and not alike and _enclosed(state, r, c, error):
        return None
    if not _plays_its_part(state, r, c):
        return None
    closeness = max(0.0, 1.0 - error)
    recurrent = RECURRENT_OPS & {rn.canonical, cn.canonical}
    if not inputs and written_out(rn, cn) and (recurrent or _read_alike(state, r, c)):
        inputs = 0.6  # inside the written-out op the inputs have no counterpart
    if not inputs and error > NEAR and weights <= 0:
        return None
    whole = state.finished(state.reference, r) == state.finished(state.candidate, c)
    score = 0.10 + 0.30 * ops + 0.20 * inputs + 0.25 * closeness + 0.05 * similarity(r, c)
    if len(rn.outputs) > 1 and len(cn.outputs) > 1:  # the branches of a split look alike but for their place in it
        score += 0.10 if rn.outputs.index(r) == cn.outputs.index(c) else -0.10
    return score + 0.10 * whole + 0.20 * weights, fits


def _far(state: State, r: str, c: str) -> bool:
    """Whether two tensors differ by more than NEAR in every layout."""
    if c not in state.far[r] and c not in state.near[r]:
        (state.far if state.least_error(r, c) > NEAR else state.near)[r].add(c)
    return c in state.far[r]


def _tell_apart(state: State, ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Finds those of many pairs for which `_far` is true: one by one, they take most of the time of a match."""
    if len(ours) * len(theirs) < MANY:
        return
    untold = {r: set(theirs) - state.far[r] - state.near[r] for r in ours}
    asked = set().union(*untold.values())
    left = _alike_shapes(state.reference, [r for r in ours if untold[r]])
    right = _alike_shapes(state.candidate, [c for c in theirs if c in asked])
    for (shape, hints), rs in left.items():
        for (other, more), cs in right.items():
            options = layouts(shape, other, (*hints, *more))
            apart = clearly_apart(state.reference, rs, state.candidate, cs, options, NEAR)
            for r, row in zip(rs, apart, strict=True):
                state.far[r].update(cs[j] for j in np.flatnonzero(row))


def _alike_shapes(side: Side, names: Sequence[str]) -> dict[tuple[Shape, tuple[Shape, ...]], list[str]]:
    """Tensors by their shape and the shapes around them."""
    found = defaultdict(list)
    for n in names:
        found[side.shape(n), side.hints(n)].append(n)
    return found


def _nothing_agrees(state: State, rn: Node, cn: Node) -> bool:
    """True for the same op on a tensor of the same size, and nothing else: no evidence."""
    return not state.share_inputs(rn, cn) and state.weights_agree(rn, cn) <= 0 and not written_out(rn, cn)


def _enclosed(state: State, r: str, c: str, error: float) -> bool:
    """Whether every way down from both comes to pairs where a difference of `error` is gone."""
    settled = partial(_settled, error=error)
    return reaches_pairs(state, state.reference, r, settled) and reaches_pairs(state, state.candidate, c, settled)


def _only_one_moves(state: State, r: str, c: str) -> bool:
    """Whether one of two tensors is a paired value moved, and the other is computed anew."""
    moved = (
        moved_from(state.reference, r, state.links.__contains__),
        moved_from(state.candidate, c, state.by_candidate.__contains__),
    )
    return bool(moved[0]) != bool(moved[1])


def _read_alike(state: State, r: str, c: str) -> bool:
    """Whether the same ops read two tensors, helpers looked through."""
    ours, theirs = _readers(state.reference, r), _readers(state.candidate, c)
    return bool(ours) and ours == theirs


def _readers(side: Side, name: str) -> set[str]:
    """The kinds of ops that read a tensor, those that only move or pad it looked through."""
    found: set[str] = set()
    stack, seen = [name], {name}
    while stack:
        for node in side.consumers.get(stack.pop(), ()):
            if node.canonical in PASSIVE_OPS or node.canonical == "Pad":
                stack += [o for o in node.outputs if o and o not in seen]
                seen.update(node.outputs)
            else:
                found.add("weighted" if node.canonical in WEIGHT_OPS | RECURRENT_OPS else node.canonical)
    return found


def _settled(link: Link, error: float) -> bool:
    """A pair downstream that shows the difference to be gone: one that agrees far better than `error`."""
    return link.error < error / FAR_BETTER or link.error <= STRICT


def reaches_pairs(state: State, side: Side, name: str, counts: Callable[[Link], bool] = lambda link: True) -> bool:
    """True where something reads the tensor and every way down from it comes to a paired tensor that `counts`."""
    if state.open_below(side, name):
        return False
    outputs = side.graph.outputs
    stack, seen = [name], {name, ""}
    while stack:
        n = stack.pop()
        readers = side.consumers.get(n, ())
        if n in outputs or not readers:
            return False
        for node in readers:
            for o in node.outputs:
                if o in seen:
                    continue
                seen.add(o)
                extra = o not in side.consumers and o not in outputs  # nothing reads it
                link = state.link_of(side, o)
                if not extra and not (link and counts(link)):
                    stack.append(o)
    return True
