"""One run of both sides through the stages: capture, match, check, isolate, measure, decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aligndbg.core.clock import Clock
from aligndbg.core.types import Backend, Pair, Trace
from aligndbg.diff_result import Diff
from aligndbg.explain.run import causes_of_faults, causes_of_the_pair
from aligndbg.feeds.plan import InputOptions, plan_feeds
from aligndbg.locate.faults import make_faults
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.rerun import Sides, isolate_sides
from aligndbg.match.weights import weight_reader
from aligndbg.measure.judge import Judge
from aligndbg.measure.results import Measurement
from aligndbg.measure.tolerance import ToleranceRules
from aligndbg.pipeline.try_feeds import capture_and_match
from aligndbg.trace.capture import capture_with_prints
from aligndbg.trace.store import Store
from aligndbg.verdict.basis import basis_of
from aligndbg.verdict.checks import blind_spots, check_warnings, clipped_ranges, repeat_and_observe
from aligndbg.verdict.decide import decide, drift_notes

__all__ = ["Settings", "diff_once"]


STORES = 3  # filled at once: the reference's run, the candidate's, and the one with overrides
NOT_ASKED = "isolated error was not asked for"


@dataclass(frozen=True)
class Settings:
    """What a diff was asked to do; `budget` is bytes of tensors held in memory, `user` the pairs of --map.

    `repro` is the folder for the first faults' operators and tensors. `details` keeps a picture of each pair, and what
    other tolerances can be judged by. `repeated`: more samples follow, so the runtimes keep their sessions.
    """

    rules: ToleranceRules
    user: Mapping[str, str] | None = None
    min_coverage: float = 0.5
    max_faults: int = 20
    checks: bool = True
    isolate: bool = True
    budget: int | None = None
    repro: Path | None = None
    details: bool = False
    repeated: bool = False


def diff_once(ref: Backend, cand: Backend, options: InputOptions, settings: Settings, clock: Clock) -> Diff:
    """Both sides on one input, compared."""
    clock.sides = (ref, cand)
    with ExitStack() as stack:
        with clock.stage("load"):
            feeding = plan_feeds(ref, cand, options)
        budget = settings.budget if settings.budget is not None else _default_memory()

        for side in (ref, cand):
            side.bound(budget // STORES)

        def new_store(nbytes: int | None = None) -> Store:
            return stack.enter_context(_closing(Store(budget // STORES if nbytes is None else nbytes)))

        def done(backend: Backend) -> None:  # its next run needs another session: both models need not be there at once
            if not settings.repeated:
                backend.release()

        left = capture_with_prints(ref, feeding.reference, new_store(), clock, "run reference")
        done(ref)
        weights = weight_reader(ref, cand)
        right, plan, matching, notes = capture_and_match(cand, feeding, left, new_store, clock, settings.user, weights)
        done(cand)
        sides = Sides(ref, cand, feeding.reference, plan, left, right, settings.user, feeding.translated, weights)
        judge = Judge(left.trace, right.trace, settings.rules, joint=settings.details, room=budget // STORES)
        judge.refuse_unused()
        found: dict[str, Any] = {}
        if settings.checks:
            with clock.stage("checks"):
                found = repeat_and_observe(
                    (
                        ("reference", ref, feeding.reference, left.trace),
                        ("candidate", cand, plan.feeds, right.trace),
                    ),
                    done,
                )
        isolation, why_not = (
            isolate_sides(sides, matching, judge, new_store, clock) if settings.isolate else (None, NOT_ASKED)
        )
        for side in (ref, cand):
            done(side)
        matching = isolation.matching if isolation else matching
        found |= {"isolation_runs": isolation.runs if isolation else None} | blind_spots(
            left.trace, left.prints, matching
        )
        with clock.stage("checks"):
            found["clipped"] = clipped_ranges(left.trace, right.trace, matching)
        measured = _measure(judge, matching.pairs, isolation, why_not, clock, settings.details)
        faults, truncated = (
            make_faults(left.trace, right.trace, isolation, settings.max_faults) if isolation else ((), False)
        )
        outputs = _outputs(left.trace, right.trace, matching.pairs)
        if isolation is not None:
            faults = causes_of_faults(faults, sides, isolation, clock, settings.repro)
        faults, causes = causes_of_the_pair(faults, sides, feeding, measured, outputs, clock)
        swapped = any(
            link.layout.reference_shape == link.layout.candidate_shape
            and link.layout.permutation != tuple(range(len(link.layout.permutation)))
            for link in plan.links
        )
        verdict, why = decide(
            left.trace, right.trace, matching, measured, faults, judge, settings.min_coverage, inputs_transposed=swapped
        )
        said = [*left.trace.graph.notes, *right.trace.graph.notes]
        notes = [*said, *feeding.notes, *(f"inputs differ: {f.what} ({f.kind})" for f in feeding.findings), *notes]
        notes += drift_notes(verdict, measured)
        return Diff(
            reference=ref.info,
            candidate=cand.info,
            verdict=verdict,
            verdict_reason=why,
            pairs=tuple(measured),
            matching=matching,
            faults=faults,
            truncated=truncated,
            causes=causes,
            outputs=outputs,
            inputs=tuple(f"{link.reference} -> {link.candidate}: {link.how}" for link in plan.links),
            checks=found,
            timing=dict(clock.seconds),
            memory=dict(clock.memory),
            warnings=tuple(dict.fromkeys([*notes, *check_warnings(found)])),
            graphs=(left.trace.graph, right.trace.graph),
            basis=basis_of(judge, measured, isolation, why_not, settings.min_coverage, settings.max_faults, swapped)
            if settings.details
            else None,
        )


@contextmanager
def _closing(store: Store) -> Iterator[Store]:
    try:
        yield store
    finally:
        store.close()


def _default_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available * 0.4)


def _measure(
    judge: Judge, pairs: Sequence[Pair], isolation: Isolation | None, why_not: str, clock: Clock, details: bool
) -> list[Measurement]:
    out = []
    with clock.comparing(len(pairs)) as (tick, step):

        def measured(pair: Pair) -> Measurement:
            tick()
            own = isolation.own.get(pair.reference) if isolation else None
            doubt = isolation.doubtful.get(pair.reference, "") if isolation else ""
            found = judge.measure(pair, own, doubt, why_not)
            return replace(found, detail=judge.detail(pair, found.metrics)) if details else found

        for found in judge.each(measured, pairs):
            out.append(found)
            step()
    return out


def _outputs(left: Trace, right: Trace, pairs: Sequence[Pair]) -> frozenset[str]:
    ours, theirs = set(left.graph.outputs), set(right.graph.outputs)
    return frozenset(p.reference for p in pairs if p.reference in ours or p.candidate in theirs)
