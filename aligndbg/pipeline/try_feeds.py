"""Runs the candidate as the likeliest plans feed it, and keeps what makes the layers agree best."""

from __future__ import annotations

from collections.abc import Mapping

from aligndbg.core.clock import Clock
from aligndbg.core.errors import ModelError
from aligndbg.core.types import Backend, Matching
from aligndbg.feeds.plan import Feeding
from aligndbg.feeds.translate import FeedPlan
from aligndbg.locate.rerun import NewStore
from aligndbg.match.pairing import match
from aligndbg.match.weights import Weights
from aligndbg.trace.capture import Captured, capture_with_prints
from aligndbg.trace.store import Store

__all__ = ["run_and_match"]


MAX_PLANS = 4  # ways to feed the candidate that are tried when the first does not make the layers agree


def run_and_match(
    backend: Backend,
    feeding: Feeding,
    left: Captured,
    new_store: NewStore,
    clock: Clock,
    user: Mapping[str, str] | None,
    weights: Weights,
) -> tuple[Captured, FeedPlan, Matching, list[str]]:
    """Run the candidate as the first plan feeds it; where the layers do not agree, try the others and keep the best."""
    best: tuple[Captured, FeedPlan, Matching] | None = None
    kept: Store | None = None
    refused: ModelError | None = None
    ran: list[FeedPlan] = []
    for plan in feeding.plans[:MAX_PLANS]:
        made = new_store()
        try:
            right = capture_with_prints(backend, plan.feeds or None, made, clock, "run candidate")
        except ModelError as error:  # a module says which layout it takes by failing on the others
            refused = refused or error
            continue
        ran.append(plan)
        links = [(link.reference, link.candidate, link.layout) for link in plan.links]
        with clock.pairing() as tick:
            matching = match(
                left.trace, right.trace, left.prints, right.prints, inputs=links, user=user, weights=weights, tick=tick
            )
        if best is None or matching.agreement > 1.1 * best[2].agreement + 0.5:
            best = (right, plan, matching)
            lost, kept = kept, made
        else:
            lost = made
        if lost is not None:
            lost.close()
        if matching.agreement >= 0.6 * len(matching.pairs) or "run" not in backend.capabilities:
            break
    if best is None:
        assert refused is not None
        raise refused
    notes = []
    if best[1] is not ran[0]:
        how = "; ".join(f"{link.candidate}: {link.how}" for link in best[1].links)
        notes.append(f"the candidate's layers agree only when it is fed so: {how}")
    return (*best, notes)
