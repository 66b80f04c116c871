"""One fault, ready to be experimented on: both regions as programs, fed the same values, and the error between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array, Fault, Graph, Node, Pair, Quant, RunAgain
from aligndbg.explain.budget import OutOfTimeError, worked
from aligndbg.explain.folding import plain_form
from aligndbg.explain.thresholds import (
    FITS_EXACTLY,
    FLOOR,
    FLOOR_LSB,
    GUESS_LSB,
    LEFT_OF_SMALL,
    LEFT_OF_SMALL_LSB,
    LEFT_SHARE,
    OTHER_FLOOR,
)
from aligndbg.measure.distance import distance

__all__ = ["SIDES", "Case", "Context", "Half", "SideRun", "Trial"]


SIDES = ("reference", "candidate")


@dataclass(frozen=True)
class SideRun:
    """What is known of one side: its graph, what it computed, what it was fed, and how to read its constants.

    `backend` is the one that gave the graph, of a recorded trace too.

    `feeds` are those of the isolated run. `fixed` are constants replaced in it (weights on a quantized grid).
    """

    graph: Graph
    values: Mapping[str, Array]
    feeds: Mapping[str, Array]
    read: Callable[[Sequence[str]], Mapping[str, Array]]
    fixed: Mapping[str, Array] = field(default_factory=dict)
    path: str = ""
    backend: str = ""

    def value(self, name: str) -> Array | None:
        if name in self.values:
            return self.values[name]
        return self.feeds.get(name)

    def quant(self, name: str) -> Quant | None:
        info = self.graph.tensors.get(name)
        return info.quant if info else None

    def real(self, name: str, stored: Array) -> Array:
        quant = self.quant(name)
        return quant.dequantize(stored) if quant is not None and stored.dtype.kind in "iu" else stored


@dataclass(frozen=True)
class Context:
    """Both sides, the pairs that isolation trusted, and what the isolated run computed on the side that it ran again.

    By reference name: the pairs over tolerance, and those that were not overridden and so are no border of a region.
    """

    reference: SideRun
    candidate: SideRun
    pairs: tuple[Pair, ...]
    over_tolerance: frozenset[str]
    run_again: RunAgain
    isolated: Mapping[str, Array]
    not_overridden: frozenset[str] = frozenset()
    proved_pair: Pair | None = None  # that experiments proved the fault between
    as_run: bool = False  # it shows only where each side reads what it computed itself
    deadline: float = float("inf")  # of `budget.worked`

    def check_time(self) -> None:
        if worked() > self.deadline:
            raise OutOfTimeError


@dataclass
class Half:
    """One side of a case. `value` is its output, from inputs that are the same on both sides; real, own layout."""

    side: str
    own: SideRun
    nodes: tuple[Node, ...]
    output: str
    feeds: dict[str, Array]
    value: Array
    program: Program | None
    why_not: str = ""
    written: Program | None = None  # the program, even where it does not give what the runtime gave
    stored: dict[str, Array] = field(default_factory=dict)  # the feeds as the runtime takes them

    @cached_property
    def plain(self) -> Program | None:
        """The program with pads, norms and transposes folded into the operator they belong to."""
        return None if self.program is None else plain_form(self.program, self.feeds)


@dataclass(frozen=True)
class Trial:
    """One tested change: `made` is what `side` would compute with it. A smaller `cost` is a simpler explanation."""

    kind: str
    side: str
    made: Program | Array
    summary: str
    change: str = ""
    cost: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)
    feeds: Mapping[str, Array] | None = None  # in place of the side's own
    guess: bool = False  # one of many that are tried because they are common
    fitted: bool = False  # to the whole result: it always leaves less
    floor: float = 0.0  # what the change may leave, where that is more than the fault's tolerance


class Case:
    """A fault with both halves; `error` measures any two outputs as the fault's own error was measured."""

    def __init__(self, fault: Fault, pair: Pair, reference: Half, candidate: Half, context: Context) -> None:
        self.fault, self.pair, self.context = fault, pair, context
        self.halves = {"reference": reference, "candidate": candidate}
        self.whole: dict[str, list[str]] = {}  # by side, the tensors of the written-out activation that it is, or is in
        outputs = (context.reference, pair.reference), (context.candidate, pair.candidate)
        tensors = [run.graph.tensors[name] for run, name in outputs if name in run.graph.tensors]
        quants = [(t.dtype, t.quant) for t in reversed(tensors) if t.quant is not None]
        self.quant_dtype = quants[0][0] if quants else "int8"
        self.quant: Quant | None = None  # of the output, where its error is counted in quantization steps
        if fault.isolated_unit == "lsb":
            self.quant = next((q for _, q in quants if q.scale.size == 1), None)
        floors = [FLOOR.get(t.dtype, OTHER_FLOOR) for t in tensors]
        self.floor = FLOOR_LSB if self.quant is not None else max(floors, default=OTHER_FLOOR)
        self.before = self.error(reference.value, candidate.value)

    @property
    def unit(self) -> str:
        return "lsb" if self.quant is not None else "rel_l2"

    def half(self, side: str) -> Half:
        return self.halves[side]

    def other(self, side: str) -> Half:
        return self.halves["candidate" if side == "reference" else "reference"]

    def aligned(self, side: str, value: Array) -> Array:
        """A side's output in the reference's layout, float64."""
        moved = self.pair.layout.to_reference(value) if side == "candidate" else value
        return moved.astype(np.float64)

    def flat(self, side: str) -> bool:
        """Whether a side's result holds one value only: anything that wipes out the signal would give it."""
        value = self.half(side).value
        return bool(value.size > 1 and np.ptp(value.astype(np.float64)) == 0)

    def error(self, reference: Array, candidate: Array) -> float:
        """Relative L2 of the difference, or its largest value in quantization steps. Own layouts, real values."""
        r, c = self.aligned("reference", reference), self.aligned("candidate", candidate)
        if self.quant is not None:
            limits = np.iinfo(self.quant_dtype)
            scale, zero = float(self.quant.scale.reshape(-1)[0]), int(self.quant.zero_point.reshape(-1)[0])
            steps = [np.clip(np.round(v / scale), limits.min - zero, limits.max - zero) for v in (r, c)]
            return float(np.max(np.abs(steps[0] - steps[1]), initial=0.0))
        return distance(r, c)

    def after(self, trial: Trial) -> float:
        """The error with the trial's change made. Raises CannotEvaluateError, OutOfTimeError."""
        self.context.check_time()
        feeds = self.half(trial.side).feeds if trial.feeds is None else trial.feeds
        made = trial.made.run(feeds)[0] if isinstance(trial.made, Program) else trial.made
        own, other = self.half(trial.side), self.other(trial.side)
        made = own.own.real(own.output, made)
        if made.shape != own.value.shape:
            raise CannotEvaluateError(f"it gives shape {made.shape}")
        return self.error(made, other.value) if trial.side == "reference" else self.error(other.value, made)

    def explains(self, trial: Trial, after: float) -> bool:
        """True where so little is left that the change is the explanation, not merely an improvement.

        A guess (a change that neither side is known to have) of many proves nothing where a step or two are at stake.
        """
        if self.quant is not None and trial.guess and self.before < GUESS_LSB:
            return False
        if not self.before > 0 or after != after:
            return False
        share = (FITS_EXACTLY if trial.fitted else LEFT_SHARE) * self.before
        left = (LEFT_OF_SMALL_LSB if self.quant is not None else LEFT_OF_SMALL) * self.before
        return after <= max(self.floor, trial.floor, share if np.isfinite(share) else 0.0) and after <= left

    def programs(self, plain: bool = True) -> Iterable[tuple[str, Program]]:
        """(side, program) of the sides that have one; the reference first."""
        for side in SIDES:
            program = self.half(side).plain if plain else self.half(side).program
            if program is not None:
                yield side, program
