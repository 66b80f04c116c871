"""Which tensors could be each other's counterparts where values have diverged. Nothing is decided here: what is
proposed is ordered, and an experiment decides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, product

import numpy as np

from aligndbg.core.layouts import layouts, sample_positions, source_positions, spread_of
from aligndbg.core.ops import ops_agree
from aligndbg.core.types import Array, LayoutKind
from aligndbg.locate.experiments import Cut
from aligndbg.match.state import State
from aligndbg.match.thresholds import NOISE
from aligndbg.match.values import settle_layout
from aligndbg.measure.distance import distance

__all__ = ["Proposals"]

SAMPLED = 3  # times the error of a whole tensor that a sample of it may have


class Proposals:
    """Pairs of two tensors of one size, at least one of them unpaired, the likeliest first.

    `broken` are the unpaired tensors of both sides with their depth, `borders` the paired ones that they start from:
    an operator that one side lacks, or has too many, pairs a border with an unpaired tensor.
    """

    def __init__(self, state: State, candidate_again: bool) -> None:
        self._state, self._candidate_again = state, candidate_again
        sides = (state.reference, state.candidate)
        self.leader, self.follower = sides if candidate_again else sides[::-1]

    def among(
        self,
        leading: Mapping[str, int],
        following: Mapping[str, int],
        borders: tuple[Iterable[str], Iterable[str]],
        most: int,
        tried: set[tuple[str, str]],
        unpaired: Collection[str] | None = None,
    ) -> list[tuple[float, Cut]]:
        """The `most` likeliest pairs that are not in `tried` yet, which they are added to, and their cuts.

        `unpaired` are all of the follower's unpaired tensors where `following` holds only the nearest of them.
        """
        pairs = chain(
            product(leading, following), product(leading, list(borders[1])), product(list(borders[0]), following)
        )
        scored = [
            (self._prior(a, b, leading, following), a, b)
            for a, b in pairs
            if (a, b) not in tried and self.possible(a, b)
        ]
        scored.sort(key=lambda s: -s[0])
        tried.update((a, b) for _, a, b in scored[:most])
        wrong = following if unpaired is None else unpaired
        found = [cut for prior, a, b in scored[:most] for cut in self._cuts(prior, a, b, leading, following, wrong)]
        return sorted(found, key=lambda f: -f[0])

    def possible(self, a: str, b: str) -> bool:
        """Whether the leader's `a` and the follower's `b` could hold the same values."""
        if a not in self.leader.comparable or b not in self.follower.comparable:
            return False
        return self.leader.count(a) == self.follower.count(b) > 1 and self._names(a, b) not in self._state.reject

    def layout_of(self, a: str, b: str) -> Cut | None:
        """The pair under the layout that its values, or else its neighbours, speak for."""
        r, c = self._names(a, b)
        fits = self._state.fits(r, c)
        if not fits:
            return None
        layout = settle_layout(self._state, r, c, fits, max(1.5 * fits[0].error, NOISE)).layout
        return Cut(a, b, fits[0].layout if layout.kind is LayoutKind.AMBIGUOUS else layout, proposed=True)

    def holds(self, a: str, value: Array, b: str, told: Array, near: float) -> bool:
        """Whether `value`, of the follower's tensor `b`, is the leader's `a` (`told`) in some layout.

        On grids `near` is so wide that it is taken of the spread: values that hardly vary are all near to each other.
        """
        hints = (*self.leader.hints(a), *self.follower.hints(b))
        ours, theirs = (told, value) if self._candidate_again else (value, told)
        options = layouts(ours.shape, theirs.shape, hints)
        if not options:
            return False
        sample = ours.reshape(-1)[sample_positions(ours.size)].astype(np.float64)
        if self._state.coarse and (rms := float(np.sqrt(np.mean(np.square(sample))))) > 0:
            near *= min(1.0, spread_of(sample) / rms)
        with np.errstate(all="ignore"):
            # Of a mask's huge values and the rest, measured apart, the farther one is at least as far as both together.
            held = theirs.reshape(-1)[np.stack([source_positions(w) for w in options])]
            apart = np.linalg.norm(held - sample, axis=1)
            possible = ~(apart > SAMPLED * near * np.linalg.norm(sample))
        return any(distance(ours, options[k].to_reference(theirs)) < near for k in np.flatnonzero(possible))

    def _names(self, a: str, b: str) -> tuple[str, str]:
        return (a, b) if self._candidate_again else (b, a)

    def _prior(self, a: str, b: str, leading: Mapping[str, int], following: Mapping[str, int]) -> float:
        """How early it is tried: same operator, paired inputs, equal weights, not deep, unpaired on both sides."""
        r, c = self._names(a, b)
        rn, cn = self._state.reference.node(r), self._state.candidate.node(c)
        prior = -0.1 * max(leading.get(a, 0), following.get(b, 0)) - 0.3 * (a not in leading or b not in following)
        prior += 0.5 * (a == b)
        if rn is None or cn is None:
            return prior
        alike = ops_agree(rn, cn) + self._state.inputs_agree(rn, cn)
        return prior + alike + 0.5 * self._state.weights_agree(rn, cn)

    def _cuts(
        self,
        prior: float,
        a: str,
        b: str,
        leading: Mapping[str, int],
        following: Mapping[str, int],
        unpaired: Collection[str],
    ) -> Iterator[tuple[float, Cut]]:
        cut = self.layout_of(a, b)
        if cut is None or (a not in leading and b not in following):
            return
        fits = self._state.fits(*self._names(a, b))
        prior += 0.5 * max(0.0, 1.0 - fits[0].error)
        if b in following:
            yield prior, cut if a in leading else replace(cut, border="leader")
            return
        cut = replace(cut, border="follower")
        # A border may be read by what is right, too: then one reader at a time. All of them, where it heals as much.
        every = self.follower.consumers.get(b, ())
        wrong = [n for n in every if any(o in unpaired for o in n.outputs)]
        if len(wrong) == len(every):
            yield prior, cut
        if len(every) > 1:
            for node in wrong:
                yield prior, replace(cut, edge=node.name)
