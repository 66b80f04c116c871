"""One fault, ready to be experimented on: both regions as programs, fed the same values, and the error between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.canonical.program import Program
from aligndbg.core.arrays import in_order
from aligndbg.core.regions import next_pairs, region
from aligndbg.core.types import Array, Fault, Graph, Node, Pair, Quant, RunAgain
from aligndbg.explain.folding import plain_form
from aligndbg.explain.thresholds import (
    AS_RUNTIME_LSB,
    AS_RUNTIME_REL,
    FLOOR,
    FLOOR_LSB,
    GUESS_LSB,
    LEFT_OF_SMALL,
    LEFT_OF_SMALL_LSB,
    LEFT_SHARE,
    OTHER_FLOOR,
)
from aligndbg.explain.to_program import canonical_program
from aligndbg.measure.distance import distance

__all__ = ["SIDES", "Case", "Context", "Half", "OutOfTimeError", "SideRun", "Trial", "make_case"]


SIDES = ("reference", "candidate")


class OutOfTimeError(Exception):
    """The time for explaining is spent."""


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
    deadline: float = float("inf")  # of time.perf_counter

    def check_time(self) -> None:
        if time.perf_counter() > self.deadline:
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
    floor: float = 0.0  # what the change may leave, where that is more than the fault's tolerance


class Case:
    """A fault with both halves; `error` measures any two outputs as the fault's own error was measured."""

    def __init__(self, fault: Fault, pair: Pair, reference: Half, candidate: Half, context: Context) -> None:
        self.fault, self.pair, self.context = fault, pair, context
        self.halves = {"reference": reference, "candidate": candidate}
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
        share = LEFT_SHARE * self.before
        left = (LEFT_OF_SMALL_LSB if self.quant is not None else LEFT_OF_SMALL) * self.before
        return after <= max(self.floor, trial.floor, share if np.isfinite(share) else 0.0) and after <= left

    def programs(self, plain: bool = True) -> Iterable[tuple[str, Program]]:
        """(side, program) of the sides that have one; the reference first."""
        for side in SIDES:
            program = self.half(side).plain if plain else self.half(side).program
            if program is not None:
                yield side, program


def make_case(fault: Fault, context: Context) -> Case | str:
    """The experiment for one fault, or the reason why there is none."""
    pair = _witness(fault, context)
    if pair is None:
        return "no pair of tensors shows it"
    halves = []
    for side in SIDES:
        made = _half(side, pair, context)
        if isinstance(made, str):
            return made
        halves.append(made)
    return Case(fault, pair, halves[0], halves[1], context)


def _witness(fault: Fault, context: Context) -> Pair | None:
    """The pair whose own error the fault is: itself, or the first faulty one computed from an unpaired operator."""
    by_reference = {p.reference: p for p in context.pairs}
    own = by_reference.get(fault.reference or "")
    if own is not None and own.candidate == fault.candidate and own.reference in context.over_tolerance:
        return own
    below: list[Pair] = []
    for name, graph, names in (
        (fault.reference, context.reference.graph, by_reference),
        (fault.candidate, context.candidate.graph, {p.candidate: p for p in context.pairs}),
    ):
        if name:
            below += next_pairs(graph.consumers(), names, name)
    return next((p for p in below if p.reference in context.over_tolerance), own)


def _half(name: str, pair: Pair, context: Context) -> Half | str:
    """One side of a pair's region, with the inputs that both sides share and the output it makes of them."""
    own = context.reference if name == "reference" else context.candidate
    borders = {getattr(p, name): p for p in context.pairs if p.reference not in context.not_overridden}
    output = getattr(pair, name)
    found = region(own.graph, output, borders)
    feeds = _inputs(name, found.inputs, borders, context)
    if isinstance(feeds, str):
        return feeds
    value = own.value(output) if name != context.run_again else context.isolated.get(output)
    if value is None:
        return f"the {name}'s {output!r} was not computed from the other side's values"
    nodes = tuple(own.graph.node(n) for n in found.nodes)
    half = Half(name, own, nodes, output, feeds, own.real(output, value), None, stored=dict(feeds))
    constants = _constants(own, nodes)
    if constants is None:
        half.why_not = f"the {name}'s constants are not known"
        return half
    if not own.graph.opset:
        half.feeds = {i: own.real(i, v) for i, v in feeds.items()}
    made = _checked_program(half, constants)
    if isinstance(made, str):
        half.why_not = made
    else:
        half.program = made
    return half


def _inputs(name: str, wanted: Sequence[str], borders: Mapping[str, Pair], context: Context) -> dict[str, Array] | str:
    """What a side's region was fed when its error was measured, as stored; or what is missing of it."""
    own, other = (context.reference, context.candidate)[:: 1 if name == "reference" else -1]
    feeds: dict[str, Array] = {}
    for i in wanted:
        if i in own.graph.inputs:
            value = own.feeds.get(i, own.value(i))
        else:
            value = own.value(i) if name != context.run_again or i not in borders else None
            if value is None:
                value = _translated(borders[i], name, own, other)
        if value is None:
            return f"the {name}'s {i!r} has no value"
        feeds[i] = value
    return feeds


def _checked_program(half: Half, constants: Mapping[str, Array]) -> Program | str:
    """The region as a program that gives what the runtime gave; or why there is none."""
    own = half.own
    try:
        known, shapes = {**constants, **own.fixed}, _shapes(own, constants)
        program = canonical_program(own.backend, own.graph, half.nodes, list(half.feeds), half.output, known, shapes)
        half.written = program
        made = own.real(half.output, program.run(half.feeds)[0])
        apart = _apart(own, half.output, made, half.value)
    except CannotEvaluateError as error:
        return str(error)
    if apart:
        return f"its canonical form gives another value than the {half.side} itself ({apart})"
    return program


def _apart(own: SideRun, output: str, made: Array, value: Array) -> str:
    """What tells the program's value from the runtime's, or "" where it can stand for it."""
    if made.shape != value.shape:
        return f"shape {made.shape}"
    a, b = made.astype(np.float64), value.astype(np.float64)
    quant = own.quant(output)
    if quant is not None and quant.scale.size == 1:
        apart = float(np.max(np.abs(a - b), initial=0.0)) / float(quant.scale[0])
        return "" if apart <= AS_RUNTIME_LSB else f"{apart:.2g} steps"
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return "other infinities"
    apart = distance(b, a)
    limit = max(AS_RUNTIME_REL, FLOOR.get(str(value.dtype), 0.0))
    return "" if apart <= limit else f"{apart:.2g} relative L2"


def _translated(pair: Pair, name: str, own: SideRun, other: SideRun) -> Array | None:
    """What the isolated run put in place of this side's tensor: the other side's value in its layout and dtype."""
    theirs = pair.candidate if name == "reference" else pair.reference
    ours = getattr(pair, name)
    stored = other.value(theirs)
    if stored is None:
        return None
    value = other.real(theirs, stored)
    moved = pair.layout.to_candidate(value) if name == "candidate" else pair.layout.to_reference(value)
    quant, like = own.quant(ours), own.value(ours)
    dtype = like.dtype if like is not None else moved.dtype
    return in_order(
        quant.quantize(moved, dtype) if quant is not None and dtype.kind in "iu" else moved.astype(dtype, copy=False)
    )


def _constants(own: SideRun, nodes: Sequence[Node]) -> dict[str, Array] | None:
    """The constants that the nodes read; None where they cannot be read (a recorded trace)."""
    wanted = sorted({i for n in nodes for i in n.inputs if i in own.graph.constants})
    if not wanted:
        return {}
    found = dict(own.read(wanted))
    return found if len(found) == len(wanted) else None


def _shapes(own: SideRun, stored: Mapping[str, Array]) -> Callable[[str], tuple[int, ...]]:
    def shape(name: str) -> tuple[int, ...]:
        value = stored.get(name)
        value = own.value(name) if value is None else value
        if value is not None:
            return tuple(value.shape)
        known = own.graph.tensors[name].static_shape if name in own.graph.tensors else None
        if known is None:
            raise CannotEvaluateError(f"the shape of {name!r} is not known")
        return known

    return shape
