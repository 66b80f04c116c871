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
from aligndbg.core.regions import region
from aligndbg.core.types import FLOAT_DTYPES, Array, Cause, Fault, Graph, Node, Pair, Quant
from aligndbg.explain.folding import plain_form
from aligndbg.explain.to_program import canonical_program

__all__ = ["Case", "Context", "Half", "OutOfTimeError", "Side", "Trial", "make_case"]


SIDES = ("reference", "candidate")
# How near a program must come to the value that the runtime gave, to stand for it: kernels differ by rounding.
SAME_REL, SAME_LSB = 2e-4, 1.5
EXPLAINED_SHARE = 0.05  # of the error that a correction may leave, where it is still over the floor
FLOOR = {"float32": 2e-5, "float64": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
FLOOR_LSB = 1.5
GUESS_LSB = 4.0
STILL, STILL_LSB = 0.2, 0.6  # of a small error, whose twentieth is below the floor


class OutOfTimeError(Exception):
    """The time for explaining is spent."""


@dataclass(frozen=True)
class Side:
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
    """Both sides, the pairs that isolation trusted, and what the isolated run computed on the side it re-ran.

    `forward`: the candidate was re-run on the reference's values; else the mirror. `over` names the pairs over
    tolerance, `open` those that were not overridden and so are no border of a region, by reference name.
    """

    reference: Side
    candidate: Side
    pairs: tuple[Pair, ...]
    over: frozenset[str]
    forward: bool
    isolated: Mapping[str, Array]
    open: frozenset[str] = frozenset()
    deadline: float = float("inf")  # of time.perf_counter

    def check_time(self) -> None:
        if time.perf_counter() > self.deadline:
            raise OutOfTimeError


@dataclass
class Half:
    """One side of a case. `value` is its output, from inputs that are the same on both sides; real, own layout."""

    side: str
    own: Side
    nodes: tuple[Node, ...]
    output: str
    feeds: dict[str, Array]
    value: Array
    program: Program | None
    why_not: str = ""
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
    cost: float = 1.0
    details: Mapping[str, Any] = field(default_factory=dict)
    feeds: Mapping[str, Array] | None = None  # in place of the side's own
    guess: bool = False  # one of many that are tried because they are common
    floor: float = 0.0  # what the change may leave, where that is more than the fault's tolerance


class Case:
    """A fault with both halves; `error` measures any two outputs as the fault's own error was measured."""

    def __init__(self, fault: Fault, pair: Pair, reference: Half, candidate: Half, context: Context) -> None:
        self.fault, self.pair, self.context = fault, pair, context
        self.halves = {"reference": reference, "candidate": candidate}
        quants = context.candidate.quant(pair.candidate), context.reference.quant(pair.reference)
        self.grid = next((q for q in quants if q is not None and q.scale.size == 1), None)
        self.grid_dtype = next(
            (s.graph.tensors[n].dtype for s, n, q in zip(
                (context.candidate, context.reference), (pair.candidate, pair.reference), quants, strict=True
            ) if q is not None), "int8",
        )  # fmt: skip
        if fault.isolated_unit != "lsb":
            self.grid = None
        dtypes = [s.graph.tensors[n].dtype for s, n in (
            (context.reference, pair.reference), (context.candidate, pair.candidate)
        ) if n in s.graph.tensors]  # fmt: skip
        self.floor = FLOOR_LSB if self.grid is not None else max((FLOOR.get(d, 2e-5) for d in dtypes), default=2e-5)
        self.before = self.error(reference.value, candidate.value)
        self.best = float("inf")  # weight of the best explanation so far
        self.found: Cause | None = None
        self.out_of_time = False
        self.tried: dict[str, tuple[float, str]] = {}  # hypothesis -> the best error it reached, and how

    def note(self, name: str, trial: Trial, after: float) -> None:
        if name not in self.tried or after < self.tried[name][0]:
            self.tried[name] = after, trial.summary

    @property
    def unit(self) -> str:
        return "lsb" if self.grid is not None else "rel_l2"

    def half(self, side: str) -> Half:
        return self.halves[side]

    def other(self, side: str) -> Half:
        return self.halves["candidate" if side == "reference" else "reference"]

    def aligned(self, side: str, value: Array) -> Array:
        """A side's output in the reference's layout, float64."""
        moved = self.pair.layout.to_reference(value) if side == "candidate" else value
        return moved.astype(np.float64)

    def error(self, reference: Array, candidate: Array) -> float:
        """Relative L2 of the difference, or its largest value in quantization steps. Own layouts, real values."""
        r, c = self.aligned("reference", reference), self.aligned("candidate", candidate)
        if self.grid is not None:
            limits = np.iinfo(self.grid_dtype)
            scale, zero = float(self.grid.scale.reshape(-1)[0]), int(self.grid.zero_point.reshape(-1)[0])
            steps = [np.clip(np.round(v / scale), limits.min - zero, limits.max - zero) for v in (r, c)]
            return float(np.max(np.abs(steps[0] - steps[1]), initial=0.0))
        finite = np.isfinite(r)
        if not np.array_equal(finite, np.isfinite(c)):
            return float("inf")
        norm = float(np.linalg.norm(r[finite]))
        apart = float(np.linalg.norm(r[finite] - c[finite]))
        return apart / norm if norm else (0.0 if apart == 0 else float("inf"))

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
        if self.grid is not None and trial.guess and self.before < GUESS_LSB:
            return False
        if not self.before > 0 or after != after:
            return False
        share, left = EXPLAINED_SHARE * self.before, (STILL_LSB if self.grid is not None else STILL) * self.before
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
    if own is not None and own.candidate == fault.candidate and own.reference in context.over:
        return own
    below: list[Pair] = []
    for name, graph, names in (
        (fault.reference, context.reference.graph, by_reference),
        (fault.candidate, context.candidate.graph, {p.candidate: p for p in context.pairs}),
    ):
        if name:
            below += _below(graph, name, names)
    return next((p for p in below if p.reference in context.over), own)


def _below(graph: Graph, name: str, paired: Mapping[str, Pair]) -> list[Pair]:
    from aligndbg.core.regions import next_pairs

    return next_pairs(graph.consumers(), paired, name)


def _half(name: str, pair: Pair, context: Context) -> Half | str:
    """One side of a pair's region, with the inputs that both sides share and the output it makes of them."""
    own, other = (context.reference, context.candidate)[:: 1 if name == "reference" else -1]
    source = context.forward == (name == "reference")
    mine = {getattr(p, name): p for p in context.pairs if p.reference not in context.open}
    output = getattr(pair, name)
    found = region(own.graph, output, mine)
    nodes = tuple(own.graph.node(n) for n in found.nodes)
    feeds: dict[str, Array] = {}
    for i in found.inputs:
        value = own.value(i) if source or i not in mine or i in own.graph.inputs else None
        if i in own.graph.inputs:
            value = own.feeds.get(i, value)
        elif value is None:
            value = _translated(mine[i], name, own, other)
        if value is None:
            return f"the {name}'s {i!r} has no value"
        feeds[i] = value
    constants = _constants(own, nodes)
    value = own.value(output) if source else context.isolated.get(output)
    if value is None:
        return f"the {name}'s {output!r} was not computed from the other side's values"
    half = Half(name, own, nodes, output, feeds, own.real(output, value), None, stored=dict(feeds))
    if constants is None:
        half.why_not = f"the {name}'s constants are not known"
        return half
    if not own.graph.opset:
        half.feeds = {i: own.real(i, v) for i, v in feeds.items()}
    try:
        program = canonical_program(
            own.backend, own.graph, nodes, list(feeds), output, {**constants, **own.fixed}, _shapes(own, constants)
        )
        made = own.real(output, program.run(half.feeds)[0])
        near = _near(own, output, made, half.value)
    except CannotEvaluateError as error:
        half.why_not = str(error)
        return half
    if near:
        half.why_not = f"its canonical form gives another value than the {name} itself ({near})"
        return half
    half.program = program
    return half


def _near(own: Side, output: str, made: Array, value: Array) -> str:
    """Why the program cannot stand for the runtime, or ""."""
    if made.shape != value.shape:
        return f"shape {made.shape}"
    a, b = made.astype(np.float64), value.astype(np.float64)
    quant = own.quant(output)
    if quant is not None and quant.scale.size == 1:
        apart = float(np.max(np.abs(a - b), initial=0.0)) / float(quant.scale[0])
        return "" if apart <= SAME_LSB else f"{apart:.2g} steps"
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return "other infinities"
    norm = float(np.linalg.norm(b[finite]))
    apart = float(np.linalg.norm(a[finite] - b[finite]))
    limit = max(SAME_REL, FLOOR.get(str(value.dtype), 0.0))
    return "" if apart <= limit * norm else f"{apart / norm if norm else apart:.2g} relative L2"


def _translated(pair: Pair, name: str, own: Side, other: Side) -> Array | None:
    """What the isolated run put in place of this side's tensor: the other side's value in its layout and dtype."""
    theirs = pair.candidate if name == "reference" else pair.reference
    ours = getattr(pair, name)
    stored = other.value(theirs)
    if stored is None:
        return None
    value = other.real(theirs, stored)
    moved = pair.layout.to_candidate(value) if name == "candidate" else pair.layout.to_reference(value)
    grid, like = own.quant(ours), own.value(ours)
    dtype = like.dtype if like is not None else moved.dtype
    return np.ascontiguousarray(
        grid.quantize(moved, dtype) if grid is not None and dtype.kind in "iu" else moved.astype(dtype, copy=False)
    )


def _constants(own: Side, nodes: Sequence[Node]) -> dict[str, Array] | None:
    """The constants that the nodes read; None where they cannot be read (a recorded trace)."""
    wanted = sorted({i for n in nodes for i in n.inputs if i in own.graph.constants})
    if not wanted:
        return {}
    found = dict(own.read(wanted))
    return found if len(found) == len(wanted) else None


def _shapes(own: Side, stored: Mapping[str, Array]) -> Callable[[str], tuple[int, ...]]:
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


def is_float(array: Array) -> bool:
    return str(array.dtype) in FLOAT_DTYPES
