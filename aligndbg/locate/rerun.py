"""Which side is run again to isolate errors, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from aligndbg.core.arrays import Lazy
from aligndbg.core.clock import Clock
from aligndbg.core.errors import ModelError, RuntimeCrashError, UnsupportedError
from aligndbg.core.types import Array, Matching, Pair, RunAgain, Trace
from aligndbg.locate.by_experiment import LocateByExperiment, Task
from aligndbg.locate.captured_pair import CapturedPair, is_quantized
from aligndbg.locate.fake_quantize import fake_quantized_feeds, fake_quantized_weights
from aligndbg.locate.isolate import isolate
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.replay import Begin, Replay
from aligndbg.match.pairing import match
from aligndbg.measure.fingerprint import Fingerprint
from aligndbg.measure.judge import Judge
from aligndbg.measure.limits import Conditions, quantized_weights
from aligndbg.trace.capture import capture_with_prints
from aligndbg.trace.store import Store

__all__ = ["NewStore", "isolate_sides"]


class NewStore(Protocol):
    """A store that lives as long as the diff, with its share of the memory budget, or `nbytes`."""

    def __call__(self, nbytes: int | None = None) -> Store: ...


def isolate_sides(
    sides: CapturedPair, matching: Matching, judge: Judge, new_store: NewStore, clock: Clock
) -> tuple[Isolation | None, str]:
    """Isolated errors, by overriding the side that can be overridden; or None and the reason why there are none."""
    fed, same = sides.plan.feeds or {}, sides.translated or {}
    if any(fed[name].shape != same[name].shape for name in fed.keys() & same.keys()):
        return None, "the candidate was fed other sizes than the reference"
    # An override of a quantized candidate would be rounded to its grid: then it is the reference that is run again.
    able = []
    if not sides.quantized and "override" in sides.candidate.capabilities:
        able.append(RunAgain.CANDIDATE)
    if "override" in sides.reference.capabilities and sides.feeds:
        able.append(RunAgain.REFERENCE)
    why = "neither side can be run with overrides"
    if "override" in sides.reference.capabilities and not able:
        why = "the reference has no feeds to be run with"
    for run_again in able:
        try:
            return _isolate(sides, run_again, matching, judge, new_store, clock), "it could not be isolated"
        except (UnsupportedError, ModelError, RuntimeCrashError) as error:
            path = (sides.reference if run_again is RunAgain.REFERENCE else sides.candidate).info.path
            why = f"{path} cannot be run with overrides: {error.fact}"
    return None, why


def _isolate(
    sides: CapturedPair,
    run_again: RunAgain,
    matching: Matching,
    judge: Judge,
    new_store: NewStore,
    clock: Clock,
) -> Isolation:
    candidate_again = run_again is RunAgain.CANDIDATE
    backend, captured = (sides.candidate, sides.right) if candidate_again else (sides.reference, sides.left)
    # Fed apart by the user, the candidate is isolated on what the reference was fed: the feed is no operator's fault.
    feeds: Mapping[str, Array] = (sides.translated or sides.plan.feeds) if candidate_again else sides.feeds or {}
    weights: dict[str, Array] = {}
    if sides.quantized:
        judge = judge.under(Conditions(weights_unknown="run" not in sides.candidate.capabilities))
        with clock.stage("isolate"):
            feeds, weights = _as_the_candidate_quantizes(sides, matching, feeds)
    elif candidate_again and is_quantized(sides.left.trace):
        judge = judge.under(Conditions(weights_unknown="run" not in sides.reference.capabilities))
        with clock.stage("isolate"):
            weights = {} if judge.conditions.weights_unknown else _as_the_reference_quantizes(sides, matching)
    refused: dict[str, str] = {}

    def rerun(overrides: Lazy, begin: Begin, *, on_disk: bool = False) -> Replay:
        while True:
            store = new_store(0) if on_disk else new_store()
            asked = overrides.but(refused)
            arrived = begin(replace(captured.trace, values=store), refused)
            try:
                made = capture_with_prints(
                    backend, feeds, store, clock, "isolate", overrides=asked.over(weights), arrived=arrived
                )
            except UnsupportedError as error:
                if error.context not in asked:
                    raise
                refused[error.context] = error.fact
                store.close()
            else:
                return Replay(made.trace, made.prints, dict(refused), feeds, weights, store.close)

    def rematch(
        trace: Trace, prints: dict[str, Fingerprint], keep: tuple[Pair, ...], reject: frozenset[tuple[str, str]]
    ) -> Matching:
        ours = (sides.left.trace, sides.left.prints) if candidate_again else (trace, prints)
        theirs = (trace, prints) if candidate_again else (sides.right.trace, sides.right.prints)
        with clock.pairing() as tick:
            return match(
                ours[0],
                theirs[0],
                ours[1],
                theirs[1],
                inputs=sides.links,
                user=sides.user,
                keep=keep,
                reject=reject,
                weights=sides.weights,
                tick=tick,
            )

    traces = sides.left.trace, sides.right.trace
    if all(t.graph.nodes and not is_quantized(t) and not quantized_weights(t) for t in traces):
        task = Task(sides, run_again, feeds, judge, rerun, clock)
        return LocateByExperiment(task).isolation()
    return isolate(*traces, matching, judge, rerun, rematch, clock.comparing, run_again=run_again)


def _as_the_candidate_quantizes(
    sides: CapturedPair, matching: Matching, feeds: Mapping[str, Array]
) -> tuple[Mapping[str, Array], dict[str, Array]]:
    """The reference's feeds and weights on the grids of a quantized candidate."""
    candidate = sides.right.trace.graph
    fed = sides.plan.feeds or sides.right.trace.feeds or {}
    links = [k for k in sides.links if k[1] in fed]
    feeds = fake_quantized_feeds(feeds, fed, links, sides.left.trace.graph, sides.right.trace)
    if "run" not in sides.candidate.capabilities:
        return feeds, {}  # a trace keeps no weights: judged by the weaker rule
    return feeds, fake_quantized_weights(
        {p.reference: p.candidate for p in matching.pairs},
        sides.left.trace.graph,
        candidate,
        lambda names: dict(sides.reference.run({}, names)) if names else {},
        lambda names: dict(sides.candidate.run({}, names)) if names else {},
    )


def _as_the_reference_quantizes(sides: CapturedPair, matching: Matching) -> dict[str, Array]:
    """The weights of a float candidate on the grids of a quantized reference."""
    return fake_quantized_weights(
        {p.candidate: p.reference for p in matching.pairs},
        sides.right.trace.graph,
        sides.left.trace.graph,
        lambda names: dict(sides.candidate.run({}, names)) if names else {},
        lambda names: dict(sides.reference.run({}, names)) if names else {},
    )
