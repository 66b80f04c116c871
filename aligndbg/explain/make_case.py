"""What one fault is experimented on with: both regions as programs that give what the runtimes gave."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.canonical.program import Program
from aligndbg.core.arrays import in_order
from aligndbg.core.regions import next_pairs, region
from aligndbg.core.types import Array, Fault, Node, Pair
from aligndbg.explain.activations import ACTIVATIONS
from aligndbg.explain.case import SIDES, Case, Context, Half, SideRun
from aligndbg.explain.thresholds import AS_RUNTIME_LSB, AS_RUNTIME_REL, FLOOR
from aligndbg.explain.to_program import canonical_program
from aligndbg.explain.written_out import CURVES, around, written_out
from aligndbg.measure.distance import distance

__all__ = ["make_case"]


def make_case(fault: Fault, context: Context) -> Case | str:
    """The experiment for one fault, or the reason why there is none."""
    pair = _witness(fault, context)
    if pair is None:
        return "no pair of tensors shows it"
    proved = context.proved_pair or pair
    return _of_whole(fault, proved, context) or _of_pair(fault, pair, context)


def _of_whole(fault: Fault, pair: Pair, context: Context) -> Case | None:
    """Where a side's tensor, or a border before it, is a part of a written-out activation: the case of the whole."""
    graphs = {"reference": context.reference.graph, "candidate": context.candidate.graph}
    found = {side: around(graph, getattr(pair, side)) for side, graph in graphs.items()}
    if all(ends and getattr(pair, side) not in dict(ends) for side, ends in found.items()):
        return None  # written out alike, as far as is known
    options = [found[side][::-1] or [(getattr(pair, side), frozenset[str]())] for side in SIDES]
    for (end_r, inside_r), (end_c, inside_c) in itertools.product(*options):
        whole = replace(pair, reference=end_r, candidate=end_c)
        outside = [p for p in context.pairs if p.reference not in inside_r and p.candidate not in inside_c]
        if (end_r, end_c) == (pair.reference, pair.candidate) and len(outside) == len(context.pairs):
            continue
        case = _computed(fault, whole, replace(context, pairs=tuple(outside)), found)
        if case is not None:
            return case
    return None


def _computed(
    fault: Fault, whole: Pair, context: Context, found: Mapping[str, Sequence[tuple[str, frozenset[str]]]]
) -> Case | None:
    """The case of a pair that the runtimes were not asked for; None where its ends are not the activation's."""
    made = [_half(side, whole, context, unknown=bool(found[side])) for side in SIDES]
    halves = [half for half in made if isinstance(half, Half)]
    if len(halves) < 2 or not all(_closed(half, found[half.side]) for half in halves):
        return None
    case = Case(fault, whole, halves[0], halves[1], context)
    for half in halves:
        inside = dict(found[half.side]).get(half.output)
        if inside is not None:
            case.whole[half.side] = [half.output, *sorted(inside)]
    return case if case.before > case.floor else None


def _closed(half: Half, ends: Sequence[tuple[str, frozenset[str]]]) -> bool:
    """Whether the side ends where its activation does: a written-out one at the nearest end, or where it has a name."""
    program = half.program
    if not ends:
        return program is None or any(step.op in ACTIVATIONS or step.op in CURVES for step in program.steps)
    if program is None or half.value.shape != program.shape(half.feeds, half.output):
        return False
    whole = next((w for w in written_out(program) if half.output in program.steps[w.at].outputs), None)
    return whole is not None and (whole.known or half.output == ends[0][0])


def _of_pair(fault: Fault, pair: Pair, context: Context) -> Case | str:
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


def _half(name: str, pair: Pair, context: Context, *, unknown: bool = False) -> Half | str:
    """One side of a pair's region, with the inputs that both sides share and the output it makes of them.

    `unknown`: the runtime was not asked for that output of these inputs; it is the program's.
    """
    own = context.reference if name == "reference" else context.candidate
    borders = {getattr(p, name): p for p in context.pairs if p.reference not in context.not_overridden}
    output = getattr(pair, name)
    found = region(own.graph, output, borders)
    feeds = _inputs(name, found.inputs, borders, context)
    if isinstance(feeds, str):
        return feeds
    given = name == context.run_again and not context.as_run
    value = own.value(output) if not given else context.isolated.get(output)
    if value is None and unknown:
        value = own.value(output)
    if value is None:
        return f"the {name}'s {output!r} was not computed from the other side's values"
    if value.dtype.kind in "OUS":
        return "its values are words"
    nodes = tuple(own.graph.node(n) for n in found.nodes)
    half = Half(name, own, nodes, output, feeds, own.real(output, value), None, stored=dict(feeds))
    constants = _constants(own, nodes)
    if constants is None:
        half.why_not = f"the {name}'s constants are not known"
        return half
    if not own.graph.opset:
        half.feeds = {i: own.real(i, v) for i, v in feeds.items()}
    made = _checked_program(half, constants, unknown)
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
            value = own.value(i) if name != context.run_again or context.as_run or i not in borders else None
            if value is None:
                value = _translated(borders[i], name, own, other)
        if value is None:
            return f"the {name}'s {i!r} has no value"
        feeds[i] = value
    return feeds


def _checked_program(half: Half, constants: Mapping[str, Array], unknown: bool) -> Program | str:
    """The region as a program that gives what the runtime gave, where that is known; or why there is none."""
    own = half.own
    try:
        computed = {name for node in half.nodes for name in node.outputs}  # weights, by the region itself
        known = {name: value for name, value in {**constants, **own.fixed}.items() if name not in computed}
        shapes = _shapes(own, constants)
        program = canonical_program(own.backend, own.graph, half.nodes, list(half.feeds), half.output, known, shapes)
        half.written = program
        made = own.real(half.output, program.run(half.feeds)[0])
        apart = _apart(own, half.output, made, half.value)
    except CannotEvaluateError as error:
        return str(error)
    if unknown:
        half.value = made
        return program
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
