"""A run with overrides whose values are compared while it goes on: by then it is known what is paired with what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from aligndbg.core.arrays import Lazy
from aligndbg.core.threads import Submit, threads
from aligndbg.core.types import Array, Pair, RunAgain, Trace
from aligndbg.measure.fingerprint import Fingerprint
from aligndbg.measure.judge import Judge, read_bytes
from aligndbg.measure.results import Metrics
from aligndbg.measure.rounding import inner_roundings

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Begin", "Comparing", "Replay", "Rerun", "Run", "rerun_name"]


@dataclass(frozen=True, eq=False)
class Replay:
    """One side run again: the values of that run, and of no later one.

    `refused` says why a tensor could not be overridden, by its name on that side; `feeds` are what the run was fed and
    `weights` the constants replaced in it. `close` gives its memory back.
    """

    trace: Trace
    prints: dict[str, Fingerprint]
    refused: Mapping[str, str] = field(default_factory=dict)
    feeds: Mapping[str, Array] = field(default_factory=dict)
    weights: Mapping[str, Array] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


Begin = Callable[[Trace, Mapping[str, str]], Callable[[str], None]]


class Rerun(Protocol):
    """Runs a side again: overrides by tensor or edge, and constants that are replaced."""

    def __call__(self, overrides: Lazy, weights: Mapping[str, Array], begin: Begin) -> Replay: ...


Comparing = Callable[[int], AbstractContextManager[tuple[Callable[[], None], Callable[[], None]]]]


def rerun_name(pair: Pair, run_again: RunAgain) -> str:
    """The pair's tensor on the side that is run again."""
    return pair.reference if run_again is RunAgain.REFERENCE else pair.candidate


class Run:
    """One run with overrides, in lock-step: each pair is compared as soon as the run has given what that reads.

    A pair that is too large for the judge's memory budget is compared when the run is over, and its memory free.
    """

    def __init__(self, judge: Judge, pairs: Iterable[Pair], run_again: RunAgain, fed: Iterable[str] = ()) -> None:
        self.judge, self._pairs, self._fed = judge, list(pairs), list(fed)
        self._run_again = run_again
        self._own: dict[tuple[str, str], Future[Metrics]] = {}
        self._large: list[Callable[[], None]] = []

    def compared(
        self, rerun: Rerun, overrides: Lazy, weights: Mapping[str, Array], comparing: Comparing
    ) -> tuple[Replay, dict[tuple[str, str], Metrics]]:
        """The run, and the isolated metrics of `pairs` by both names; `judge` knows what it rounds from then on."""
        with threads(self.judge.memory_budget) as submit:
            replay = rerun(overrides, weights, partial(self._begin, submit))
            for begin in self._large:
                begin()
            known = [at for p in self._pairs if (at := (p.reference, p.candidate)) in self._own]
            own: dict[tuple[str, str], Metrics] = {}
            with comparing(len(known)) as (before, after):
                for place in known:
                    before()
                    own[place] = self._own[place].result()
                    after()
        return replay, own

    def _begin(self, submit: Submit, trace: Trace, refused: Mapping[str, str]) -> Callable[[str], None]:
        for one in self._own.values():  # of a run that ended in a refusal
            one.cancel()
        self._own, self._large = {}, []
        overridden = [p for p in self._pairs if rerun_name(p, self._run_again) not in refused]
        inner = inner_roundings(self.judge.reference.graph, self.judge.candidate.graph, overridden, self._fed)
        judge = self.judge = self.judge.under(replace(self.judge.conditions, inner=inner))
        waiting: dict[str, list[tuple[Pair, set[str]]]] = {}
        for pair in self._pairs:
            needed = judge.needed(pair, self._run_again)
            for name in needed:
                waiting.setdefault(name, []).append((pair, needed))

        def compare(pair: Pair) -> None:
            work = partial(judge.isolated, pair, trace, self._run_again)
            self._own[pair.reference, pair.candidate] = submit(work, read_bytes(pair))

        def arrived(name: str) -> None:
            for pair, needed in waiting.pop(name, ()):
                needed.discard(name)
                if not needed and judge.memory_budget is not None and read_bytes(pair) > judge.memory_budget:
                    self._large.append(partial(compare, pair))
                elif not needed:
                    compare(pair)

        return arrived
