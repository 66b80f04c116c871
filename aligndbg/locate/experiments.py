"""One side run again in part, with some of its tensors replaced by the other's: the experiment that decides.

The side that is run again is the *follower*; the *leader* is the one whose recorded values it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aligndbg.core.errors import AligndbgError, UnsupportedError
from aligndbg.core.types import Array, Backend, Key, Layout, LayoutKind, Pair, Trace
from aligndbg.locate.gauge import Gauge
from aligndbg.measure.distance import distance

__all__ = ["Cut", "Experiments", "jittered"]


@dataclass(frozen=True)
class Cut:
    """A leader's tensor and the follower's that is overridden with it; for all readers, or for one node (`edge`).

    `proposed`: an experiment found it, not a value. `border`: which of the two ("leader", "follower") is paired with
    another tensor, since its side lacks an operator. An ambiguous layout is measured, never overridden.
    """

    leader: str
    follower: str
    layout: Layout
    edge: str = ""
    proposed: bool = False
    border: str = ""

    @property
    def key(self) -> Key:
        return (self.follower, self.edge) if self.edge else self.follower

    @property
    def place(self) -> tuple[str, Key]:
        """What tells it from other cuts of one search."""
        return self.leader, self.key

    @property
    def watched(self) -> bool:
        return self.layout.kind is LayoutKind.AMBIGUOUS

    def pair(self, candidate_again: bool) -> Pair:
        """The pair, reference first. `candidate_again`: the candidate is the follower."""
        r, c = (self.leader, self.follower) if candidate_again else (self.follower, self.leader)
        return Pair(r, c, self.layout, "experiment", 0.9)


class Experiments:
    """Runs what `fetch` needs of the follower, given the cuts; counts the runs.

    `override(cut)` gives the leader's value as the follower stores it. An override that the runtime refuses is left out
    from then on: `refused` says why, by tensor. `weights` are constants of the follower that are replaced in every run;
    `reads` what single readers of a cut tensor get instead of its value, by (tensor, node).
    """

    def __init__(
        self,
        backend: Backend,
        feeds: Mapping[str, Array],
        leader: Trace,
        follower: Trace,
        candidate_again: bool,
        override: Callable[[Cut], Array],
        gauge: Gauge,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._backend, self.feeds, self._tick = backend, feeds, tick
        self.leader, self.follower, self.candidate_again, self.override = leader, follower, candidate_again, override
        self.graph, self.gauge = follower.graph, gauge
        self.weights: Mapping[str, Array] = {}
        self.reads: Mapping[tuple[str, str], Cut] = {}
        self.refused: dict[str, str] = {}
        self.count = 0

    def run(
        self,
        fetch: Iterable[str],
        cuts: Iterable[Cut],
        *,
        feeds: Mapping[str, Array] | None = None,
        values: Mapping[Key, Array] | None = None,
    ) -> dict[str, Array]:
        """The follower's own values of `fetch`. `values` replace the leader's at those cuts (probes, jitter).

        Raises AligndbgError where the runtime cannot run the part at all.
        """
        wanted = list(dict.fromkeys(n for name in fetch for n in (name, self.gauge.stored(name)) if n))
        while wanted:
            self._tick()
            used, overrides = self._used(
                wanted, {c.key: c for c in cuts if not c.watched and c.follower not in self.refused}
            )
            for key, cut in used.items():
                overrides[key] = values[key] if values is not None and key in values else self.override(cut)
            self.count += 1
            try:
                return dict(self._backend.run(self.feeds if feeds is None else feeds, wanted, overrides))
            except UnsupportedError as error:
                if error.context not in {c.follower for c in used.values()}:
                    raise
                self.refused[error.context] = error.fact
        return {}

    def tried(self, fetch: Iterable[str], cuts: Iterable[Cut]) -> dict[str, Array]:
        """As `run`; nothing where it cannot be run."""
        try:
            return self.run(fetch, cuts)
        except AligndbgError:
            return {}

    def error(self, cut: Cut, got: Mapping[str, Array]) -> float:
        """How far the follower's value is from the leader's, relative L2; under the best of an ambiguous layout's."""
        if cut.follower not in got:
            return float("inf")
        return min(self._apart(cut, got, layout) for layout in _orders(cut))

    def relative(self, cut: Cut, got: Mapping[str, Array]) -> float:
        """The same in relative L2 of the real values, whatever the pair is judged in."""
        told, value = self.leading(cut.leader), self.real(self.follower, cut.follower, got[cut.follower])
        return min(self.between(layout, told, value) for layout in _orders(cut))

    def felt(self, cut: Cut, got: Mapping[str, Array]) -> float:
        """By how much it is off below a fault, see the gauge."""
        if self.gauge.coarse and not cut.watched and cut.follower in got and cut.leader in self.leader.values:
            return self.gauge.felt(cut.pair(self.candidate_again), got, self.follower)
        return self.error(cut, got)

    def limit(self, cut: Cut) -> float:
        """The own error that it may have."""
        return self.gauge.limit(cut.pair(self.candidate_again))

    def _apart(self, cut: Cut, got: Mapping[str, Array], layout: Layout) -> float:
        if self.gauge.coarse and cut.leader in self.leader.values:
            return self.gauge.error(replace(cut, layout=layout).pair(self.candidate_again), got, self.follower)
        return self.between(layout, self.leading(cut.leader), self.real(self.follower, cut.follower, got[cut.follower]))

    def between(self, layout: Layout, told: Array, value: Array) -> float:
        """How far a leader's and a follower's value are apart under a layout, relative L2."""
        if self.candidate_again:
            return distance(told, layout.to_reference(value))
        return distance(layout.to_reference(told), value)

    def moved(self, layout: Layout, told: Array) -> Array:
        """A leader's value in the follower's shape."""
        return layout.to_candidate(told) if self.candidate_again else layout.to_reference(told)

    def leading(self, name: str) -> Array:
        """The leader's recorded value, dequantized."""
        values, feeds = self.leader.values, self.leader.feeds or {}
        return self.real(self.leader, name, feeds[name] if name in feeds else values[name])

    @staticmethod
    def real(trace: Trace, name: str, value: Array) -> Array:
        quant = trace.quant(name)
        return quant.dequantize(value) if quant is not None and value.dtype.kind in "iu" else value

    def _used(self, wanted: Sequence[str], cuts: Mapping[Key, Cut]) -> tuple[dict[Key, Cut], dict[Key, Array]]:
        """The cuts and the replaced weights that are met on the way up from `wanted`: no other is read."""
        producers, used, weights = self.graph.producers(), dict[Key, Cut](), dict[Key, Array]()
        stack, seen = list(wanted), set(wanted)
        while stack:
            node = producers.get(stack.pop())
            for i in node.inputs if node else ():
                met = next((k for k in ((i, node.name), i) if k in cuts), None) if node else None
                if node and met == i and (i, node.name) in self.reads:
                    used[i, node.name] = self.reads[i, node.name]
                elif met is not None:
                    used[met] = cuts[met]
                elif i in self.weights:
                    weights[i] = self.weights[i]
                elif i and i not in seen:
                    seen.add(i)
                    stack.append(i)
        return used, weights


def _orders(cut: Cut) -> list[Layout]:
    return [replace(cut.layout, permutation=p) for p in (cut.layout.permutation, *cut.layout.alternatives)]


def jittered(value: Array, ulps: int, rng: np.random.Generator) -> Array:
    """Every element of a float array moved by `ulps` of its dtype, up or down at random; other dtypes as they are."""
    digits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 24}.get(str(value.dtype))
    if digits is None:
        return value
    with np.errstate(all="ignore"):
        moved = value * (1 + ulps * 2.0 ** (1 - digits) * rng.choice([-1.0, 1.0], value.shape))
        return np.asarray(moved, value.dtype)
