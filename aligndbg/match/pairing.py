"""Pairing the tensors of two traces: values first, structure where values have diverged, names as a tie-breaker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from aligndbg.core.errors import UsageError, nearest
from aligndbg.core.ops import SAME_RESULT, ops_agree
from aligndbg.core.types import Layout, Matching, Pair, Trace
from aligndbg.match.classify import classify, coverage, unseen
from aligndbg.match.leftovers import match_names, match_outputs
from aligndbg.match.outputs import outputs_again
from aligndbg.match.side import Side
from aligndbg.match.state import Link, State
from aligndbg.match.structure import match_structure
from aligndbg.match.swapped_axes import drop_reordered
from aligndbg.match.thresholds import FAR_BETTER, NEAR_LAYOUT
from aligndbg.match.values import match_values
from aligndbg.match.weights import Weights
from aligndbg.measure.fingerprint import Fingerprint

__all__ = ["EVIDENT", "finish", "match", "pair_by_value"]


CONFIDENCE = {"value": 0.99, "experiment": 0.9, "structure": 0.6, "name": 0.4, "output": 0.5, "user": 1.0}

EVIDENT = 0.8  # the confidence of a structural pair that is the same op on the same inputs, the only one


def pair_by_value(
    reference: Trace,
    candidate: Trace,
    reference_prints: Mapping[str, Fingerprint],
    candidate_prints: Mapping[str, Fingerprint],
    *,
    inputs: Iterable[tuple[str, str, Layout]] = (),
    user: Mapping[str, str] | None = None,
    keep: Iterable[Pair] = (),
    reject: frozenset[tuple[str, str]] = frozenset(),
    weights: Weights | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[State, dict[str, list[str]]]:
    """What values, and the user, pair; and for each reference tensor all its equals. Arguments as for `match`."""
    state = State(
        Side(reference, reference_prints, "reference"),
        Side(candidate, candidate_prints, "candidate"),
        reject=reject,
        weights=weights,
        tick=tick,
    )
    for r, c, layout in inputs:
        state.add(Link(r, c, layout, "feed", 0.0, "the same feed"))
    for r, c in (user or {}).items():
        if c in state.by_candidate:
            raise UsageError(f"--map gives {c!r} twice", hint="one counterpart for each tensor")
        state.add(_forced(state, r, c))
    settled = tuple(keep)
    for pair in settled:
        if not pair.provisional and pair.reference not in state.links:
            state.add(_kept(state, pair))
    held = [p for p in settled if p.provisional]
    firm = frozenset(p.reference for p in held if _alike(state, p))
    equals = match_values(state, {p.reference: p.candidate for p in held}, firm)
    return state, equals


def match(
    reference: Trace,
    candidate: Trace,
    reference_prints: Mapping[str, Fingerprint],
    candidate_prints: Mapping[str, Fingerprint],
    *,
    inputs: Iterable[tuple[str, str, Layout]] = (),
    user: Mapping[str, str] | None = None,
    keep: Iterable[Pair] = (),
    reject: frozenset[tuple[str, str]] = frozenset(),
    weights: Weights | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Matching:
    """Pair the float and quantized node outputs of two traces, one to one.

    `inputs` says which feeds are the same on both sides, and how they are laid out; `user` forces pairs (reference
    name -> candidate name), `keep` are pairs that are settled, `reject` those that are refuted. `tick` is called now
    and then, and may raise to end it. Raises UsageError for a name in `user` that does not exist or cannot fit.
    """
    settled = tuple(keep)
    state, equals = pair_by_value(
        reference,
        candidate,
        reference_prints,
        candidate_prints,
        inputs=inputs,
        user=user,
        keep=settled,
        reject=reject,
        weights=weights,
        tick=tick,
    )
    for pair in settled:  # a value that agrees contests a pair that only structure found
        if pair.provisional and pair.reference not in state.links and pair.candidate not in state.by_candidate:
            state.add(_kept(state, pair))
    match_structure(state)
    match_names(state)
    match_outputs(state)
    reordered = drop_reordered(state)
    return finish(state, {r: found for r, found in equals.items() if r not in reordered})


def _alike(state: State, pair: Pair) -> bool:
    """False for a pair of two different ops, which may be two siblings crossed."""
    rn, cn = state.reference.node(pair.reference), state.candidate.node(pair.candidate)
    return rn is None or cn is None or ops_agree(rn, cn) >= SAME_RESULT


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


def _kept(state: State, pair: Pair) -> Link:
    """A pair as it was; one that only a guessed layout kept from agreeing gets the layout that its values show now."""
    fits = state.fits(pair.reference, pair.candidate)
    error = next((f.error for f in fits if f.layout.permutation == pair.layout.permutation), float("inf"))
    if pair.provisional and fits and fits[0].error <= NEAR_LAYOUT and fits[0].error < error / FAR_BETTER:
        evidence = f"{pair.evidence}; layout from its values once what comes before was corrected"
        return Link(pair.reference, pair.candidate, fits[0].layout, pair.method, fits[0].error, evidence)
    return Link(pair.reference, pair.candidate, pair.layout, pair.method, error, pair.evidence)


def _confidence(link: Link) -> float:
    return EVIDENT if link.evident else CONFIDENCE[link.method]


def finish(state: State, equals: Mapping[str, list[str]]) -> Matching:
    """What is paired, and of the rest why it is not."""
    reference, candidate = state.reference, state.candidate
    mirrored: dict[str, list[str]] = {}
    for r, found in equals.items():
        for c in found:
            mirrored.setdefault(c, []).append(r)
    pairs = tuple(
        Pair(r, link.candidate, link.layout, link.method, _confidence(link), link.evidence)
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
        skipped_reference=(*reference.skipped, *inside_r[1]),
        skipped_candidate=(*candidate.skipped, *inside_c[1]),
        coverage_reference=coverage(reference, len(pairs) + len(held_r), left_r),
        coverage_candidate=coverage(candidate, len(pairs) + len(held_c), left_c),
        again=again,
        notes=(*notes, *inside_r[2], *inside_c[2]),
        agreement=sum(max(0.0, 1.0 - state.links[p.reference].error) for p in pairs),
    )
