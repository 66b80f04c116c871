"""Locating by experiment, between the stages: what it is given of a captured pair, and its result in their words."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from aligndbg.core.arrays import Lazy
from aligndbg.core.clock import Clock
from aligndbg.core.errors import AligndbgError
from aligndbg.core.qdq import as_read, read_through
from aligndbg.core.regions import next_pairs
from aligndbg.core.types import Array, Backend, Fault, Matching, Pair, RunAgain, Trace
from aligndbg.locate.borrowed import borrowed
from aligndbg.locate.captured_pair import CapturedPair
from aligndbg.locate.effects import Effects, output_pairs
from aligndbg.locate.experiments import Cut, Experiments
from aligndbg.locate.gauge import Gauge
from aligndbg.locate.isolation import Isolation
from aligndbg.locate.locate import Located, Locator
from aligndbg.locate.nonfinite import beginnings
from aligndbg.locate.probes import Probes, Shown
from aligndbg.locate.proved import Probed, Proved, ProvedFault, fault_at, standing_faults
from aligndbg.locate.reads import reads
from aligndbg.locate.replay import Replay, Rerun, Run, rerun_name
from aligndbg.locate.thresholds import MOST_FAULTS
from aligndbg.match.pairing import match, pair_by_value
from aligndbg.match.state import Link, State
from aligndbg.measure.judge import Judge
from aligndbg.measure.metrics import compare
from aligndbg.measure.results import Metrics

__all__ = ["LocateByExperiment", "Task"]

Place = tuple[str, str]  # a reference's tensor and a candidate's


@dataclass(frozen=True)
class Task:
    """What is located: a captured pair, the side that is run again and on which feeds, and who judges.

    `weights` gives the constants of that side that the other side holds on grids, as those leave them.
    """

    sides: CapturedPair
    run_again: RunAgain
    feeds: Mapping[str, Array]
    judge: Judge
    rerun: Rerun
    weights: Callable[[Iterable[Pair]], Mapping[str, Array]]
    clock: Clock
    probes: int = 0  # random inputs of its own that each region is tested on

    @property
    def candidate_again(self) -> bool:
        return self.run_again is RunAgain.CANDIDATE


class LocateByExperiment:
    """One locating: `isolation()` does it. Keeps what the last full run of the follower measured."""

    def __init__(self, task: Task) -> None:
        self._task, sides = task, task.sides
        traces = (sides.left.trace, sides.right.trace)
        recorded, self._follower = traces if task.candidate_again else traces[::-1]
        self._leader = borrowed(recorded, self._follower.graph)
        backends = (sides.reference, sides.candidate)
        self._leading, self._following = backends if task.candidate_again else backends[::-1]
        tick = task.clock.watch("experiment", "looking for the faulty operators")
        self._gauge = Gauge(task.judge, task.run_again)
        self._experiments = Experiments(
            self._following,
            task.feeds,
            self._leader,
            self._follower,
            task.candidate_again,
            self._override,
            self._gauge,
            tick,
        )
        self._read = {n for node in self._follower.graph.nodes for n in node.inputs}
        self._readers = self._leader.graph.consumers(), self._follower.graph.consumers()
        self._own: dict[Place, Metrics] = {}
        self._equals: Mapping[str, list[str]] = {}

    def isolation(self) -> Isolation:
        """Isolated metrics of every pair, and the faults that experiments proved."""
        leading = self._leading if "override" in self._leading.capabilities else None
        with self._task.clock.stage("experiment"):
            locator = partial(self._locator, leading, self._contested())
            first = locator()
            found = first.locate()
            for cut in first.alternatives(found) if len(found.faults) > 1 else ():
                found = self._fewer(found, locator, cut)
        return self._result(found)

    def _locator(
        self, leading: Backend | None, contested: frozenset[tuple[str, str]], corrected: Cut | None = None
    ) -> Locator:
        start = self._pair(None, contested)
        return Locator(
            self._experiments, leading, start, self._replay, self._pair, self._own_error, contested, corrected
        )

    def _fewer(self, found: Located, locator: Callable[[Cut], Locator], cut: Cut) -> Located:
        """What is found where `cut` is corrected from the start, if those are fewer faults that explain as much."""
        measured = self._own, self._equals
        other = locator(cut).locate()
        if len(other.faults) < len(found.faults) and len(other.unexplained) <= len(found.unexplained):
            found.replay.close()
            return other
        other.replay.close()
        self._own, self._equals = measured
        return found

    def _contested(self) -> frozenset[tuple[str, str]]:
        """The user's pairs of which values pair one with another tensor: crossed by mistake, they would poison all."""
        users = self._task.sides.user or {}
        values = self._pair(None, frozenset(), users=False) if users else None
        if values is None:
            return frozenset()
        return frozenset(
            (r, c)
            for r, c in users.items()
            if (r in values.links and values.links[r].candidate != c)
            or (c in values.by_candidate and values.by_candidate[c].reference != r)
        )

    def _override(self, cut: Cut) -> Array:
        """The leader's recorded value, as what reads it gets it, in the form in which the follower stores it."""
        return self._as_followed(cut, self._experiments.leading(cut.leader))

    def _as_followed(self, cut: Cut, value: Array) -> Array:
        """A real value of the leader's tensor likewise."""
        leader, follower = self._leader, self._follower
        if leader.quant(cut.leader) is None and read_through(self._readers[1], cut.follower) is None:
            value = as_read(leader, self._readers[0], cut.leader, value)
        return _stored(follower, cut.follower, self._experiments.moved(cut.layout, value))

    def _as_led(self, cut: Cut, value: Array) -> Array:
        """A stored value of the follower's tensor in the form in which the leader stores it."""
        real, layout = self._experiments.real(self._follower, cut.follower, value), cut.layout
        moved = layout.to_reference(real) if self._task.candidate_again else layout.to_candidate(real)
        return _stored(self._leader, cut.leader, moved)

    def _replay(self, cuts: list[Cut]) -> Replay:
        """The follower with these cuts; each pair is compared while it runs."""
        task, refused = self._task, self._experiments.refused
        pairs = [c.pair(task.candidate_again) for c in cuts if not c.border]
        usable = [c for c in cuts if not c.watched and c.follower not in refused and c.follower in self._read]
        overridden = {c.key for c in usable}
        fed = reads(self._leader.graph, self._follower.graph, usable) if self._gauge.coarse else {}
        self._experiments.reads = {at: c for at, c in fed.items() if c.leader in self._leader.values}
        usable += [c for at, c in self._experiments.reads.items() if at not in overridden]
        self._experiments.weights = task.weights(pairs)
        borders = [c.leader for c in self._experiments.reads.values()]
        run = Run(task.judge, pairs, task.run_again, borders)
        overrides = Lazy({c.key: partial(self._override, c) for c in usable})
        replay, self._own = run.compared(task.rerun, overrides, self._experiments.weights, task.clock.comparing)
        refused.update(replay.refused)
        self._gauge.borders(run.judge, [p for p in pairs if rerun_name(p, task.run_again) not in refused], borders)
        return replay

    def _own_error(self, cut: Cut, replay: Replay) -> float:
        pair = cut.pair(self._task.candidate_again)
        if not cut.border and not cut.watched and (pair.reference, pair.candidate) in self._own:
            return self._gauge.told(pair, self._own[pair.reference, pair.candidate])
        return self._experiments.error(cut, replay.trace.values)

    def _pair(self, replay: Replay | None, reject: frozenset[tuple[str, str]], users: bool = True) -> State:
        sides, candidate_again = self._task.sides, self._task.candidate_again
        recorded = (sides.left if candidate_again else sides.right).trace
        if replay is None and users and not reject and self._leader is recorded:
            state, self._equals = sides.by_value
            return state.by_value()
        told, again = (sides.left, sides.right) if candidate_again else (sides.right, sides.left)
        leader, follower = (self._leader, told.prints), (again.trace, again.prints)
        if replay is not None:
            follower = replay.trace, replay.prints
        left, right = (leader, follower) if candidate_again else (follower, leader)
        with self._task.clock.pairing() as tick:
            state, self._equals = pair_by_value(
                left[0],
                right[0],
                left[1],
                right[1],
                inputs=sides.links,
                user=sides.user if users else None,
                reject=reject - set((sides.user or {}).items()),
                weights=sides.weights,
                tick=tick,
            )
        return state

    # ---- the result

    def _result(self, found: Located) -> Isolation:
        matching = self._matching(found)
        run_again, judge = self._task.run_again, self._gauge.judge
        for pair in matching.pairs:  # what the last run paired anew was computed from what was cut above it
            at = pair.reference, pair.candidate
            if at not in self._own and rerun_name(pair, run_again) in found.replay.trace.values:
                self._own[at] = judge.isolated(pair, found.replay.trace, run_again)
        own = {p.reference: self._own[at] for p in matching.pairs if (at := (p.reference, p.candidate)) in self._own}
        hidden, probed = self._probed(found) if self._task.probes else ({}, None)
        begun = self._begun(found, matching)
        order = found.state.reference.position
        every = sorted(
            (*found.faults, *begun), key=lambda c: order.get(c.pair(self._task.candidate_again).reference, 0)
        )
        found = replace(found, faults=tuple(every))
        faults = tuple(self._as_run(cut, found) if cut in begun else self._fault(cut, found) for cut in found.faults)
        faults += tuple(self._fault(cut, found, shown) for cut, shown in hidden.items())
        places = {
            (f.pair.reference, f.pair.candidate): cut for f, cut in zip(faults, (*found.faults, *hidden), strict=True)
        }
        refused = frozenset(
            p.reference for p in matching.pairs if rerun_name(p, run_again) in self._experiments.refused
        )
        proved = Proved(
            faults,
            self._excused(found, places),
            left_open=self._left_open(found),
            probed=probed,
            witnesses={at: self._witness(cut, found, matching) for at, cut in places.items() if cut.border},
        )
        standing = standing_faults(judge, proved, matching.pairs, own, refused)
        told, corrected = self._effects(standing, places, matching, found)
        return Isolation(
            matching,
            replace(proved, experiments=self._experiments.count, standing=told, corrected=corrected),
            own,
            self._doubtful(found, matching, faults),
            frozenset(p.reference for p in matching.pairs if places.get((p.reference, p.candidate)) in found.faults),
            refused,
            found.runs,
            judge.conditions,
            found.replay,
            run_again,
        )

    def _effects(
        self, faults: Sequence[Fault], places: Mapping[Place, Cut], matching: Matching, found: Located
    ) -> tuple[tuple[Fault, ...], dict[str, float] | None]:
        """The faults with what each does at the outputs, and what all of them corrected leave there."""
        if not faults:
            return (), None
        outputs = output_pairs(matching.pairs, self._task.judge.reference.graph, self._task.judge.candidate.graph)
        pairs = {(p.reference, p.candidate): p for p in matching.pairs}
        at = [(f.reference or "", f.candidate or "") for f in faults]
        cuts = [places.get(place) or self._cut(pairs[place]) for place in at]
        leads = "override" in self._leading.capabilities and self._leader.feeds is not None
        effects = Effects(
            self._experiments,
            {p.reference: self._cut(p) for p in outputs},
            [c for c in found.standing.cuts if c not in cuts],
            self._leading if leads else None,
            self._as_led,
            self._as_followed,
        )
        try:
            corrected = effects.corrected(cuts)
            told = effects.of_each(cuts) if len(cuts) <= MOST_FAULTS else [None] * len(cuts)
        except AligndbgError:
            return tuple(faults), None
        return tuple(replace(f, effect=e) for f, e in zip(faults, told, strict=True)), corrected

    def _cut(self, pair: Pair) -> Cut:
        ours_first = self._task.candidate_again
        a, b = (pair.reference, pair.candidate) if ours_first else (pair.candidate, pair.reference)
        return Cut(a, b, pair.layout)

    def _matching(self, found: Located) -> Matching:
        """What values pair in the end, and the places that experiments found."""
        state = found.state.of(self._task.judge.reference, self._task.judge.candidate)
        for cut in found.accepted:
            pair = cut.pair(self._task.candidate_again)
            if cut.border or pair.reference in state.links or pair.candidate in state.by_candidate:
                continue
            why = "what is computed from it comes right once it is overridden"
            error = found.standing.error.get(cut, float("inf"))
            state.add(Link(pair.reference, pair.candidate, pair.layout, "experiment", error, why))
        return match(state, self._equals)

    def _excused(self, found: Located, places: Container[Place]) -> dict[str, str]:
        """Pairs over their limit that are no faults."""
        out = {}
        for cut in found.standing.cuts:
            if cut in found.unknown:
                continue
            pair = cut.pair(self._task.candidate_again)
            if not cut.border and self._over_usual(pair) and (pair.reference, pair.candidate) not in places:
                error, limit = found.standing.error[cut], found.standing.limit[cut]
                why = "once both sides are given the same rounded values"
                why = why if error <= limit else "which nothing that is computed from it feels"
                out[pair.reference] = f"own error {error:.2g}, {why}"
        return out

    def _over_usual(self, pair: Pair) -> bool:
        own = self._own.get((pair.reference, pair.candidate))
        judge = self._gauge.judge
        return own is not None and not judge.proved_within(pair, own, judge.default(pair, isolated=True))

    def _doubtful(self, found: Located, matching: Matching, faults: Sequence[ProvedFault]) -> dict[str, str]:
        """The user's pairs that their values, or what follows, refute; and what no experiment could judge."""
        why = "given by --map, and its values or what is computed from it disagree"
        users = [p for p in matching.pairs if p.method == "user"]
        wrong = [p for p in users if self._over_usual(p) or (p.reference, p.candidate) in found.dropped]
        told = {(f.pair.reference, f.pair.candidate) for f in faults}
        late = [p for p in matching.pairs if p.method in ("output", "name") and self._over_usual(p)]
        unproved = "over its limit, but values do not pair it, and no experiment did"
        wrong_late = {p.reference: unproved for p in late if (p.reference, p.candidate) not in told}
        paired = {c.pair(self._task.candidate_again).reference for c in found.unknown if not c.border}
        left = {name: open_ for name, open_ in self._left_open(found).items() if name in paired}
        return left | wrong_late | {p.reference: why for p in wrong}

    def _left_open(self, found: Located) -> dict[str, str]:
        """What no experiment could tell."""
        over = "over its limit, and no experiment could tell whether what is computed from it is wrong by that"
        wrong = "no correction of one place brings it right"
        if self._task.candidate_again:
            outputs = dict.fromkeys(found.unexplained, wrong)
        else:
            known = {p.candidate: p.reference for p in found.state.links.values()}
            outputs = {known.get(name, name): wrong for name in found.unexplained}
        return outputs | {c.pair(self._task.candidate_again).reference: over for c in found.unknown}

    def _witness(self, cut: Cut, found: Located, matching: Matching) -> tuple[str, Mapping[str, Array]]:
        """For an operator that one side lacks: the nearest pair below, and the follower's values without the cut."""
        others = {rerun_name(p, self._task.run_again): p for p in matching.pairs}
        below = next_pairs(self._follower.graph.consumers(), others, cut.follower)
        names = [rerun_name(p, self._task.run_again) for p in below]
        values = self._experiments.tried(names, [c for c in found.standing.cuts if c is not cut])
        return (below[0].reference if below else ""), values

    def _probed(self, found: Located) -> tuple[dict[Cut, Shown], Probed]:
        """The regions that agree on this input, and do not on others of their own; and what was probed."""
        leading, cuts = self._leading, [c for c in found.standing.cuts if c not in found.faults]
        why = "values on a grid" if self._gauge.coarse else ""
        if "override" not in leading.capabilities or self._leader.feeds is None:
            why = f"{leading.info.path} cannot be run with overrides"
        links = [
            (r, c, layout) if self._task.candidate_again else (c, r, layout) for r, c, layout in self._task.sides.links
        ]
        sides = found.state.reference, found.state.candidate
        sides = sides if self._task.candidate_again else sides[::-1]
        hidden: dict[Cut, Shown] = {}
        runs = regions = 0
        try:
            for seed in range(0 if why else self._task.probes):
                probes = Probes(self._experiments, leading, sides, links, seed, signed=seed % 2 == 0)
                found_now, regions = probes.shown(cuts)
                for cut, shown in found_now.items():
                    if cut not in hidden or hidden[cut].error < shown.error:
                        hidden[cut] = shown
                runs += 1
        except AligndbgError as error:
            why = error.fact
        return hidden, Probed(runs=runs, regions=regions, why_not=why)

    def _begun(self, found: Located, matching: Matching) -> list[Cut]:
        """Where NaN or Inf begin that no isolated run shows."""
        ours, theirs = self._task.sides.left.prints, self._task.sides.right.prints
        unlike = [p for p in matching.pairs if ours[p.reference].finite != theirs[p.candidate].finite]
        side = found.state.candidate if self._task.candidate_again else found.state.reference
        known = {c.place for c in found.faults}
        cuts = [c for c in map(self._cut, unlike) if not c.watched and c.place not in known]
        suspects = sorted(cuts, key=lambda c: side.position.get(c.follower, 0))
        return beginnings(self._experiments, suspects, found.faults, self._follower.graph.outputs)

    def _as_run(self, cut: Cut, found: Located) -> ProvedFault:
        """A fault that shows only where each side reads its own values."""
        pair = cut.pair(self._task.candidate_again)
        own = self._gauge.judge.metrics(pair)
        usual = self._fault(cut, found)
        fault = replace(usual.fault, isolated_error=own.rel_l2, isolated_unit="rel_l2")
        return replace(usual, fault=fault, own=own, as_run=True)

    def _fault(self, cut: Cut, found: Located, shown: Shown | None = None) -> ProvedFault:
        judge, candidate_again = self._gauge.judge, self._task.candidate_again
        pair = cut.pair(candidate_again)
        links = [Pair(k.reference, k.candidate, k.layout, k.method, 1.0) for k in found.state.links.values()]
        cuts = [c.pair(candidate_again) for c in found.standing.cuts if c is not cut and not c.watched]
        lacking = ""
        if cut.border:
            lacking = "candidate" if (cut.border == "follower") == candidate_again else "reference"
        if shown is None:
            own = judge.isolated(pair, found.replay.trace, self._task.run_again)
        else:
            ours, theirs = (shown.leading, shown.following)[:: 1 if candidate_again else -1]
            theirs, limits = pair.layout.to_reference(theirs), judge.tolerance(pair, isolated=True)
            own = compare(ours, theirs, tolerance=limits, joint=judge.joint)
        fault = fault_at(judge, pair, [*links, *cuts], own, lacking)
        fault = replace(fault, hidden=shown is not None or cut in found.hidden)
        return ProvedFault(fault, pair, own, judge.default(pair, isolated=True))


def _stored(trace: Trace, name: str, value: Array) -> Array:
    """A real value as a side stores its tensor."""
    own, like = trace.quant(name), trace.values.get(name, value)
    with np.errstate(over="ignore"):  # past float16's range it is inf there, as it would be
        stored = value.astype(like.dtype, copy=False) if own is None else own.quantize(value, like.dtype)
    return np.asarray(stored, order="C")
