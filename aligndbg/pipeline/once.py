"""One run of both sides through the stages: capture, match, check, isolate, measure, decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aligndbg.core.clock import Clock
from aligndbg.core.types import Backend, Cause, Fault, Matching, Pair, Status
from aligndbg.diff_result import Diff
from aligndbg.explain.run import causes_of_faults, causes_of_the_pair
from aligndbg.feeds.plan import Feeding, InputOptions, plan_feeds
from aligndbg.locate.captured_pair import CapturedPair
from aligndbg.locate.effects import output_pairs
from aligndbg.locate.exact import ExactTensors
from aligndbg.locate.exact_faults import ExactFaults
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.rerun import NewStore, isolate_sides
from aligndbg.locate.rounded_weights import moved_by_rounding
from aligndbg.match.weights import weight_reader
from aligndbg.measure.exact import Exact
from aligndbg.measure.judge import Judge
from aligndbg.measure.results import Measurement
from aligndbg.measure.tolerance import ToleranceRules
from aligndbg.pipeline.try_feeds import run_and_match
from aligndbg.trace.capture import Captured, capture_with_prints
from aligndbg.trace.store import Store
from aligndbg.verdict.basis import AS_OUTPUT, basis_of
from aligndbg.verdict.blind_spots import blind_spots
from aligndbg.verdict.checks import Checks, check_warnings, clipped_ranges, repeat_and_observe
from aligndbg.verdict.decide import MIN_COVERAGE, decide, drift_notes
from aligndbg.verdict.near_limit import near_limit_notes
from aligndbg.verdict.outputs import exact_notes, output_notes

__all__ = ["Settings", "diff_once"]


MEMORY_SHARE = 0.4  # of what is free, for tensors; the rest is for both runtimes and what they compute
STORES = 3  # filled at once: the reference's run, the candidate's, and the one with overrides
NOT_ASKED = "isolated error was not asked for"


@dataclass(frozen=True)
class Settings:
    """What a diff was asked to do; `budget` is bytes of tensors held in memory, `user` the pairs of --map.

    `repro` is the folder for the first faults' operators and tensors. `details` keeps a picture of each pair, and what
    other tolerances can be judged by. `probes`: random inputs of its own that each region is tested on. `repeated`:
    more samples follow, so the runtimes keep their sessions. `explain_time`: seconds of work on causes.
    """

    rules: ToleranceRules
    user: Mapping[str, str] | None = None
    min_coverage: float = MIN_COVERAGE
    max_faults: int = 20
    checks: bool = True
    isolate: bool = True
    budget: int | None = None
    repro: Path | None = None
    details: bool = False
    probes: int = 0
    repeated: bool = False
    explain_time: float | None = None


def diff_once(ref: Backend, cand: Backend, options: InputOptions, settings: Settings, clock: Clock) -> Diff:
    """Both sides on one input, compared."""
    clock.sides = (ref, cand)
    with ExitStack() as stack:
        with clock.stage("load"):
            feeding = plan_feeds(ref, cand, options)
        run = _begun(ref, cand, settings, clock, stack)
        left = _run_reference(run, feeding)
        sides, matching, notes = _run_candidate(run, feeding, left)
        judge = Judge(left.trace, sides.right.trace, settings.rules, joint=settings.details, memory_budget=run.share)
        judge.refuse_unused()
        checks = _check_models(run, sides)
        isolation, why_not = _isolate(run, sides, judge)
        if isolation:
            matching, judge = isolation.matching, judge.under(isolation.conditions)
        checks |= _check_values(run, sides, matching, isolation)
        measured = _measure(run, judge, matching, isolation, why_not)
        exact, isolation, measured = _exactly(sides, judge, matching, isolation, measured)
        explained = _faults_and_causes(run, sides, feeding, isolation, measured)
        judge, measured, moved = _as_rounded(run, sides, judge, explained, measured)
        swapped = _inputs_transposed(sides)
        told = explained.faults, settings.min_coverage, swapped, exact, explained.causes
        verdict, why = decide(judge, matching, measured, *told)
        limits = settings.min_coverage, settings.max_faults
        kept = basis_of(judge, measured, isolation, why_not, *limits, swapped) if settings.details else None
        notes = [
            *_notes(sides, feeding),
            *output_notes(measured, matching, left.trace.graph, sides.right.trace.graph),
            *notes,
            *explained.notes,
            *moved,
            *exact_notes(exact),
            *drift_notes(verdict, measured),
            *near_limit_notes(measured, left.trace.graph, sides.right.trace.graph),
            *check_warnings(checks),
        ]
        return Diff(
            reference=ref.info,
            candidate=cand.info,
            verdict=verdict,
            verdict_reason=why,
            pairs=tuple(measured),
            matching=matching,
            faults=explained.faults,
            truncated=explained.truncated,
            corrected=explained.corrected,
            causes=explained.causes,
            outputs=explained.outputs,
            exact=exact,
            inputs=tuple(f"{link.reference} -> {link.candidate}: {link.how}" for link in sides.plan.links),
            checks=checks,
            timing=dict(clock.seconds),
            memory=dict(clock.memory),
            warnings=tuple(dict.fromkeys(notes)),
            graphs=(left.trace.graph, sides.right.trace.graph),
            basis=kept,
        )


@dataclass(frozen=True)
class _Run:
    """What every step is done with. `new_store` gives one that lives until the diff is made, `share` its usual size."""

    reference: Backend
    candidate: Backend
    settings: Settings
    clock: Clock
    new_store: NewStore
    share: int  # bytes: of the memory budget, what one of the stores that are filled at once may hold

    def done(self, *sides: Backend) -> None:
        """The next run of these needs another session: both models' need not be there at once."""
        for side in sides if not self.settings.repeated else ():
            side.release()


@dataclass(frozen=True)
class _Explained:
    """`corrected`: the outputs' errors with all of `faults` corrected; None where that was not measured."""

    faults: tuple[Fault, ...]
    truncated: bool
    causes: tuple[Cause, ...]
    outputs: frozenset[str]
    corrected: Mapping[str, float] | None
    notes: list[str]


def _begun(ref: Backend, cand: Backend, settings: Settings, clock: Clock, stack: ExitStack) -> _Run:
    share = (settings.budget if settings.budget is not None else _default_memory()) // STORES
    for side in (ref, cand):
        side.bound(share)

    def new_store() -> Store:
        return stack.enter_context(_closing(Store(share)))

    return _Run(ref, cand, settings, clock, new_store, share)


def _run_reference(run: _Run, feeding: Feeding) -> Captured:
    left = capture_with_prints(run.reference, feeding.reference, run.new_store(), run.clock, "run reference")
    run.done(run.reference)
    return left


def _run_candidate(run: _Run, feeding: Feeding, left: Captured) -> tuple[CapturedPair, Matching, list[str]]:
    """Both sides as they were run, their pairs, and what is to be told of how the candidate was fed."""
    ref, cand, user = run.reference, run.candidate, run.settings.user
    weights = weight_reader(ref, cand)
    fed = run_and_match(cand, feeding, left, run.new_store, run.clock, user, weights)
    run.done(cand)
    right, told = fed.captured, feeding.translated
    sides = CapturedPair(ref, cand, feeding.reference, fed.plan, left, right, user, told, weights, fed.by_value)
    return sides, fed.matching, [fed.note] if fed.note else []


def _check_models(run: _Run, sides: CapturedPair) -> Checks:
    """Whether both give the same values once more, and without taps."""
    if not run.settings.checks:
        return {}
    with run.clock.stage("checks"):
        reference = "reference", run.reference, sides.feeds, sides.left.trace
        candidate = "candidate", run.candidate, sides.plan.feeds, sides.right.trace
        return repeat_and_observe((reference, candidate), run.done)


def _isolate(run: _Run, sides: CapturedPair, judge: Judge) -> tuple[Isolation | None, str]:
    """Each pair's own error; or None, and why. Nothing is run after this."""
    isolation, why_not = None, NOT_ASKED
    if run.settings.isolate:
        isolation, why_not = isolate_sides(sides, judge, run.new_store, run.clock, run.settings.probes)
    run.done(run.reference, run.candidate)
    return isolation, why_not


def _check_values(run: _Run, sides: CapturedPair, matching: Matching, isolation: Isolation | None) -> Checks:
    """What this input cannot show, and how isolating went."""
    found: Checks = {"isolation_runs": isolation.runs if isolation else None}
    if isolation:
        found |= {"experiments": isolation.proved.experiments, "left_open": dict(isolation.proved.left_open)}
        found |= {"probed": isolation.proved.probed} if isolation.proved.probed else {}
    found |= blind_spots(sides.left.trace, sides.left.prints, matching)
    with run.clock.stage("checks"):
        found["clipped"] = clipped_ranges(sides.left.trace, sides.right.trace, matching)
    return found


def _measure(
    run: _Run, judge: Judge, matching: Matching, isolation: Isolation | None, why_not: str
) -> list[Measurement]:
    out = []
    place = {name: k for k, name in enumerate(judge.reference.order)}
    pairs = sorted((*matching.pairs, *matching.again), key=lambda p: place.get(p.reference, -1))
    with run.clock.comparing(len(pairs)) as (tick, step):

        def measured(pair: Pair) -> Measurement:
            tick()
            if pair in matching.again:
                return detailed(pair, judge.measure(pair, why_not_isolated=AS_OUTPUT))
            own = isolation.own.get(pair.reference) if isolation else None
            doubt = isolation.doubtful.get(pair.reference, "") if isolation else ""
            excused = isolation.proved.excused.get(pair.reference, "") if isolation else ""
            hidden = isolation.proved.hidden(pair.reference) if isolation else ""
            return detailed(pair, judge.measure(pair, own, doubt, why_not, excused, hidden))

        def detailed(pair: Pair, found: Measurement) -> Measurement:
            return replace(found, detail=judge.detail(pair, found.metrics)) if run.settings.details else found

        for found in judge.each(measured, pairs):
            out.append(found)
            step()
    return out


def _exactly(
    sides: CapturedPair, judge: Judge, matching: Matching, isolation: Isolation | None, measured: list[Measurement]
) -> tuple[tuple[Exact, ...], Isolation | None, list[Measurement]]:
    """Integers, booleans and strings; the isolation and the pairs with the faults among those."""
    passed = {m.pair.reference for m in measured if m.status is Status.PASS}
    tensors = ExactTensors(sides, isolation, matching.pairs, passed)
    isolation, healed = ExactFaults(sides, judge, isolation, tensors).proved()
    drift = {Status.FAULT: Status.DRIFT}
    for k, m in enumerate(measured):
        if m.pair.reference in healed:
            measured[k] = replace(m, reason=healed[m.pair.reference], status=drift.get(m.status, m.status))
    return tensors.told, isolation, measured


def _faults_and_causes(
    run: _Run,
    sides: CapturedPair,
    feeding: Feeding,
    isolation: Isolation | None,
    measured: Sequence[Measurement],
) -> _Explained:
    """The faults that isolation shows, why each is one, and what is wrong with the pair as a whole."""
    left, right = sides.left.trace, sides.right.trace
    faults, truncated = tuple[Fault, ...](), False
    if isolation is not None:
        most = run.settings.max_faults
        faults, truncated = isolation.proved.standing[:most], len(isolation.proved.standing) > most
        asked = run.settings.repro, run.settings.explain_time
        faults = causes_of_faults(faults, sides, isolation, run.clock, *asked)
    outputs = frozenset(p.reference for p in output_pairs((m.pair for m in measured), left.graph, right.graph))
    faults, causes, notes = causes_of_the_pair(faults, sides, feeding, measured, outputs, isolation, run.clock)
    proved = isolation.proved if isolation else None
    all_of_them = proved is not None and len(faults) == len(proved.standing)
    return _Explained(faults, truncated, causes, outputs, proved.corrected if proved and all_of_them else None, notes)


def _as_rounded(
    run: _Run, sides: CapturedPair, judge: Judge, explained: _Explained, measured: list[Measurement]
) -> tuple[Judge, list[Measurement], list[str]]:
    """The outputs that drift alone puts over tolerance, judged by what rounding this network's weights does; and what
    is to be said of them. The run that tells it is made where the verdict hangs on that alone."""
    off = [
        m
        for m in measured
        if m.status is Status.DRIFT and m.pair.reference in explained.outputs and not judge.limited_by_user(m.pair)
        if m.isolated is not None and judge.own_within(m.pair, m.isolated)
    ]
    if explained.faults or explained.causes or not off:
        return judge, measured, []
    with run.clock.stage("checks"):
        moved = moved_by_rounding(sides, [m.pair for m in off])
    run.done(run.reference, run.candidate)
    judge = judge.under(replace(judge.conditions, moved=moved))
    notes = []
    for k, m in enumerate(measured):
        if (far := moved.get(m.pair.reference)) is None or m not in off:
            continue
        measured[k] = replace(judge.measure(m.pair, m.isolated), detail=m.detail)
        notes.append(
            f"output {m.pair.reference} is off by {m.metrics.rel_l2:.2g} (relative L2): rounding the weights alone "
            f"was seen to move it by {far:.2g}, and with them rounded both sides agree"
        )
    return judge, measured, notes


def _inputs_transposed(sides: CapturedPair) -> bool:
    """Whether an input of one shape on both sides is fed with its axes in another order."""
    return any(
        link.layout.reference_shape == link.layout.candidate_shape
        and link.layout.permutation != tuple(range(len(link.layout.permutation)))
        for link in sides.plan.links
    )


def _notes(sides: CapturedPair, feeding: Feeding) -> list[str]:
    """What loading and feeding the models have to say."""
    unlike = (f"inputs differ: {f.what} ({f.kind})" for f in feeding.findings)
    return [*sides.left.trace.graph.notes, *sides.right.trace.graph.notes, *feeding.notes, *unlike]


@contextmanager
def _closing(store: Store) -> Iterator[Store]:
    try:
        yield store
    finally:
        store.close()


def _default_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available * MEMORY_SHARE)
