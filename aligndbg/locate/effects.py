"""What faults do at the outputs: whether correcting all of them is enough, and what each one alone leaves or heals
(DESIGN 5.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from aligndbg.core.regions import upward
from aligndbg.core.types import Array, Backend, Effect, Graph, Pair
from aligndbg.locate.experiments import Cut, Experiments
from aligndbg.measure.distance import distance

__all__ = ["Effects", "output_pairs"]


def output_pairs(pairs: Iterable[Pair], reference: Graph, candidate: Graph) -> list[Pair]:
    """The pairs that hold an output of either model."""
    ours, theirs = set(reference.outputs), set(candidate.outputs)
    return [p for p in pairs if p.reference in ours or p.candidate in theirs]


@dataclass(frozen=True)
class Effects:
    """`outputs` are the pairs of model outputs by the reference's name, `borders` pairs that agree, given the same.

    To put the leader's value at one fault heals all that lies above it too. What a fault does among others is therefore
    told by the leader, which has none. `leading` runs it with overrides (None: it cannot), `as_led` gives a follower's
    stored value as the leader stores it, `as_followed` a leader's real one as the follower does.
    """

    experiments: Experiments
    outputs: Mapping[str, Cut]
    borders: Sequence[Cut]
    leading: Backend | None
    as_led: Callable[[Cut, Array], Array]
    as_followed: Callable[[Cut, Array], Array]

    def corrected(self, faults: Iterable[Cut], values: Mapping[Cut, Array] | None = None) -> dict[str, float]:
        """Each output's error, relative L2, with these faults corrected and nothing else, by the leader's values or by
        `values`, in the follower's form.

        An output that is itself corrected by the leader's holds the other side's value. Raises AligndbgError where the
        side cannot be run so.
        """
        cuts, given = list(faults), values or {}
        told = {(c.leader, c.follower) for c in cuts if not c.edge and c not in given}
        left = {name: cut for name, cut in self.outputs.items() if (cut.leader, cut.follower) not in told}
        got = self.experiments.run(
            [cut.follower for cut in left.values()], cuts, values={cut.key: value for cut, value in given.items()}
        )
        return {
            name: self.experiments.relative(cut, got) if name in left else 0.0 for name, cut in self.outputs.items()
        }

    def of_each(self, faults: Sequence[Cut]) -> list[Effect]:
        """Of each fault what it alone leaves at the outputs, and what is left where only it is corrected. Empty where
        that cannot be told. Raises as `corrected`."""
        return [Effect(self._alone(cut, faults), self._only(cut, faults)) for cut in faults]

    def _alone(self, fault: Cut, faults: Sequence[Cut]) -> dict[str, float]:
        """Of a follower in which the others are corrected; or of the leader, given what the follower makes there."""
        others = [c for c in faults if c is not fault]
        if not _meets(self.experiments.graph, fault.follower, others):
            return self.corrected(others)
        if self.leading is None or fault.edge or fault.border or fault.watched:
            return {}
        cuts = [*self.borders, *others]
        made = self.experiments.run([fault.follower], cuts)[fault.follower]
        leader, names = self.experiments.leader, {name: cut.leader for name, cut in self.outputs.items()}
        given = {fault.leader: self.as_led(fault, made)}
        found = dict(self.leading.run(leader.feeds or {}, list(dict.fromkeys(names.values())), given))
        found |= {name: value for name, value in given.items() if name in found}
        real = self.experiments.real
        return {
            name: distance(real(leader, own, leader.values[own]), real(leader, own, found[own]))
            for name, own in names.items()
        }

    def _only(self, fault: Cut, faults: Sequence[Cut]) -> dict[str, float]:
        """With the leader's value at the fault, if nothing above is wrong; else with what the leader's operators make
        of the follower's values."""
        others = [c for c in faults if c is not fault]
        if not any(_meets(self.experiments.graph, c.follower, [fault]) for c in others):
            return self.corrected([fault])
        if self.leading is None or fault.edge or fault.border or fault.watched:
            return {}
        leader, follower = self.experiments.leader, self.experiments.follower
        at = {c.leader: c for c in (*self.borders, *others) if not (c.edge or c.border or c.watched)}
        at.pop(fault.leader, None)
        met = dict.fromkeys(i for _, i in upward(leader.graph, [fault.leader], lambda name: name not in at))
        given = {name: self.as_led(at[name], follower.values[at[name].follower]) for name in met if name in at}
        made = dict(self.leading.run(leader.feeds or {}, [fault.leader], given))[fault.leader]
        right = self.experiments.real(leader, fault.leader, made)
        return self.corrected([fault], {fault: self.as_followed(fault, right)})


def _meets(graph: Graph, name: str, cuts: Iterable[Cut]) -> bool:
    """Whether any of the cuts is computed from a tensor."""
    wanted, consumers = {c.follower for c in cuts}, graph.consumers()
    stack, seen = [name], {name}
    while stack:
        for node in consumers.get(stack.pop(), ()):
            fresh = {o for o in node.outputs if o} - seen
            if fresh & wanted:
                return True
            seen |= fresh
            stack += fresh
    return False
