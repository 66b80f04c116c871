"""How far the two values of a cut are apart, and how far they may be, in the unit in which that pair is judged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from aligndbg.core.types import Array, Pair, RunAgain, Trace
from aligndbg.locate.thresholds import CLOSER, FELT, FELT_STEPS, SUSPECT, agreement
from aligndbg.match.thresholds import COARSE
from aligndbg.measure.judge import Judge
from aligndbg.measure.reading import Grids
from aligndbg.measure.results import Metrics
from aligndbg.measure.rounding import Rounding, Roundings
from aligndbg.measure.thresholds import OWN_REL_L2
from aligndbg.measure.tolerance import Tolerance

__all__ = ["Gauge"]


class Gauge:
    """Relative L2 between floats; on a grid the largest difference in its steps, once both values are on it.

    `borders` says which pairs are overridden: what a region rounds between them widens its limit.
    """

    def __init__(self, judge: Judge, run_again: RunAgain) -> None:
        self._judge, self._run_again = judge, run_again
        self.coarse = judge.coarse
        self._grids = Grids(judge.candidate if run_again is RunAgain.CANDIDATE else judge.reference)
        self._roundings: Roundings | None = None
        self._limits: dict[tuple[Pair, bool], Tolerance] = {}

    @property
    def judge(self) -> Judge:
        return self._judge

    def borders(self, judge: Judge, pairs: Iterable[Pair], fed: Iterable[str]) -> None:
        """From now on these pairs are overridden, `fed` for some readers; `judge` knows what is rounded between."""
        self._judge, self._limits = judge, {}
        if self.coarse:
            self._roundings = Roundings(judge.reference.graph, judge.candidate.graph, pairs, fed)

    def error(self, pair: Pair, got: Mapping[str, Array], follower: Trace) -> float:
        """Of the follower's values `got`."""
        return self.told(pair, self._judge.isolated(pair, replace(follower, values=got), self._run_again))

    def told(self, pair: Pair, metrics: Metrics) -> float:
        """What its own metrics say; inf where a part of it is not finite on one side only."""
        if metrics.nonfinite_mismatch:
            return math.inf
        bare, limits = self._bare(pair), self._tolerance(pair)
        error = metrics.lsb_max if bare.max_lsb is not None else metrics.rel_l2
        if error is None or math.isnan(error):  # relative to nothing
            return math.inf if metrics.max_abs > 0 else 0.0
        if bare.max_lsb is None and metrics.max_abs <= limits.escape_abs:
            return min(error, self.limit(pair))
        if bare.max_lsb is None or limits.max_lsb is not None or limits.min_cosine is None:
            return error
        # So much is rounded inside that only the direction says whether it is over its limit.
        fine, limit = metrics.cosine >= limits.min_cosine, self.limit(pair)
        return min(error, limit) if fine else max(error, 2 * limit)

    def stored(self, name: str) -> str:
        """What is stored on a grid of a follower's float tensor that is dequantized from there; "" where nothing is."""
        return self._grids.stored(name) if self.coarse else ""

    def limit(self, pair: Pair) -> float:
        """What the pair's own error may be."""
        limits, bare = self._tolerance(pair), self._bare(pair)
        if bare.max_lsb is None:
            return OWN_REL_L2 if limits.rel_l2 is None else limits.rel_l2
        found = self._inner(pair)
        return bare.max_lsb + (found.lsb if found else 0.0) if limits.max_lsb is None else limits.max_lsb

    def lookout(self, pair: Pair, closer: bool = False) -> float:
        """The own error from which a region is looked into: on a grid, what may be where nothing is rounded inside."""
        limit, bare = self.limit(pair), self._bare(pair)
        if self.coarse:
            return min(limit, bare.max_lsb or bare.rel_l2 or limit)
        if self._judge.precision(pair) not in ("float32", "float64"):
            return limit
        return limit / CLOSER if closer else min(limit, SUSPECT)

    def right(self, pair: Pair) -> float:
        """The error up to which a region's end has come right, where one of its inner tensors is corrected."""
        return self.limit(pair) if self.coarse else agreement(self._judge.precision(pair))

    def near(self, dtype: str) -> float:
        """The relative L2 up to which what is computed from a corrected tensor has come right."""
        return COARSE if self.coarse else agreement(dtype)

    def felt(self, pair: Pair, got: Mapping[str, Array], follower: Trace) -> float:
        """By how much what is below a fault is off: on a grid the mean of the steps, since one step more somewhere is
        noise there; else the error."""
        metrics = self._judge.isolated(pair, replace(follower, values=got), self._run_again)
        in_steps = self._bare(pair).max_lsb is not None and not metrics.nonfinite_mismatch
        return metrics.lsb_mean or 0.0 if in_steps else self.told(pair, metrics)

    def exact(self, pair: Pair) -> bool:
        """Whether its own error is one of a single rounding to its grid: over its limit, that is no noise."""
        return self._bare(pair).max_lsb is not None and self._inner(pair) is None

    def noise(self, pair: Pair) -> float:
        """What is noise in that; what is FELT times larger is felt."""
        if self.coarse:
            return FELT_STEPS if self._bare(pair).max_lsb is not None else self.limit(pair) / FELT
        return self.limit(pair) / CLOSER

    def _tolerance(self, pair: Pair) -> Tolerance:
        return self._under(pair, bare=False)

    def _bare(self, pair: Pair) -> Tolerance:
        """What would hold where nothing was rounded inside the region."""
        return self._under(pair, bare=self.coarse)

    def _inner(self, pair: Pair) -> Rounding | None:
        return self._roundings.of(pair) if self._roundings is not None else None

    def _under(self, pair: Pair, bare: bool) -> Tolerance:
        if (pair, bare) not in self._limits:
            inner = None if bare else self._inner(pair)
            conditions = replace(self._judge.conditions, inner={pair.reference: inner} if inner else {})
            self._limits[pair, bare] = self._judge.under(conditions).default(pair, isolated=True)
        return self._limits[pair, bare]
