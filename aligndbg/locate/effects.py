"""What faults do at the outputs: whether correcting all of them is enough, and what each one alone leaves or heals
(DESIGN 5.7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aligndbg.core.types import Effect, Graph, Pair
from aligndbg.locate.experiments import Cut, Experiments

__all__ = ["corrected_outputs", "effects", "output_pairs"]


def output_pairs(pairs: Iterable[Pair], reference: Graph, candidate: Graph) -> list[Pair]:
    """The pairs that hold an output of either model."""
    ours, theirs = set(reference.outputs), set(candidate.outputs)
    return [p for p in pairs if p.reference in ours or p.candidate in theirs]


def corrected_outputs(experiments: Experiments, outputs: Mapping[str, Cut], faults: Iterable[Cut]) -> dict[str, float]:
    """Each output's error, relative L2 by the reference's name, with these faults corrected and nothing else.

    `outputs` are the pairs of model outputs. One that is itself corrected holds the other side's value. Raises
    AligndbgError where the side cannot be run so.
    """
    cuts = list(faults)
    told = {(c.leader, c.follower) for c in cuts if not c.edge}
    left = {name: cut for name, cut in outputs.items() if (cut.leader, cut.follower) not in told}
    got = experiments.run([cut.follower for cut in left.values()], cuts)
    return {name: experiments.relative(cut, got) if name in left else 0.0 for name, cut in outputs.items()}


def effects(experiments: Experiments, outputs: Mapping[str, Cut], faults: Sequence[Cut]) -> list[Effect]:
    """Of each fault what is left at the outputs where all others are corrected, and where only it is."""

    def left(cuts: Iterable[Cut]) -> dict[str, float]:
        return corrected_outputs(experiments, outputs, cuts)

    return [Effect(alone=left(c for c in faults if c is not cut), corrected=left([cut])) for cut in faults]
