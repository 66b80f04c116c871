"""Which regions over their limit are faults: what is felt below, what a probe shows, and which pairs were wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from aligndbg.core.errors import AligndbgError
from aligndbg.core.types import Array, Backend
from aligndbg.locate.experiments import Cut, Experiments, jittered
from aligndbg.locate.probes import Probes
from aligndbg.locate.search import readers
from aligndbg.locate.thresholds import FELT, JITTER_TIMES, JITTER_ULPS, PROBES
from aligndbg.locate.walks import above, reach, sinks
from aligndbg.match.side import Side
from aligndbg.measure.distance import distance
from aligndbg.measure.tolerance import EPSILON

__all__ = ["Finding", "Standing", "Suspects"]

NEAR_BORDERS = 8  # paired tensors above a region that are each left out once
CLEARED = 10  # leaving a wrong border out makes the region this many times cleaner


class Finding(StrEnum):
    """What an experiment says of a region over its limit."""

    FELT = "felt"
    OUTPUT = "output"  # nothing is computed from it: it is a model output
    HIDDEN = "hidden"  # not felt on this input, but on random border values
    EQUIVALENT = "equivalent"
    UNKNOWN = "unknown"  # no probe could be run


@dataclass(frozen=True)
class Standing:
    """Own error and limit of every cut, what is noise in it (`least`), and its conditioning: what a jitter of a few
    ulps on all borders does to it."""

    cuts: tuple[Cut, ...]
    error: Mapping[Cut, float]
    limit: Mapping[Cut, float]
    least: Mapping[Cut, float]
    jitter: Mapping[Cut, float]

    def over(self, cut: Cut) -> bool:
        return not self.error[cut] <= max(self.limit[cut], JITTER_TIMES * self.jitter.get(cut, 0.0))

    def floor(self, cut: Cut) -> float:
        """What is noise there."""
        return max(self.least[cut], JITTER_TIMES * self.jitter.get(cut, 0.0))


class Suspects:
    """Judges regions by what follows from them, with all other cuts in place."""

    def __init__(self, experiments: Experiments, leader: Side, follower: Side, leading: Backend | None) -> None:
        self._experiments, self.leader, self.follower, self._leading = experiments, leader, follower, leading
        self._rng = np.random.default_rng(0)

    def jitter(self, suspects: Sequence[Cut], cuts: Sequence[Cut]) -> dict[Cut, float]:
        """What jittered borders do to each suspect on either side; the smaller: a coarse rounding on one side is a
        fault's own noise, not the mathematics'."""
        if self._experiments.gauge.coarse:
            return {}  # what grids round is in the limits
        keys = {c.key: c for c in cuts if not c.watched}
        feeds = self._experiments.follower.feeds or {}
        shaken = {k: jittered(self._experiments.override(c), JITTER_ULPS, self._rng) for k, c in keys.items()}
        names = [c.follower for c in suspects]
        still = self._experiments.tried(names, cuts)
        try:
            moved = self._experiments.run(names, cuts, feeds=self._jittered(feeds), values=shaken)
        except AligndbgError:
            return {}
        ours = {c: self._between(self._experiments.follower, c.follower, still, moved) for c in suspects}
        theirs = self._leading_jitter(suspects, cuts)
        return {c: min(ours[c], theirs.get(c, ours[c])) for c in suspects}

    def _leading_jitter(self, suspects: Sequence[Cut], cuts: Sequence[Cut]) -> dict[Cut, float]:
        """The same of the leader, from its own recorded values, where it can be run."""
        leader = self._experiments.leader
        if self._leading is None or leader.feeds is None:
            return {}
        names = list(dict.fromkeys(c.leader for c in suspects))
        told = {c.leader: leader.values[c.leader] for c in cuts if c.leader in leader.values and not c.watched}
        overrides = {n: jittered(v, JITTER_ULPS, self._rng) for n, v in told.items() if n in self.leader.consumers}
        try:
            moved = dict(self._leading.run(self._jittered(leader.feeds), names, overrides))
        except AligndbgError:
            return {}
        still = {n: leader.values[n] for n in names}
        return {c: self._between(leader, c.leader, still, moved) for c in suspects}

    def given_alike(self, suspects: Sequence[Cut], cuts: Sequence[Cut], got: Mapping[str, Array]) -> dict[Cut, float]:
        """Their own errors, of the follower's values `got`, where the leader is given its values as the follower stores
        them, in fewer bits: what that rounding alone does is nobody's fault. {} where nothing is stored so, or the
        leader cannot be run."""
        leader, experiments = self._experiments.leader, self._experiments
        rounded = {c.leader: self._as_stored(c) for c in cuts if not c.watched and c.leader in self.leader.consumers}
        overrides = {name: value for name, value in rounded.items() if value is not None}
        if not overrides or self._leading is None or leader.feeds is None or experiments.gauge.coarse:
            return {}
        try:
            told = dict(self._leading.run(leader.feeds, list(dict.fromkeys(c.leader for c in suspects)), overrides))
        except AligndbgError:
            return {}
        follower = experiments.follower
        return {
            c: experiments.between(c.layout, told[c.leader], experiments.real(follower, c.follower, got[c.follower]))
            for c in suspects
            if c.follower in got and c.leader in told and not c.watched
        }

    def _as_stored(self, cut: Cut) -> Array | None:
        """The leader's value after the rounding to the follower's dtype; None where that rounds nothing."""
        value = self._experiments.leader.values.get(cut.leader)
        stored = self._experiments.follower.values.get(cut.follower)
        if value is None or stored is None or EPSILON.get(str(stored.dtype), 0.0) <= EPSILON.get(str(value.dtype), 1.0):
            return None
        with np.errstate(over="ignore"):
            return np.asarray(value.astype(stored.dtype).astype(value.dtype))

    def _jittered(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {k: jittered(np.asarray(v), JITTER_ULPS, self._rng) for k, v in feeds.items()}

    def _between(self, trace: object, name: str, one: Mapping[str, Array], other: Mapping[str, Array]) -> float:
        if name not in one or name not in other:
            return 0.0
        apart = distance(one[name], other[name])
        return apart if np.isfinite(apart) else 0.0

    def judge(self, cut: Cut, standing: Standing) -> Finding | Cut:
        """What the region that ends at `cut` is; or the pair that is wrong, the cut itself or a border of it."""
        cuts = standing.cuts
        wrong = self._wrong_border(cut, standing)
        if wrong is not None:
            return wrong
        below = self.below(cut, cuts)
        at_end = cut.follower in sinks(self.follower)
        if not below:
            return Finding.OUTPUT if at_end or cut.proposed else Finding.EQUIVALENT
        got = self._experiments.tried([b.follower for b in below], [c for c in cuts if c is not cut])
        if not got:
            return Finding.UNKNOWN
        without = {b: self._experiments.felt(b, got) for b in below}
        cut_there = self._cut_there(below, standing)
        better = [
            b for b in below if without[b] > FELT * max(cut_there[b], standing.floor(b)) or self._far(b, got, standing)
        ]
        worse = [b for b in below if cut_there[b] > FELT * max(without[b], standing.floor(b))]
        if better:
            return Finding.FELT if len(better) >= len(worse) else cut
        if worse:
            return cut
        if at_end:
            return Finding.OUTPUT
        if self._experiments.gauge.coarse:  # the next grid may round it off, and what it holds is no input of its own
            certain = self._experiments.gauge.exact(cut.pair(self._experiments.candidate_again))
            return Finding.FELT if certain else cut if cut.proposed else Finding.UNKNOWN
        return cut if cut.proposed else self._probe(cut, cuts, below, standing)

    def _far(self, below: Cut, got: Mapping[str, Array], standing: Standing) -> bool:
        """On a grid, whether it is off somewhere, past its limit: one channel of many hardly moves the mean."""
        error = self._experiments.error(below, got) if self._experiments.gauge.coarse else 0.0
        return error > FELT * standing.error[below] and error > standing.limit[below]

    def _cut_there(self, below: Sequence[Cut], standing: Standing) -> Mapping[Cut, float]:
        """How far they are off with every cut in place."""
        if not self._experiments.gauge.coarse:
            return standing.error
        got = self._experiments.tried([b.follower for b in below], standing.cuts)
        return {b: self._experiments.felt(b, got) for b in below}

    def below(self, cut: Cut, cuts: Sequence[Cut]) -> list[Cut]:
        """The nearest cuts that are computed from this one."""
        found: dict[str, list[Cut]] = {}
        for c in cuts:
            if not c.edge and c is not cut:
                found.setdefault(c.follower, []).append(c)
        _, ends = reach(self.follower, readers(self.follower.consumers, cut), found)
        return [c for name in ends for c in found[name]]

    def _wrong_border(self, cut: Cut, standing: Standing) -> Cut | None:
        """A clean pair above without which the region is clean, too: that pair is none."""
        ends = set(above(self.follower, cut.follower, {c.follower for c in standing.cuts})[1])
        borders = [c for c in standing.cuts if c.follower in ends and c is not cut][:NEAR_BORDERS]
        for border in borders:
            if border.proposed or standing.error[border] > standing.limit[border]:
                continue
            got = self._experiments.tried([cut.follower], [c for c in standing.cuts if c is not border])
            error = self._experiments.error(cut, got)
            if error < standing.error[cut] / CLEARED and error <= standing.limit[cut]:
                return border
        return None

    def _probe(self, cut: Cut, cuts: Sequence[Cut], below: Sequence[Cut], standing: Standing) -> Finding:
        """Both sides' region, and what masks it, on shuffled border values: equal below each time?"""
        if self._leading is None:
            return Finding.UNKNOWN
        probes = Probes(self._experiments, self._leading, (self.leader, self.follower))
        for _ in range(PROBES):
            try:
                apart = probes.apart(cut, cuts, below)
            except AligndbgError:
                return Finding.UNKNOWN
            if any(apart[b] > max(standing.limit[b], standing.floor(b)) for b in below):
                return Finding.HIDDEN
        return Finding.EQUIVALENT
