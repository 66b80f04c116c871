"""Locating by experiment (DESIGN 5): propose, override, look at what follows.

Round after round the follower is run once with every pair cut, and everything is paired by value again. Where outputs
do not agree, the place that heals most is corrected; where a region is over its limit, what is felt below decides.
What no round changes any more is the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from aligndbg.core.types import Backend, Key
from aligndbg.locate.experiments import Cut, Experiments
from aligndbg.locate.gauge import Gauge
from aligndbg.locate.proposals import Proposals
from aligndbg.locate.replay import Replay
from aligndbg.locate.search import Part, Search
from aligndbg.locate.suspects import Finding, Standing, Suspects
from aligndbg.locate.thresholds import DILUTED, FELT, JITTER_TIMES, MOST_FAULTS, MOST_ROUNDS, SAME_PLACE
from aligndbg.locate.walks import above, broken, computed_from, sinks
from aligndbg.match.side import Side, moved_from
from aligndbg.match.state import State

__all__ = ["Located", "Locator"]

REAL = (Finding.FELT, Finding.OUTPUT, Finding.HIDDEN)


@dataclass(frozen=True)
class Located:
    """`faults` are cuts; `standing` and `replay` are of the last round, with every cut in place."""

    state: State
    standing: Standing
    replay: Replay
    faults: tuple[Cut, ...]
    accepted: tuple[Cut, ...]
    runs: int
    unexplained: tuple[str, ...] = ()
    unknown: tuple[Cut, ...] = ()  # over their limit, and no experiment could tell whether they matter
    hidden: frozenset[Cut] = frozenset()  # of the faults, those that only other border values show
    dropped: frozenset[tuple[str, str]] = frozenset()


class Locator:
    """`replay(cuts)` runs the follower with them; `pair(replay, reject)` pairs everything by value again; `own(cut,
    replay)` is a cut's own error in that run."""

    def __init__(
        self,
        experiments: Experiments,
        leading: Backend | None,
        state: State,
        replay: Callable[[list[Cut]], Replay],
        pair: Callable[[Replay, frozenset[tuple[str, str]]], State],
        own: Callable[[Cut, Replay], float],
        set_aside: frozenset[tuple[str, str]] = frozenset(),
        corrected: Cut | None = None,
    ) -> None:
        self._experiments, self._leading, self._state = experiments, leading, state
        self._replay, self._pair, self._own = replay, pair, own
        self._candidate_again = experiments.candidate_again
        self._accepted: list[Cut] = []
        self._dropped = set(set_aside)
        self._blocked: set[tuple[str, Key]] = set()
        self._settled: dict[tuple[str, Key], Finding] = {}
        self._small: set[tuple[str, Key]] = set()  # under the usual limit, and still what explains an output
        self._pending: tuple[Cut, set[str]] | None = None
        self._unexplained: list[str] = []
        self._hopeless: set[frozenset[str]] = set()  # parts in which nothing heals
        self._measured: set[frozenset[tuple[str, Key]]] = set()  # by two ways of pairing it would go to and fro
        self._fresh = False  # whether the last round paired something anew
        self._late = False  # and some of that is to be looked into
        self._loose = False
        self._runs = 0
        if corrected is not None:
            self._begin_with(corrected)

    def locate(self) -> Located:
        while True:
            standing, replay = self._measure()
            if self._runs >= MOST_ROUNDS or not (self._mend() or self._settle(standing)):
                break
            replay.close()
        for cut in self._over(standing) if self._runs >= MOST_ROUNDS else ():
            self._settled.setdefault(cut.place, Finding.UNKNOWN)  # there was no round left to judge it in
        faults = self._faults(standing)
        return Located(
            self._state,
            standing,
            replay,
            tuple(faults),
            tuple(self._accepted),
            self._runs,
            unexplained=tuple(self._unexplained),
            unknown=tuple(c for c in standing.cuts if standing.over(c) and self._left_open(c)),
            hidden=frozenset(c for c in faults if self._settled.get(c.place) is Finding.HIDDEN),
            dropped=frozenset(self._dropped),
        )

    def _left_open(self, cut: Cut) -> bool:
        return self._settled.get(cut.place) is Finding.UNKNOWN

    def _begin_with(self, cut: Cut) -> None:
        """What is computed from a corrected tensor was paired before it was: all of that is paired anew."""
        self._accepted.append(cut)
        below = set(computed_from(self._follower, cut.follower))
        for link in list(self._state.links.values()):
            name = link.candidate if self._candidate_again else link.reference
            if name in below and link.method == "value":
                self._state.drop(link)

    def alternatives(self, found: Located) -> list[Cut]:
        """Unpaired tensors of one operator on the same paired inputs, above several faults, that differ: values further
        down may agree by chance (x - y for y - x, twice), and one such fault then looks like several."""
        proposals = self._proposals()
        ours, theirs = self._paired()
        above_all = [set(above(self._leader, cut.leader, ())[0]) for cut in found.faults]
        shared = {n for n in set().union(*above_all) if sum(n in a for a in above_all) > 1} - ours
        free = [n for n in self._follower.names if n not in theirs]
        tried: set[tuple[str, str]] = set()
        return [
            cut
            for prior, cut in proposals.among(dict.fromkeys(shared, 1), dict.fromkeys(free, 1), ((), ()), 8, tried)
            if prior >= SAME_PLACE
        ]

    # ---- one round

    def _measure(self) -> tuple[Standing, Replay]:
        cuts = self._cuts()
        replay = self._replay(cuts)
        self._runs += 1
        error = {c: self._own(c, replay) for c in cuts}
        limit = {c: self._experiments.limit(c) for c in cuts}
        least = {c: self._gauge.noise(c.pair(self._candidate_again)) for c in cuts}
        doubtful = [c for c in cuts if not error[c] <= self._lookout(c)]
        if doubtful or self._gauge.coarse or self._accepted or self._part():  # else nothing has moved
            self._state = self._paired_again(replay)
        known, now = frozenset(c.place for c in cuts), self._cuts()
        self._measured.add(known)
        self._fresh = frozenset(c.place for c in now) not in self._measured
        self._late = not self._gauge.coarse and any(
            not self._own(c, replay) <= self._lookout(c) for c in now if c.place not in known
        )
        standing = Standing(tuple(cuts), error, limit, least, {})
        if not doubtful:
            return standing, replay
        suspects = self._suspects()
        for cut, alike in suspects.given_alike(doubtful, cuts, replay.trace.values).items():
            error[cut] = min(error[cut], alike)
        return replace(standing, jitter=suspects.jitter(doubtful, cuts)), replay

    def _paired_again(self, replay: Replay) -> State:
        """Everything by value; a pair whose two tensors find no other partner stays: it is at the edge of the noise."""
        state, before = self._pair(replay, frozenset(self._dropped)), self._state
        taken = {(a.leader, a.follower)[side] for a in self._accepted for side in (0, 1) if not a.border}
        for link in before.links.values():
            r, c = link.reference, link.candidate
            free = r not in state.links and c not in state.by_candidate and not {r, c} & taken
            if link.method == "value" and free and (r, c) not in self._dropped:
                state.add(link)
        return state

    def _lookout(self, cut: Cut) -> float:
        """The own error from which a region is looked into."""
        return self._gauge.lookout(cut.pair(self._candidate_again), self._loose)

    @property
    def _gauge(self) -> Gauge:
        return self._experiments.gauge

    @property
    def _leader(self) -> Side:
        return self._state.reference if self._candidate_again else self._state.candidate

    @property
    def _follower(self) -> Side:
        return self._state.candidate if self._candidate_again else self._state.reference

    def _suspects(self) -> Suspects:
        return Suspects(self._experiments, self._leader, self._follower, self._leading)

    def _proposals(self) -> Proposals:
        return Proposals(self._state, self._candidate_again)

    def _search(self, cuts: Sequence[Cut], end: Cut | None = None) -> Search:
        return Search(self._experiments, self._proposals(), cuts, self._blocked, end)

    def _cuts(self) -> list[Cut]:
        """What is paired by value, and what was accepted, which wins."""
        taken = {a.follower for a in self._accepted if not a.edge}
        known = {(a.leader, a.follower) for a in self._accepted}
        out = []
        for link in self._state.links.values():
            if link.method not in ("value", "user") or (link.reference, link.candidate) in self._dropped:
                continue
            a, b = (link.reference, link.candidate) if self._candidate_again else (link.candidate, link.reference)
            if b not in taken and (a, b) not in known and b not in self._experiments.refused:
                out.append(Cut(a, b, link.layout))
        return out + self._accepted

    # ---- where outputs do not agree

    def _part(self) -> Part:
        leading, following = self._paired()
        bad_l, border_l = broken(self._leader, leading, sinks(self._leader))
        bad_f, border_f = broken(self._follower, following, sinks(self._follower))
        stray_l, stray_f = self._stray()
        return Part(bad_l, bad_f, [*border_l, *stray_l], [*border_f, *stray_f])

    def _stray(self) -> tuple[list[str], list[str]]:
        """Outputs of either side that are paired with what is no output of the other: a user reads another value."""
        ends_l, ends_f = sinks(self._leader), sinks(self._follower)
        partner_l = self._partners(leading=True)
        partner_f = self._partners(leading=False)
        return (
            [n for n in ends_l if n in partner_l and partner_l[n] not in ends_f],
            [n for n in ends_f if n in partner_f and partner_f[n] not in ends_l],
        )

    def _partners(self, leading: bool) -> dict[str, str]:
        links = [(k.reference, k.candidate) for k in self._state.links.values()]
        ours_first = leading == self._candidate_again
        return dict(links) if ours_first else {c: r for r, c in links}

    def _paired(self) -> tuple[set[str], set[str]]:
        ours, theirs = set(self._state.links), set(self._state.by_candidate)
        if not self._candidate_again:
            ours, theirs = theirs, ours
        return ours | {a.leader for a in self._accepted}, theirs | {a.follower for a in self._accepted}

    def _mend(self) -> bool:
        """Corrects the next place where the sides part; False where there is none."""
        part = self._part()
        self._drop_what_healed_nothing(part)
        if not part or frozenset(part.leading) in self._hopeless or len(self._accepted) >= MOST_FAULTS:
            return False
        cut = self._search(self._cuts()).best(part)
        if cut is not None:
            self._pending = cut, set(part.leading)
        else:
            cut = self._whole(part)
            if cut is None:
                self._hopeless.add(frozenset(part.leading))
                self._unexplained = [n for n in sinks(self._leader) if n in part.leading]
                return False
        self._accepted.append(cut)
        return True

    def _drop_what_healed_nothing(self, part: Part) -> None:
        """The last correction goes where, with it in place, nothing computed from it agrees."""
        if self._pending is None:
            return
        cut, before = self._pending
        self._pending = None
        healed = (before - part.leading.keys()) & set(computed_from(self._leader, cut.leader))
        if not healed:
            self._accepted = [a for a in self._accepted if a is not cut]
            self._blocked.add(cut.place)

    def _whole(self, part: Part) -> Cut | None:
        """Where nothing heals alone, the region that ends at an output holds the rest of what that is computed by."""
        ends = list(self._ends(part))
        got = self._experiments.tried([c.follower for c in ends], self._cuts())
        # Some agree that no value could pair: NaN throughout, or one number.
        right = [c for c in ends if self._experiments.error(c, got) <= self._surely(c)]
        told = {c.leader for c in right}, {c.follower for c in right}
        wrong = (c for c in ends if c.leader not in told[0] and c.follower not in told[1])
        first = next(wrong, None)
        return None if first is None else self._search(self._cuts()).earliest(first)

    def _surely(self, cut: Cut) -> float:
        """The error under which it is right, whatever is rounded above it."""
        return self._lookout(cut) if self._gauge.coarse else self._experiments.limit(cut)

    def _ends(self, part: Part) -> Iterator[Cut]:
        """Pairs of an output of both sides, at least one of the two unpaired."""
        proposals = self._proposals()
        for a in sinks(self._leader):
            for b in sorted(sinks(self._follower), key=lambda b: b != a):
                new_l, new_f = a in part.leading, b in part.following
                both = new_l or a in part.leading_border, new_f or b in part.following_border
                if (new_l or new_f) and all(both) and proposals.possible(a, b):
                    cut = proposals.layout_of(a, b)
                    if cut is not None:
                        yield replace(cut, border="" if new_l and new_f else "follower" if new_l else "leader")

    # ---- regions over their limit

    def _settle(self, standing: Standing) -> bool:
        """Judges the suspects, the earliest first, until one changes the cuts; False where none does."""
        while True:
            first = next((c for c in self._over(standing) if c.place not in self._settled), None)
            if first is None:
                return (self._fresh and (self._gauge.coarse or self._late)) or self._look_closer()
            if self._fresh:
                return True  # what has been paired since is cut first: it is what follows
            if self._judge(first, standing):
                return True

    def _judge(self, first: Cut, standing: Standing) -> bool:
        """Settles what a suspect is; True where that changes the cuts."""
        small = standing.error[first] <= standing.limit[first]
        if self._gauge.coarse and small:  # what is rounded inside may have made it, unless something there heals
            inner = self._split(first, standing)
            if inner is not None:
                self._accepted.append(inner)
                return True
            self._settled[first.place] = Finding.EQUIVALENT
            return False
        if self._gauge.coarse and first.proposed and self._ends_later(first):
            self._drop(first)
            return True
        finding = self._suspects().judge(first, standing)
        if isinstance(finding, Cut):
            self._drop(finding)
            return True
        if finding is Finding.FELT and self._loose and small:
            if self._explains(first):
                self._small.add(first.place)
            else:
                finding = Finding.EQUIVALENT
        self._settled[first.place] = finding
        return finding in (Finding.FELT, Finding.OUTPUT) and self._locate_inside(first, standing)

    def _over(self, standing: Standing) -> list[Cut]:
        ends = set(sinks(self._follower))
        order = self._follower.position
        found = []
        for c in standing.cuts:
            least = max(self._lookout(c), JITTER_TIMES * standing.jitter.get(c, 0.0))
            if not standing.error[c] <= least and (not c.watched or c.follower in ends):
                found.append(c)
        return sorted(found, key=lambda c: order.get(c.follower, 0))

    def _look_closer(self) -> bool:
        """Once more below the usual limits, where something was healed by a pair that is clean itself: what is above
        it did it."""
        clean = [
            a
            for a in self._accepted
            if not a.edge and self._settled.get(a.place, Finding.EQUIVALENT) is Finding.EQUIVALENT
        ]
        if self._loose or not clean:
            return False
        self._loose = True
        return True

    def _explains(self, cut: Cut) -> bool:
        """Whether, with it corrected alone, what was healed by a clean pair comes right."""
        clean = [a for a in self._accepted if not a.edge and a.place not in self._settled]
        known = [a for a in self._accepted if self._settled.get(a.place) in REAL]
        names = [a.follower for a in clean]
        was, now = self._experiments.tried(names, known), self._experiments.tried(names, [*known, cut])
        return any(self._experiments.error(a, now) < self._experiments.error(a, was) / FELT for a in clean)

    def _ends_later(self, cut: Cut) -> bool:
        """Whether values pair the leader's tensor with one that the follower computes from the cut's: put in before a
        ReLU, what comes after it heals as much."""
        partner = self._partners(leading=True).get(cut.leader, cut.follower)
        copy = moved_from(self._follower, partner, lambda n: n == cut.follower)
        return not copy and partner in set(computed_from(self._follower, cut.follower)) - {cut.follower}

    def _drop(self, cut: Cut) -> None:
        """A wrong pair: it is made no more."""
        if cut.proposed:
            self._blocked.add(cut.place)
        self._dropped.add((cut.leader, cut.follower) if self._candidate_again else (cut.follower, cut.leader))
        self._accepted = [a for a in self._accepted if a != cut]

    def _locate_inside(self, first: Cut, standing: Standing) -> bool:
        """The region's end dilutes: several faults may lie in it, or one earlier than its end. True where it is so."""
        if not math.isfinite(standing.error[first]):  # NaN or Inf begin here: what was read is what there is to tell
            self._accept(first)
            return False
        inner = self._split(first, standing)
        if inner is not None:
            del self._settled[first.place]
            self._accepted.append(inner)
            return True
        least = max(
            standing.limit[first], JITTER_TIMES * standing.jitter.get(first, 0.0), standing.error[first] / DILUTED
        )
        fault = self._search(standing.cuts).earliest(first, least)
        if fault.place == first.place:
            self._accept(first)
            return False
        self._settled[fault.place] = self._settled.pop(first.place)
        if first.place in self._small:
            self._small.add(fault.place)
        self._accepted = [a for a in self._accepted if a != first]
        self._accepted.append(fault)
        return True

    def _accept(self, cut: Cut) -> None:
        if cut not in self._accepted:
            self._accepted.append(replace(cut, proposed=True))

    def _split(self, end: Cut, standing: Standing) -> Cut | None:
        """The first pair inside a faulty region after which something in it comes right; None where it is all."""
        if end.edge:
            return None
        others = [c for c in standing.cuts if c != end]
        bad_l, border_l = broken(self._leader, {c.leader for c in others}, [end.leader])
        bad_f, border_f = broken(self._follower, {c.follower for c in others}, [end.follower])
        if len(bad_l) < 2 or len(bad_f) < 2:
            return None
        found = self._search(standing.cuts, end).best(Part(bad_l, bad_f, border_l, border_f))
        known = {a.place for a in self._accepted}
        if found is None or found.leader == end.leader or found.follower == end.follower:
            return None
        return None if found.place in known else found

    # ---- what is left

    def _faults(self, standing: Standing) -> list[Cut]:
        """Real ones over their limit; several outputs of one node are one fault, which the largest stands for."""
        found: list[Cut] = []
        real = [
            c
            for c in self._over(standing)
            if self._settled.get(c.place) in REAL and (standing.over(c) or c.place in self._small)
        ]
        for c in sorted(real, key=lambda c: -standing.error[c]):
            if not any(self._one_node(c, other) for other in found):
                found.append(c)
        order = self._leader.position if self._candidate_again else self._follower.position
        return sorted(found, key=lambda c: order.get(c.leader if self._candidate_again else c.follower, 0))

    def _one_node(self, one: Cut, other: Cut) -> bool:
        """Of an operator too many its border is no result: what computes that may be at fault by itself."""
        borders = {one.border, other.border}
        ours = self._leader.node(one.leader) if "leader" not in borders else None
        theirs = self._follower.node(one.follower) if "follower" not in borders and not one.edge else None
        return (ours is not None and ours is self._leader.node(other.leader)) or (
            theirs is not None and theirs is self._follower.node(other.follower)
        )
