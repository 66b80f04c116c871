"""Pairing the tensors of two traces by their values; by names and as outputs what those leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from aligndbg.core.errors import UsageError, nearest
from aligndbg.core.types import Layout, Matching, Pair, Skipped, Trace
from aligndbg.match.classify import classify, coverage, unseen
from aligndbg.match.leftovers import match_names, match_outputs
from aligndbg.match.outputs import outputs_again
from aligndbg.match.side import FIXED, Side
from aligndbg.match.state import Link, State
from aligndbg.match.values import match_values
from aligndbg.match.weights import Weights
from aligndbg.measure.fingerprint import Fingerprint

__all__ = ["ByValue", "match", "pair_by_value"]

ByValue = tuple[State, Mapping[str, list[str]]]  # what `pair_by_value` gives


CONFIDENCE = {"value": 0.99, "experiment": 0.9, "name": 0.4, "output": 0.5, "user": 1.0}


def pair_by_value(
    reference: Trace,
    candidate: Trace,
    reference_prints: Mapping[str, Fingerprint],
    candidate_prints: Mapping[str, Fingerprint],
    *,
    inputs: Iterable[tuple[str, str, Layout]] = (),
    user: Mapping[str, str] | None = None,
    reject: frozenset[tuple[str, str]] = frozenset(),
    weights: Weights | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[State, dict[str, list[str]]]:
    """What values, and the user, pair, one to one; and for each reference tensor all its equals.

    `inputs` says which feeds are the same on both sides, and how they are laid out; `user` forces pairs (reference
    name -> candidate name), `reject` are those that are refuted. `tick` is called now and then, and may raise to end
    it. Raises UsageError for a name in `user` that does not exist or cannot fit.
    """
    left, right = Side(reference, reference_prints, "reference"), Side(candidate, candidate_prints, "candidate")
    state = State(
        left,
        right,
        reject=reject,
        weights=weights,
        tick=tick,
        coarse=left.precision.coarse or right.precision.coarse,
    )
    for r, c, layout in inputs:
        state.add(Link(r, c, layout, "feed", 0.0, "the same feed"))
    for r, c in (user or {}).items():
        if c in state.by_candidate:
            raise UsageError(f"--map gives {c!r} twice", hint="one counterpart for each tensor")
        state.add(_forced(state, r, c))
    return state, match_values(state)


def match(state: State, equals: Mapping[str, list[str]]) -> Matching:
    """What `pair_by_value` paired, with what names and outputs pair where values do not; of the rest why it is not."""
    match_names(state)
    match_outputs(state)
    return _finish(state, equals)


def _forced(state: State, r: str, c: str) -> Link:
    for side, name in ((state.reference, r), (state.candidate, c)):
        if name not in side.comparable:
            skipped = {s.name: s.reason for s in side.skipped}
            why = f" ({skipped[name]})" if name in skipped else ""
            raise UsageError(
                f"--map: the {side.label} has no comparable tensor named {name!r}{why}", hint=nearest(name, side.names)
            )
    fits = state.fits(r, c)
    if not fits:
        raise UsageError(
            f"--map: {r} {state.reference.shape(r)} cannot hold {c} {state.candidate.shape(c)}",
            hint="the two must have the same number of elements",
        )
    return Link(r, c, fits[0].layout, "user", fits[0].error, "given by --map")


def _finish(state: State, equals: Mapping[str, list[str]]) -> Matching:
    reference, candidate = state.reference, state.candidate
    mirrored: dict[str, list[str]] = {}
    for r, found in equals.items():
        for c in found:
            mirrored.setdefault(c, []).append(r)
    pairs = tuple(
        Pair(r, link.candidate, link.layout, link.method, CONFIDENCE[link.method], link.evidence)
        for r in reference.names
        if (link := state.links.get(r))
    )
    again, notes = outputs_again(state, equals)
    held_r = {p.reference for p in again if p.reference not in state.links}
    held_c = {p.candidate for p in again if p.candidate not in state.by_candidate}
    inside_r, inside_c = unseen(state, reference, held_r), unseen(state, candidate, held_c)
    left_r = (*classify(state, reference, equals, held_r), *inside_r[0])
    left_c = (*classify(state, candidate, mirrored, held_c), *inside_c[0])
    return Matching(
        pairs=pairs,
        unmatched_reference=left_r,
        unmatched_candidate=left_c,
        skipped_reference=(*reference.skipped, *_made(state, reference), *inside_r[1]),
        skipped_candidate=(*candidate.skipped, *_made(state, candidate), *inside_c[1]),
        coverage_reference=coverage(reference, len(pairs) + len(held_r), left_r),
        coverage_candidate=coverage(candidate, len(pairs) + len(held_c), left_c),
        again=again,
        notes=(*notes, *inside_r[2], *inside_c[2]),
        agreement=sum(max(0.0, 1.0 - state.links[p.reference].error) for p in pairs),
    )


def _made(state: State, side: Side) -> list[Skipped]:
    """The weights that one side computes and the other holds."""
    return [Skipped(n, side.op(n), FIXED) for n in side.names if n in side.fixed and not state.link_of(side, n)]
