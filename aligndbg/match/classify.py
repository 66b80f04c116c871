"""What was not paired, told apart: strictly inside a region, a helper on one side only, or unmatched."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Set

from aligndbg.core.moves import PASSIVE_OPS
from aligndbg.core.types import Coverage, Skipped, Unmatched, UnmatchedClass
from aligndbg.match.layouts import best_layouts
from aligndbg.match.leftovers import outputs_of
from aligndbg.match.side import Side
from aligndbg.match.state import State
from aligndbg.match.thresholds import PADDED, SAME_PRINT, SAME_PRINT_HALF, STRICT
from aligndbg.measure.fingerprint import Fingerprint, fingerprint

__all__ = ["classify", "coverage", "unseen"]


LOOPS = frozenset({"Loop", "Scan"})
NODES_SAID = 3  # in a note
LIKE = 32  # tensors of a rms on either side that are looked at for the nearest


def classify(
    state: State, side: Side, equals: Mapping[str, list[str]], held: Set[str] = frozenset()
) -> tuple[Unmatched, ...]:
    """Every comparable tensor of `side` without a pair, its class and reason; weights that it computes left out.

    `equals` are those of the other side; `held` are outputs that are compared all the same.
    """
    verified: set[str] = set()
    of_size = _of_size(state, state.candidate if side is state.reference else state.reference)
    out = []
    for name in side.names:
        if name in side.fixed or state.link_of(side, name):
            continue
        reason = _one_sided(state, side, name, equals.get(name, []), verified)
        if reason:
            verified.add(name)
        if name in held:
            continue
        if reason:
            out.append(Unmatched(name, side.op(name), UnmatchedClass.ONE_SIDED, reason))
        elif name in side.unread:
            reason = "no output is computed from it: the other side may do without"
            out.append(Unmatched(name, side.op(name), UnmatchedClass.UNOBSERVABLE, reason))
        elif _enclosed(state, side, name, verified):
            reason = "inside a region whose borders are paired; the other side computes it in another way"
            out.append(Unmatched(name, side.op(name), UnmatchedClass.UNOBSERVABLE, reason))
        else:
            out.append(Unmatched(name, side.op(name), UnmatchedClass.UNMATCHED, _why(state, side, name, of_size)))
    return tuple(out)


def _one_sided(state: State, side: Side, name: str, equals: list[str], verified: set[str]) -> str:
    """The reason when `name` is a layout, type or padding helper whose value was checked, else ""."""
    node = side.node(name)
    if node is None:
        return f"equals {equals[0]} of the other side, which is already paired" if equals else ""
    sources = side.data_inputs(node)
    known = [s for s in sources if state.link_of(side, s) or s in verified]
    if node.canonical in PASSIVE_OPS and known and _same_values(side, name, known[0]):
        return f"{node.op_type} of {known[0]}: the same values, in another layout or type"
    if node.canonical == "Pad" and known and _padded(side, name, known[0]):
        return f"{node.op_type} of {known[0]}: its values with zeros around them"
    if equals and node.canonical in PASSIVE_OPS:
        return f"equals {equals[0]} of the other side, which is already paired"
    return ""


def _same_values(side: Side, name: str, source: str) -> bool:
    """Whether a tensor holds its source's values in some order; within one step where one of them is quantized."""
    a, b = side.prints[name], _print_of(side, source)
    steps = [float(q.scale.max()) for q in (side.quant(name), side.quant(source)) if q is not None]
    if a.count != b.count:
        return False
    if steps:
        return max(abs(x - y) for x, y in ((a.mean, b.mean), (a.mean_abs, b.mean_abs), (a.rms, b.rms))) <= max(steps)
    low_precision = str(side.trace.values[name].dtype) in ("float16", "bfloat16")
    if a.distance(b) > (SAME_PRINT_HALF if low_precision else SAME_PRINT):
        return False
    fits = best_layouts(side, name, side, source)
    return not fits or fits[0].error < STRICT or a.constant


def _print_of(side: Side, name: str) -> Fingerprint:
    if name in side.prints:
        return side.prints[name]
    return fingerprint(side.value(name), side.quant(name))


def _padded(side: Side, name: str, source: str) -> bool:
    """Zeros add nothing to a sum, a sum of magnitudes, nor a sum of squares."""
    a, b = side.prints[name], _print_of(side, source)
    if a.count <= b.count:
        return False
    scale = b.count * max(b.mean_abs, 1e-30)
    sums = (
        (a.count * a.mean, b.count * b.mean),
        (a.count * a.mean_abs, b.count * b.mean_abs),
        (a.count * a.rms**2, b.count * b.rms**2),
    )
    return all(abs(x - y) <= PADDED * max(scale, abs(y)) for x, y in sums)


def _enclosed(state: State, side: Side, name: str, verified: set[str]) -> bool:
    border = state.frontier(side, name)
    return bool(border) and "?" not in border and not state.open_below(side, name)


_OfSize = Mapping[int, tuple[int, list[tuple[float, str]]]]


def _of_size(state: State, other: Side) -> _OfSize:
    """By element count, how many tensors the other side has, and those without a pair by their rms."""
    counts: Counter[int] = Counter()
    free: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for name in other.names:
        counts[other.count(name)] += 1
        if not state.link_of(other, name):
            free[other.count(name)].append((other.prints[name].rms, name))
    return {count: (many, sorted(free[count])) for count, many in counts.items()}


def _why(state: State, side: Side, name: str, of_size: _OfSize) -> str:
    other = state.candidate if side is state.reference else state.reference
    fp = side.prints[name]
    if fp.count == 0:
        return "empty: there is no value to pair by"
    if not fp.finite:
        return "no finite value to pair by"
    ours, theirs = outputs_of(state, side), outputs_of(state, other)
    if name in ours and name in theirs and name in other.comparable and other.count(name) != fp.count:
        shapes = [" x ".join(map(str, s.shape(name))) for s in (side, other)]
        return f"an output of this name on both sides, but {shapes[0]} here and {shapes[1]} there"
    same, free = of_size.get(fp.count, (0, []))
    if not same:
        return f"no tensor of {fp.count} elements on the other side"
    if fp.constant:
        return "every element is the same: there is no value to pair by, and its place in the graph did not settle it"
    if not free:
        return f"all {same} tensors of its size on the other side are paired with others"
    at = bisect_left(free, (fp.rms, ""))  # among a thousand alike only those of its own magnitude can be near
    near = min((n for _, n in free[max(0, at - LIKE) : at + LIKE]), key=lambda n: fp.distance(other.prints[n]))
    apart = fp.distance(other.prints[near])
    return f"no value agrees; the nearest free tensor of its size is {near} (statistics {apart:.2g} apart)"


def unseen(state: State, side: Side, held: Set[str]) -> tuple[list[Unmatched], list[Skipped], list[str]]:
    """The floats inside control-flow bodies, which no comparison sees, and what is to be said of them.

    What a loop computes shows in what comes out of it, as that of one operator does: where that is compared, its body
    is skipped. Of an If one branch was not even run: its bodies are unmatched.
    """
    nodes = {node.name: node for node in side.graph.nodes}
    shown = {name for name in side.names if state.link_of(side, name) or name in held}
    used = side.consumers.keys() | set(side.graph.outputs)  # a loop also gives what it only carries along
    unmatched, skipped = [], []
    for name, reason in side.unseen.items():
        node = nodes.get(side.graph.inner[name])
        results = side.comparable.intersection(node.outputs) & used if node is not None else frozenset()
        if node is not None and node.canonical in LOOPS and results and results <= shown:
            skipped.append(Skipped(name, "", reason))
        else:
            unmatched.append(Unmatched(name, "", UnmatchedClass.UNMATCHED, reason))
    count = Counter(side.graph.inner[name] for name in side.unseen)
    said = [f"{nodes[n].op_type if n in nodes else 'a node'} {n!r} ({k})" for n, k in count.most_common(NODES_SAID)]
    more = f" and {len(count) - NODES_SAID} more" if len(count) > NODES_SAID else ""
    note = f"the {side.label}'s tensors inside {', '.join(said)}{more} are not compared: only what comes out of them is"
    return unmatched, skipped, [note] if count else []


def coverage(side: Side, compared: int, unmatched: tuple[Unmatched, ...]) -> Coverage:
    kinds = [u.kind for u in unmatched]
    return Coverage(
        compared=compared,
        unobservable=kinds.count(UnmatchedClass.UNOBSERVABLE),
        one_sided=kinds.count(UnmatchedClass.ONE_SIDED),
        unmatched=kinds.count(UnmatchedClass.UNMATCHED),
    )
