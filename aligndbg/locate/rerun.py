"""Which side is run again to isolate errors, and on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from aligndbg.core.arrays import Lazy
from aligndbg.core.clock import Clock
from aligndbg.core.errors import ModelError, RuntimeCrashError, UnsupportedError
from aligndbg.core.types import Array, Pair, RunAgain
from aligndbg.locate.by_experiment import LocateByExperiment, Task
from aligndbg.locate.captured_pair import CapturedPair
from aligndbg.locate.fake_quantize import FakeQuantizer, fake_quantized_feeds
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.replay import Begin, Replay
from aligndbg.measure.judge import Judge
from aligndbg.measure.limits import Conditions
from aligndbg.trace.capture import capture_with_prints
from aligndbg.trace.store import Store

__all__ = ["NewStore", "isolate_sides"]


class NewStore(Protocol):
    """A store that lives as long as the diff, with its share of the memory budget."""

    def __call__(self) -> Store: ...


def isolate_sides(
    sides: CapturedPair, judge: Judge, new_store: NewStore, clock: Clock, probes: int = 0
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
            return _isolate(sides, run_again, judge, new_store, clock, probes), "it could not be isolated"
        except (UnsupportedError, ModelError, RuntimeCrashError) as error:
            path = (sides.reference if run_again is RunAgain.REFERENCE else sides.candidate).info.path
            why = f"{path} cannot be run with overrides: {error.fact}"
    return None, why


def _isolate(
    sides: CapturedPair, run_again: RunAgain, judge: Judge, new_store: NewStore, clock: Clock, probes: int
) -> Isolation:
    quantized = sides.reference if run_again is RunAgain.CANDIDATE else sides.candidate
    judge = judge.under(Conditions(weights_unknown=sides.on_grid(run_again) and "run" not in quantized.capabilities))
    with clock.stage("isolate"):
        again = Rerunner(sides, run_again, new_store, clock)
    return LocateByExperiment(
        Task(sides, run_again, again.feeds, judge, again, again.weights, clock, probes)
    ).isolation()


class Rerunner:
    """Runs one side again with overrides, on feeds and weights that the other side's grids leave of its own.

    Their values live in stores of the diff.
    """

    def __init__(self, sides: CapturedPair, run_again: RunAgain, new_store: NewStore, clock: Clock) -> None:
        self._new_store, self._clock = new_store, clock
        self._candidate_again = run_again is RunAgain.CANDIDATE
        own, other = (sides.candidate, sides.reference) if self._candidate_again else (sides.reference, sides.candidate)
        captured = (sides.right, sides.left) if self._candidate_again else (sides.left, sides.right)
        self._backend, self._captured = own, captured[0]
        # Fed apart by the user, the candidate is isolated on what the reference was fed: that is no operator's fault.
        fed = (sides.translated or sides.plan.feeds) if self._candidate_again else sides.feeds or {}
        self.feeds: Mapping[str, Array] = fed or {}
        if sides.quantized and not self._candidate_again:
            theirs = sides.plan.feeds or sides.right.trace.feeds or {}
            links = [k for k in sides.links if k[1] in theirs]
            self.feeds = fake_quantized_feeds(self.feeds, theirs, links, sides.left.trace.graph, sides.right.trace)
        self._quantizer: FakeQuantizer | None = None
        if sides.on_grid(run_again) and "run" in other.capabilities:  # a trace keeps no weights: the weaker rule
            self._quantizer = FakeQuantizer(
                captured[0].trace.graph,
                captured[1].trace.graph,
                lambda names: dict(own.run({}, names)) if names else {},
                lambda names: dict(other.run({}, names)) if names else {},
            )

    def weights(self, pairs: Iterable[Pair]) -> dict[str, Array]:
        """This side's weights as the other side's grids hold them, where those are paired between these pairs."""
        if self._quantizer is None:
            return {}
        ours_first = self._candidate_again
        return self._quantizer.weights(
            {p.candidate if ours_first else p.reference: p.reference if ours_first else p.candidate for p in pairs}
        )

    def __call__(self, overrides: Lazy, weights: Mapping[str, Array], begin: Begin) -> Replay:
        refused: dict[str, str] = {}
        while True:
            store = self._new_store()
            asked = overrides.but(refused)
            arrived = begin(replace(self._captured.trace, values=store), refused)
            try:
                made = capture_with_prints(
                    self._backend,
                    self.feeds,
                    store,
                    self._clock,
                    "isolate",
                    overrides=asked.over(weights),
                    arrived=arrived,
                )
            except UnsupportedError as error:
                if error.context not in asked:
                    raise
                refused[error.context] = error.fact
                store.close()
            else:
                return Replay(made.trace, made.prints, dict(refused), self.feeds, weights, store.close)
