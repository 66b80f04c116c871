"""Values that agree under one order of axes where what moves them on tells another: axes of one size were exchanged."""

from __future__ import annotations

from aligndbg.core.layouts import exchanged_orders
from aligndbg.core.ops import FAMILIES, LAYOUT_OPS, PASSIVE_OPS
from aligndbg.match.side import Side, moved_from
from aligndbg.match.state import Link, State
from aligndbg.match.values import strict_error

__all__ = ["drop_reordered"]


# Ops to which all axes are the same: they tell nothing about an order.
ORDERLESS = PASSIVE_OPS | FAMILIES[1]


def drop_reordered(state: State) -> set[str]:
    """Give up the pairs on which a wrong move may lie, and return their reference names.

    Two tensors differ, but are only moved from two that agree: somewhere axes are in a wrong order. Where those two
    agree under an order that shapes do not tell from others, nor the rest of the model, the wrong move may come before
    them. From the last op to which axes are not all the same, it is one region then.
    """
    dropped: set[str] = set()
    for link in list(state.links.values()):
        above = _moved_from(state, link)
        if above is None or above.reference in dropped:
            continue
        if not exchanged_orders(above.layout) or state.orders.settled(above.layout):
            continue
        ours = _chain(state.reference, above.reference)
        theirs = _chain(state.candidate, above.candidate)
        if not (_moves(state.reference, ours) or _moves(state.candidate, theirs)):
            continue
        for name in [*ours, *(state.by_candidate[c].reference for c in theirs if c in state.by_candidate)]:
            found = state.links.get(name)
            if found and found.method not in ("user", "feed"):
                state.drop(found)
                dropped.add(name)
    return dropped


def _moved_from(state: State, link: Link) -> Link | None:
    """The pair whose values agree and of which `link`, whose values do not, is a moved copy on both sides."""
    ref, cand = state.reference, state.candidate
    if link.method in ("user", "feed") or link.error <= strict_error(ref, link.reference, cand, link.candidate):
        return None
    above = state.links.get(moved_from(ref, link.reference, state.links.__contains__))
    if (
        above is None
        or above.method == "feed"
        or above.candidate != moved_from(cand, link.candidate, state.by_candidate.__contains__)
    ):
        return None
    return above if above.error <= strict_error(ref, above.reference, cand, above.candidate) else None


def _chain(side: Side, name: str) -> list[str]:
    """`name` and what it is computed from by orderless ops alone, up to the first tensor that another op made."""
    chain = []
    node = side.producer.get(name)
    while node is not None and node.canonical in ORDERLESS:
        inputs = side.data_inputs(node)
        if len(inputs) != 1:
            break
        chain.append(name)
        name = inputs[0]
        node = side.producer.get(name)
    return chain


def _moves(side: Side, chain: list[str]) -> bool:
    return any(side.producer[name].canonical in LAYOUT_OPS - {"Identity"} for name in chain)
