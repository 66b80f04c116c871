"""The next place where the sides part: the pair after whose override most of what follows comes right.

A right pair heals much, a wrong one nothing (DESIGN 5.3). Then back into its region: an earlier pair that makes it
come right takes its place, until none does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aligndbg.core.moves import PASSIVE_OPS
from aligndbg.core.types import Array, Key, Node
from aligndbg.locate.experiments import Cut, Experiments
from aligndbg.locate.proposals import Proposals
from aligndbg.locate.thresholds import DEPTHS, EARLIER, MOST_EARLIER, WINDOW
from aligndbg.locate.walks import above, computed_from, reach
from aligndbg.match.side import moved_from

__all__ = ["Part", "Search"]

Sketch = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Part:
    """What is looked into: the unpaired tensors of both sides by depth, and the paired ones that they start from."""

    leading: Mapping[str, int]
    following: Mapping[str, int]
    leading_border: Sequence[str]
    following_border: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.leading or self.following)


class Search:
    """One look into one part. `fixed` are the cuts that stand; `paired` says where the part ends below."""

    def __init__(
        self,
        experiments: Experiments,
        proposals: Proposals,
        fixed: Sequence[Cut],
        blocked: Collection[tuple[str, Key]],
        end: Cut | None = None,
    ) -> None:
        self._experiments, self._proposals, self._blocked, self._end = experiments, proposals, blocked, end
        self.leader, self.follower = proposals.leader, proposals.follower
        self._fixed = [c for c in fixed if end is None or c.key != end.key]
        self._stop = {c.follower for c in self._fixed if not c.edge}
        self._end_error = float("inf")

    def best(self, part: Part) -> Cut | None:
        """The pair that heals most, moved up to the earliest that heals it; None where none heals anything."""
        sketches = self._sketches(part.leading)
        if self._end is not None:
            got = self._experiments.tried([self._end.follower], self._fixed)
            self._end_error = self._experiments.error(self._end, got)
        tried: set[tuple[str, str]] = set()
        waiting: list[tuple[float, Cut]] = []
        for depth, budget in DEPTHS:
            leading = {n: d for n, d in part.leading.items() if d <= depth}
            following = {n: d for n, d in part.following.items() if d <= depth}
            borders = (part.leading_border, part.following_border)
            waiting += self._proposals.among(leading, following, borders, 3 * budget, tried, part.following)
            waiting.sort(key=lambda w: -w[0])
            healing: list[tuple[int, bool, float, Cut]] = []
            for prior, cut in waiting[:budget]:
                if cut.place not in self._blocked:
                    healed, wrong = self._healed(cut, part, sketches)
                    if healed and (wrong or self._end is None):
                        healing.append((healed, wrong, prior, cut))
            del waiting[:budget]
            if healing:
                return self.earliest(max(healing, key=lambda h: h[:3])[3])
            if len(leading) == len(part.leading) and len(following) == len(part.following):
                break
        return None

    def earliest(self, cut: Cut, limit: float | None = None) -> Cut:
        """The first pair of its region that makes `cut` come right, to `limit`; itself where there is none."""
        near = self._experiments.gauge.right(cut.pair(self._experiments.candidate_again)) if limit is None else limit
        tried: set[tuple[str, str]] = set()
        for _ in range(EARLIER):
            found = self._earlier(cut, near, tried)
            if found is None:
                break
            cut = found
        return cut

    def _earlier(self, cut: Cut, near: float, tried: set[tuple[str, str]]) -> Cut | None:
        if cut.edge:
            return None
        inner_l, border_l = above(self.leader, cut.leader, {c.leader for c in self._fixed} - {cut.leader})
        inner_f, border_f = above(self.follower, cut.follower, self._stop - {cut.follower})
        leading, following = dict.fromkeys([*inner_l, cut.leader], 1), dict.fromkeys([*inner_f, cut.follower], 1)
        found = self._proposals.among(leading, following, (border_l, border_f), MOST_EARLIER, tried)
        for _, other in found:
            if other.key == cut.key or other.leader == cut.leader or other.place in self._blocked:
                continue
            got = self._experiments.tried([cut.follower, other.follower], [*self._without(other, cut), other])
            limit = self._experiments.limit(other)
            if self._experiments.error(cut, got) < near and self._experiments.error(other, got) > limit:
                return other
        return None

    def _healed(self, cut: Cut, part: Part, sketches: Mapping[int, list[tuple[str, Sketch]]]) -> tuple[int, bool]:
        """How many of the leader's unpaired tensors the follower computes, with this cut, from what it is overridden
        with; and whether the pair is itself over its limit.

        Copies moved from the override itself prove nothing; nor does what leaves the end of the part farther off.
        """
        fetch = self._below(cut, part)
        if not fetch:
            return 0, False
        computed = computed_from(self.leader, cut.leader)
        found: list[str] = []
        end = [] if self._end is None else [self._end.follower]
        got = self._experiments.tried([*fetch, cut.follower, *end], [*self._without(cut), cut])
        if self._end is not None and self._experiments.error(self._end, got) > self._end_error:
            return 0, False
        for name in fetch if got else ():
            value = got[name]
            if value.size not in sketches:
                continue
            real = self._experiments.real(self._experiments.follower, name, value)
            sketch = _sketch(real)
            if sketch is None or moved_from(self.follower, name, lambda n: n == cut.follower):
                continue
            near = self._experiments.gauge.near(str(value.dtype))
            for told, theirs in sketches.get(value.size, ()):
                if told not in computed or told in found or np.abs(sketch - theirs).max() > 5 * near:
                    continue
                if self._moved(told, cut) or not self._proposals.holds(
                    told, real, name, self._experiments.leading(told), near
                ):
                    continue
                found.append(told)
                break
        return len(found), bool(found) and self._experiments.error(cut, got) > self._experiments.limit(cut)

    def _below(self, cut: Cut, part: Part) -> list[str]:
        """The nearest unpaired tensors that the follower computes from the cut."""
        stop = self._stop - ({self._end.follower} if self._end else set())
        inner, _ = reach(self.follower, readers(self.follower.consumers, cut), stop, 4 * WINDOW)
        return [
            n
            for n in inner
            if n in part.following and n in self.follower.comparable and n != cut.follower and self._computes(n)
        ][:WINDOW]

    def _computes(self, name: str) -> bool:
        node = self.follower.node(name)
        return node is not None and node.canonical not in PASSIVE_OPS

    def _moved(self, name: str, cut: Cut) -> bool:
        node = self.leader.node(name)
        moves = node is None or node.canonical in PASSIVE_OPS
        return moves or bool(moved_from(self.leader, name, lambda n: n == cut.leader))

    def _without(self, *cuts: Cut) -> list[Cut]:
        keys = {c.key for c in cuts}
        return [c for c in self._fixed if c.key not in keys]

    def _sketches(self, leading: Mapping[str, int]) -> dict[int, list[tuple[str, Sketch]]]:
        found: dict[int, list[tuple[str, Sketch]]] = {}
        for name in leading:
            sketch = _sketch(self._experiments.leading(name)) if name in self.leader.comparable else None
            if sketch is not None:
                found.setdefault(self.leader.count(name), []).append((name, sketch))
        return found


def readers(consumers: Mapping[str, Sequence[Node]], cut: Cut) -> list[Node]:
    """The nodes that read what the cut replaces."""
    return [n for n in consumers.get(cut.follower, ()) if not cut.edge or n.name == cut.edge]


def _sketch(value: Array) -> Sketch | None:
    """A few numbers that do not hang on the order of the elements; None where they would tell nothing."""
    flat = np.asarray(value, np.float64).reshape(-1)
    if flat.size < 2 or not np.isfinite(flat).all():
        return None
    with np.errstate(over="ignore"):
        spread, mean = float(flat.std()), float(flat.mean())
    if spread == 0 or not np.isfinite(spread):
        return None
    scale, centred = max(spread, abs(mean)), flat - mean
    centred /= spread
    third = float(np.dot(centred * centred, centred)) / flat.size
    return np.array(
        [
            mean / scale,
            spread / scale,
            np.log(scale),
            np.abs(centred).mean(),
            third / (1 + abs(third)),
            centred.max() / 4,
            centred.min() / 4,
        ]
    )
