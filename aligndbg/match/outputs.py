"""Outputs that one-to-one pairing leaves uncompared: held against what they equal, and against their namesakes."""

from __future__ import annotations

from collections.abc import Mapping

from aligndbg.core.types import Pair
from aligndbg.match.leftovers import outputs_of
from aligndbg.match.state import State
from aligndbg.match.values import settle_layout

__all__ = ["outputs_again"]


PROVED = ("value", "user")


def outputs_again(state: State, equals: Mapping[str, list[str]]) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Pairs of outputs beside the one-to-one ones, and what is to be said of them.

    Two outputs of one name are always compared; so is an output with one of the tensors that it equals, where no value
    proves what it is paired with. `equals` has for each reference tensor all its equals.
    """
    pairs, notes = [], []
    for name in outputs_of(state, state.reference):
        if name not in outputs_of(state, state.candidate) or not _apart(state, name):
            continue
        if elsewhere := _settled(state, name):
            notes.append(elsewhere)
        elif pair := _compared(state, name, name, "an output of this name on both sides"):
            pairs.append(pair)
    mirrored: dict[str, list[str]] = {}
    for r, found in equals.items():
        for c in found:
            mirrored.setdefault(c, []).append(r)
    settled = {link.reference for link in state.links.values() if link.method in PROVED}
    for o in outputs_of(state, state.reference):
        if o not in settled and o in equals:
            pairs += _with_equal(state, [(o, c) for c in equals[o]])
    settled = {link.candidate for link in state.links.values() if link.method in PROVED}
    for o in outputs_of(state, state.candidate):
        if o not in settled and o in mirrored:
            pairs += _with_equal(state, [(r, o) for r in mirrored[o]])
    there = {(link.reference, link.candidate) for link in state.links.values()}
    once = {(p.reference, p.candidate): p for p in reversed(pairs)}
    return tuple(p for place, p in reversed(once.items()) if place not in there), tuple(notes)


def _apart(state: State, name: str) -> bool:
    """Whether two comparable tensors of one name are not paired with each other, nor one of them by the user."""
    ours, theirs = state.links.get(name), state.by_candidate.get(name)
    if name not in state.reference.comparable or name not in state.candidate.comparable:
        return False
    return ours is None or (ours is not theirs and "user" not in {link.method for link in (ours, theirs) if link})


def _settled(state: State, name: str) -> str:
    """What is to be said where values and the outputs' order agree that two of one name are not each other's."""
    ours, theirs = outputs_of(state, state.reference), outputs_of(state, state.candidate)
    for link in (state.links.get(name), state.by_candidate.get(name)):
        if link is None or link.method != "value" or link.reference not in ours or link.candidate not in theirs:
            continue
        if ours.index(link.reference) == theirs.index(link.candidate):
            return (
                f"the outputs called {name!r} were not compared with each other: by value and by place "
                f"{link.reference!r} of the reference is {link.candidate!r} of the candidate"
            )
    return ""


def _compared(state: State, r: str, c: str, why: str) -> Pair | None:
    fits = state.fits(r, c)
    if not fits:
        return None
    fit = settle_layout(state, r, c, fits)
    return Pair(r, c, fit.layout, "output", 0.5, why)


def _with_equal(state: State, options: list[tuple[str, str]]) -> list[Pair]:
    """An output with the best of its equals."""
    errors = [(fits[0].error, r, c) for r, c in options if (fits := state.fits(r, c))]
    if not errors:
        return []
    error, r, c = min(errors)
    pair = _compared(state, r, c, f"an output; values agree within {error:.1e} of the spread")
    return [] if pair is None else [pair]
