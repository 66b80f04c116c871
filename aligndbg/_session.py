"""One run of both sides through the stages: capture, match, check, isolate, measure, decide."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from aligndbg._checks import blind_spots, check_warnings, repeat_and_observe
from aligndbg._diff import Diff
from aligndbg._errors import UsageError
from aligndbg._feeding import Feeding, InputOptions, plan_feeds
from aligndbg._types import (
    FLOAT_DTYPES,
    Array,
    Backend,
    Layout,
    Matching,
    Measurement,
    Pair,
    Status,
    Trace,
    Verdict,
)
from aligndbg.faults import make_faults
from aligndbg.feeds import FeedPlan
from aligndbg.grid import grid_feeds, grid_weights
from aligndbg.locate import Isolation
from aligndbg.locate import isolate as isolate_pairs
from aligndbg.match import Weights, match
from aligndbg.match.weights import WeightPrint, weight_print
from aligndbg.metrics import Fingerprint, ToleranceRules, fingerprint
from aligndbg.store import Store
from aligndbg.tracing import capture as capture_trace
from aligndbg.verdict import Judge, decide

__all__ = ["Clock", "Progress", "Settings", "capture", "diff_once", "one_blas_thread"]

MAX_PLANS = 4  # ways to feed the candidate that are tried when the first does not make the layers agree
SMALLEST_WEIGHT = 16  # elements; fewer have no fingerprint worth the name
NOT_ASKED = "isolated error was not asked for"
Progress = Callable[[str, int, int | None], None]


def one_blas_thread() -> AbstractContextManager[Any]:
    """Our dot products are short: a second BLAS thread only spins, and takes its core from the runtimes.

    Measured on a busy machine of two cores: 85 s with it, 12 s without.
    """
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits


@dataclass(frozen=True)
class Settings:
    """What a diff was asked to do; `budget` is bytes of tensors held in memory, `user` the pairs of --map."""

    rules: ToleranceRules
    user: Mapping[str, str] | None = None
    min_coverage: float = 0.5
    max_faults: int = 20
    checks: bool = True
    isolate: bool = True
    budget: int | None = None


@dataclass
class Clock:
    """Seconds by stage, and the progress shown while a stage runs."""

    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if self.progress:
                self.progress(name, done, total)

        start = time.perf_counter()
        if self.progress:
            self.progress(name, 0, total)
        try:
            yield step
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass
class _Captured:
    trace: Trace
    prints: dict[str, Fingerprint]


def diff_once(ref: Backend, cand: Backend, options: InputOptions, settings: Settings, clock: Clock) -> Diff:
    """Both sides on one input, compared."""
    with ExitStack() as stack:
        with clock.stage("load"):
            feeding = plan_feeds(ref, cand, options)
        budget = settings.budget if settings.budget is not None else _default_memory()

        def new_store() -> Store:
            return stack.enter_context(_closing(Store(budget // 2)))

        left = capture(ref, feeding.reference, new_store(), clock, "run reference")
        weights = _weights(ref, cand)
        right, plan, matching, notes = _capture_and_match(cand, feeding, left, new_store, clock, settings.user, weights)
        sides = _Sides(ref, cand, feeding.reference, plan, left, right, settings.user, feeding.translated, weights)
        judge = Judge(left.trace, right.trace, settings.rules)
        _refuse_unused(settings.rules, left.trace, right.trace)
        found: dict[str, Any] = {}
        if settings.checks:
            with clock.stage("checks"):
                found = repeat_and_observe(
                    (
                        ("reference", ref, feeding.reference, left.trace),
                        ("candidate", cand, plan.feeds, right.trace),
                    )
                )
        isolation, why_not = (
            _isolate(sides, matching, judge, new_store, clock) if settings.isolate else (None, NOT_ASKED)
        )
        matching = isolation.matching if isolation else matching
        found |= {"isolation_runs": isolation.runs if isolation else None} | blind_spots(
            left.trace, left.prints, matching
        )
        measured = _measure(judge, matching.pairs, isolation, why_not, clock)
        faults, truncated = (
            make_faults(left.trace, right.trace, isolation, settings.max_faults) if isolation else ((), False)
        )
        swapped = any(
            link.layout.reference_shape == link.layout.candidate_shape
            and link.layout.permutation != tuple(range(len(link.layout.permutation)))
            for link in plan.links
        )
        verdict, why = decide(
            left.trace, right.trace, matching, measured, faults, judge, settings.min_coverage, inputs_transposed=swapped
        )
        notes = [*feeding.notes, *(f"inputs differ: {f.what} ({f.kind})" for f in feeding.findings), *notes]
        drifting = sum(1 for m in measured if m.status in (Status.DRIFT, Status.UNKNOWN))
        if verdict is Verdict.ALIGNED and drifting:
            notes.append(f"{drifting} inner tensors are over tolerance or prove nothing; the outputs are fine")
        return Diff(
            reference=ref.info,
            candidate=cand.info,
            verdict=verdict,
            verdict_reason=why,
            pairs=tuple(measured),
            matching=matching,
            faults=faults,
            truncated=truncated,
            outputs=_outputs(left.trace, right.trace, matching.pairs),
            inputs=tuple(f"{link.reference} -> {link.candidate}: {link.how}" for link in plan.links),
            checks=found,
            timing=dict(clock.seconds),
            warnings=tuple(dict.fromkeys([*notes, *check_warnings(found)])),
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


def capture(
    backend: Backend,
    feeds: Mapping[str, Array] | None,
    store: Store,
    clock: Clock,
    stage: str,
    prints: bool = True,
    overrides: Mapping[str, Array] | None = None,
) -> _Captured:
    """One run with everything fetched; fingerprints are made as values stream by."""
    graph = backend.graph()
    made: dict[str, Fingerprint] = {}
    with clock.stage(stage, len(graph.tappable()) or None) as step:

        def observe(name: str, value: Array) -> None:
            info = graph.tensors.get(name)
            quant = info.quant if info else None
            if prints and (quant is not None or str(value.dtype) in FLOAT_DTYPES):
                made[name] = fingerprint(value, quant)
            step()

        trace = capture_trace(backend, feeds, store=store, observe=observe, overrides=overrides)
    return _Captured(trace, made)


def _capture_and_match(
    backend: Backend,
    feeding: Feeding,
    left: _Captured,
    new_store: Callable[[], Store],
    clock: Clock,
    user: Mapping[str, str] | None,
    weights: Weights,
) -> tuple[_Captured, FeedPlan, Matching, list[str]]:
    """Run the candidate as the first plan feeds it; where the layers do not agree, try the others and keep the best."""
    best: tuple[_Captured, FeedPlan, Matching] | None = None
    for plan in feeding.plans[:MAX_PLANS]:
        right = capture(backend, plan.feeds or None, new_store(), clock, "run candidate")
        links = [(link.reference, link.candidate, link.layout) for link in plan.links]
        with clock.stage("match"):
            matching = match(
                left.trace, right.trace, left.prints, right.prints, inputs=links, user=user, weights=weights
            )
        if best is None or matching.agreement > 1.1 * best[2].agreement + 0.5:
            best = (right, plan, matching)
        if matching.agreement >= 0.6 * len(matching.pairs) or "run" not in backend.capabilities:
            break
    assert best is not None
    notes = []
    if best[1] is not feeding.plans[0]:
        how = "; ".join(f"{link.candidate}: {link.how}" for link in best[1].links)
        notes.append(f"the candidate's layers agree only when it is fed so: {how}")
    return (*best, notes)


def _weights(reference: Backend, candidate: Backend) -> Weights:
    """Prints of both sides' weights, read only if structure has to pair something."""

    @lru_cache(maxsize=1)
    def read() -> tuple[dict[str, WeightPrint], dict[str, WeightPrint]]:
        return _weight_prints(reference), _weight_prints(candidate)

    return read


def _weight_prints(backend: Backend) -> dict[str, WeightPrint]:
    if "run" not in backend.capabilities:
        return {}  # a trace keeps no weights
    tensors = backend.graph().tensors
    wanted = []
    for name in sorted({i for node in backend.graph().nodes for i in node.inputs} & backend.graph().constants):
        info = tensors.get(name)
        shape = info.static_shape if info else None
        if info is None or shape is None or len(shape) < 2 or math.prod(shape) < SMALLEST_WEIGHT:
            continue
        if info.dtype in FLOAT_DTYPES or info.quant is not None:
            wanted.append(name)
    out = {}
    for name, value in backend.run({}, wanted) if wanted else ():
        quant = tensors[name].quant
        out[name] = weight_print(quant.dequantize(value) if quant else value, quant is not None)
    return out


@dataclass(frozen=True)
class _Sides:
    """Both sides as they were run and captured, for the stages that run one of them again."""

    reference: Backend
    candidate: Backend
    feeds: Mapping[str, Array] | None
    plan: FeedPlan
    left: _Captured
    right: _Captured
    user: Mapping[str, str] | None
    translated: Mapping[str, Array] | None
    weights: Weights


def _isolate(
    sides: _Sides, matching: Matching, judge: Judge, new_store: Callable[[], Store], clock: Clock
) -> tuple[Isolation | None, str]:
    """Isolated errors, by overriding the side that can be overridden; or the reason why there are none."""
    forward = "override" in sides.candidate.capabilities and not _quantized(sides.right.trace)
    backend = sides.candidate if forward else sides.reference
    if "override" not in backend.capabilities:
        return None, "neither side can be run with overrides"
    if not forward and not sides.feeds:
        return None, "the reference has no feeds to be run with"
    links = [(link.reference, link.candidate, link.layout) for link in sides.plan.links]
    # Fed apart by the user, the candidate is isolated on what the reference was fed: the feed is no operator's fault.
    feeds: Mapping[str, Array] = (sides.translated or sides.plan.feeds) if forward else sides.feeds or {}
    weights: dict[str, Array] = {}
    if _quantized(sides.right.trace):
        judge.weights_unknown = "run" not in sides.candidate.capabilities
        with clock.stage("isolate"):
            feeds, weights = _on_grid(sides, matching, feeds, links)

    last: list[Store] = []  # a round is read before the next one is run

    def rerun(overrides: Mapping[str, Array]) -> tuple[Trace, dict[str, Fingerprint]]:
        while last:
            last.pop().close()
        last.append(new_store())
        made = capture(backend, feeds, last[0], clock, "isolate", overrides={**weights, **overrides})
        return made.trace, made.prints

    def rematch(
        trace: Trace, prints: dict[str, Fingerprint], keep: tuple[Pair, ...], reject: frozenset[tuple[str, str]]
    ) -> Matching:
        ours = (sides.left.trace, sides.left.prints) if forward else (trace, prints)
        theirs = (trace, prints) if forward else (sides.right.trace, sides.right.prints)
        with clock.stage("match"):
            return match(
                ours[0],
                theirs[0],
                ours[1],
                theirs[1],
                inputs=links,
                user=sides.user,
                keep=keep,
                reject=reject,
                weights=sides.weights,
            )

    found = isolate_pairs(sides.left.trace, sides.right.trace, matching, judge, rerun, rematch, forward=forward)
    return found, "it could not be isolated"


def _on_grid(
    sides: _Sides, matching: Matching, feeds: Mapping[str, Array], links: Sequence[tuple[str, str, Layout]]
) -> tuple[Mapping[str, Array], dict[str, Array]]:
    """The reference's feeds and weights on the grids of a quantized candidate."""
    candidate = sides.right.trace.graph
    fed = sides.plan.feeds or sides.right.trace.feeds or {}
    feeds = grid_feeds(feeds, fed, [k for k in links if k[1] in fed], sides.left.trace.graph, candidate)
    if "run" not in sides.candidate.capabilities:
        return feeds, {}  # a trace keeps no weights: judged by the weaker rule
    return feeds, grid_weights(
        matching,
        sides.left.trace.graph,
        candidate,
        lambda names: dict(sides.reference.run({}, names)) if names else {},
        lambda names: dict(sides.candidate.run({}, names)) if names else {},
    )


def _quantized(trace: Trace) -> bool:
    tensors = trace.graph.tensors
    return any(n in tensors and tensors[n].quant is not None for n in trace.values)


def _measure(
    judge: Judge, pairs: Sequence[Pair], isolation: Isolation | None, why_not: str, clock: Clock
) -> list[Measurement]:
    with clock.stage("compare", len(pairs)) as step:
        out = []
        for pair in pairs:
            own = isolation.own.get(pair.reference) if isolation else None
            doubt = isolation.doubtful.get(pair.reference, "") if isolation else ""
            out.append(judge.measure(pair, own, doubt, why_not))
            step()
    return out


def _refuse_unused(rules: ToleranceRules, left: Trace, right: Trace) -> None:
    ops = {n.op_type for t in (left, right) for n in t.graph.nodes}
    names = {n for t in (left, right) for n in t.values}
    unused = rules.unused(ops, names)
    if unused:
        raise UsageError(f"the tolerance {unused[0]!r} matches no operator and no tensor", hint="see `aligndbg layers`")


def _outputs(left: Trace, right: Trace, pairs: Sequence[Pair]) -> frozenset[str]:
    ours, theirs = set(left.graph.outputs), set(right.graph.outputs)
    return frozenset(p.reference for p in pairs if p.reference in ours or p.candidate in theirs)
