"""Runs the candidate as the likeliest plans feed it, and keeps what makes the layers agree best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from aligndbg.core.clock import Clock
from aligndbg.core.errors import ModelError
from aligndbg.core.types import Backend, Matching
from aligndbg.feeds.plan import Feeding
from aligndbg.feeds.translate import FeedPlan
from aligndbg.locate.rerun import NewStore
from aligndbg.match.pairing import ByValue, match, pair_by_value
from aligndbg.match.weights import Weights
from aligndbg.trace.capture import Captured, capture_with_prints
from aligndbg.trace.store import Store

__all__ = ["FedRun", "run_and_match"]


MAX_PLANS = 4  # ways to feed the candidate that are tried when the first does not make the layers agree
# Chosen, not measured. A way to feed is taken for the right one where the pairs agree so far on average (1 is equal, 0
# unlike). A later way is preferred to a likelier one where more agree by a tenth and half a pair: not by chance.
AGREED = 0.6
BETTER_SHARE, BETTER_PAIRS = 1.1, 0.5


@dataclass(frozen=True)
class FedRun:
    """The candidate as one plan feeds it, and its pairs: all, and those by value. `note` is to be told, of a plan that
    is not the first."""

    captured: Captured
    plan: FeedPlan
    matching: Matching
    by_value: ByValue
    store: Store
    note: str = ""

    def beats(self, other: FedRun) -> bool:
        return self.matching.agreement > BETTER_SHARE * other.matching.agreement + BETTER_PAIRS

    @property
    def agrees(self) -> bool:
        return self.matching.agreement >= AGREED * len(self.matching.pairs)


def run_and_match(
    backend: Backend,
    feeding: Feeding,
    left: Captured,
    new_store: NewStore,
    clock: Clock,
    user: Mapping[str, str] | None,
    weights: Weights,
) -> FedRun:
    """Run the candidate as the first plan feeds it; where the layers do not agree, try the others and keep the best."""
    first: FeedPlan | None = None
    best: FedRun | None = None
    refused: ModelError | None = None
    for plan in feeding.plans[:MAX_PLANS]:
        store = new_store()
        try:
            right = capture_with_prints(backend, plan.feeds or None, store, clock, "run candidate")
        except ModelError as error:  # a module says which layout it takes by failing on the others
            refused = refused or error
            continue
        made = FedRun(right, plan, *_matched(left, right, plan, clock, user, weights), store)
        first = first or plan
        if best is None:
            best = made
        else:
            best, lost = (made, best) if made.beats(best) else (best, made)
            lost.store.close()
        if made.agrees or "run" not in backend.capabilities:
            break
    if best is None:
        assert refused is not None
        raise refused
    return best if best.plan is first else replace(best, note=_fed_so(best.plan))


def _matched(
    left: Captured, right: Captured, plan: FeedPlan, clock: Clock, user: Mapping[str, str] | None, weights: Weights
) -> tuple[Matching, ByValue]:
    links = [(link.reference, link.candidate, link.layout) for link in plan.links]
    with clock.pairing() as tick:
        state, equals = pair_by_value(
            left.trace, right.trace, left.prints, right.prints, inputs=links, user=user, weights=weights, tick=tick
        )
        return match(state, equals), (state, equals)


def _fed_so(plan: FeedPlan) -> str:
    how = "; ".join(f"{link.candidate}: {link.how}" for link in plan.links)
    return f"the candidate's layers agree only when it is fed so: {how}"
