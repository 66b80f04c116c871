"""Both sides computed from other values than this input gives: is a region equal on those, too (DESIGN 5.6)?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aligndbg.core.errors import AligndbgError
from aligndbg.core.types import Array, Backend, Key, Layout
from aligndbg.locate.experiments import Cut, Experiments, jittered
from aligndbg.locate.thresholds import JITTER_TIMES, JITTER_ULPS, LARGEST
from aligndbg.locate.walks import above
from aligndbg.match.side import Side, moved_from
from aligndbg.measure.distance import distance

__all__ = ["Probes", "Shown"]


@dataclass(frozen=True)
class Shown:
    """A region that differs on a probe: how far, and the values of its end on either side."""

    error: float
    leading: Array
    following: Array


class Probes:
    """Runs both sides on other values at every cut: the leader's shuffled, or normal ones of the same rms (`signed`),
    which also have the signs that the leader's lack.

    `leading` runs the leader. `sides` are leader and follower; `links` the inputs that are fed alike, (leader's,
    follower's, layout as a cut's). What is only a cut tensor moved is not drawn anew: elsewhere it may stand for it.
    """

    def __init__(
        self,
        experiments: Experiments,
        leading: Backend,
        sides: tuple[Side, Side],
        links: Sequence[tuple[str, str, Layout]] = (),
        seed: int = 0,
        signed: bool = False,
    ) -> None:
        self._experiments, self._leading, self._sides, self._links = experiments, leading, sides, links
        self._rng, self._signed = np.random.default_rng(seed), signed

    def apart(self, cut: Cut, cuts: Iterable[Cut], below: Sequence[Cut]) -> dict[Cut, float]:
        """How far the sides are apart at `below` on one probe, with every cut but `cut` in place. Raises
        AligndbgError where either cannot be run so."""
        origins = self._origins(c for c in cuts if c is not cut)
        if not all(self._same_borders(b, origins) for b in below):
            raise AligndbgError("the two sides compute it from different tensors")
        told, given = self._shuffled(origins)
        told.pop(cut.leader, None)
        ours = dict(self._leading.run(self._feeds(self._experiments.leader.feeds), [b.leader for b in below], told))
        theirs = self._experiments.run(
            [b.follower for b in below], [c for c in cuts if c is not cut and c.key in given], values=given
        )
        return {b: self._experiments.between(b.layout, ours[b.leader], theirs[b.follower]) for b in below}

    def shown(self, cuts: Sequence[Cut]) -> tuple[dict[Cut, Shown], int]:
        """The regions that one probe of all of them at once shows to differ, by more than noise; and how many were
        probed: those that both sides compute from the same tensors. Raises as `apart`."""
        known = self._experiments.leader.values
        usable = [c for c in cuts if not (c.edge or c.border or c.watched) and c.leader in known]
        drawn = self._origins(usable)
        ends = [c for c in usable if self._same_borders(c, drawn)]
        told, given = self._shuffled(drawn)
        fed, feeds = self._shuffled_feeds()
        followers = [c.follower for c in ends]
        ours = dict(self._leading.run(fed, list(dict.fromkeys(c.leader for c in ends)), told))
        theirs = self._experiments.run(followers, drawn, feeds=feeds, values=given)
        found = {c: self._experiments.between(c.layout, ours[c.leader], theirs[c.follower]) for c in ends}
        over = [c for c in ends if not found[c] <= self._experiments.limit(c)]
        if not over:
            return {}, len(ends)
        shaken = {key: jittered(value, JITTER_ULPS, self._rng) for key, value in given.items()}
        moved = self._experiments.run([c.follower for c in over], drawn, feeds=feeds, values=shaken)
        noise = {c: distance(theirs[c.follower], moved[c.follower]) for c in over}
        shown = [c for c in over if not found[c] <= JITTER_TIMES * noise[c]]
        return {c: Shown(found[c], ours[c.leader], theirs[c.follower]) for c in shown}, len(ends)

    def _same_borders(self, cut: Cut, cuts: Iterable[Cut]) -> bool:
        partners = {c.follower: c.leader for c in cuts}
        leader, follower = self._sides
        ours = set(above(leader, cut.leader, set(partners.values()) - {cut.leader})[1])
        theirs = above(follower, cut.follower, partners.keys() - {cut.follower})[1]
        return ours == {partners[name] for name in theirs}

    def _origins(self, cuts: Iterable[Cut]) -> list[Cut]:
        """Without those of which either tensor is another cut's, or an input, moved."""
        known = list(cuts)
        held = [{c.leader for c in known}, {c.follower for c in known}]
        for names, side in zip(held, self._sides, strict=True):
            names.update(side.inputs)
        return [
            c
            for c in known
            if not any(
                moved_from(side, name, names.__contains__)
                for side, name, names in zip(self._sides, (c.leader, c.follower), held, strict=True)
            )
        ]

    def _shuffled(self, cuts: Iterable[Cut]) -> tuple[dict[str, Array], dict[Key, Array]]:
        """The leader's values in random order, and what the follower gets of them."""
        told: dict[str, Array] = {}
        given: dict[Key, Array] = {}
        for c in cuts:
            if c.watched or c.leader not in self._experiments.leader.values:
                continue
            if c.leader not in told:
                told[c.leader] = self._drawn(self._experiments.leader.values[c.leader])
            like = self._experiments.override(c)
            given[c.key] = np.asarray(self._experiments.moved(c.layout, told[c.leader]), like.dtype, order="C")
        read = self._experiments.leader.graph.consumers()
        return {name: value for name, value in told.items() if name in read}, given

    def _shuffled_feeds(self) -> tuple[dict[str, Array], dict[str, Array]]:
        ours, theirs = self._feeds(self._experiments.leader.feeds), self._feeds(self._experiments.feeds)
        for a, b, layout in self._links:
            if a in ours and b in theirs:
                ours[a] = self._drawn(ours[a])
                theirs[b] = np.asarray(self._experiments.moved(layout, ours[a]), theirs[b].dtype, order="C")
        return ours, theirs

    def _drawn(self, value: Array) -> Array:
        if self._signed and value.dtype.kind == "f" and np.isfinite(value).all():
            rms = float(np.sqrt(np.mean(np.square(value, dtype=np.float64)))) if value.size else 0.0
            if 0 < rms < LARGEST:
                return np.asarray(rms * self._rng.standard_normal(value.shape), value.dtype)
        return np.asarray(self._rng.permutation(value.reshape(-1)).reshape(value.shape))

    @staticmethod
    def _feeds(feeds: Mapping[str, Array] | None) -> dict[str, Array]:
        if feeds is None:
            raise AligndbgError("nothing to run it on was recorded")
        return dict(feeds)
