"""Whether a comparison can be trusted: runs that repeat, taps that change nothing, inputs that tell layers apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from aligndbg.core.errors import RuntimeCrashError
from aligndbg.core.qdq import read_through
from aligndbg.core.threads import in_threads
from aligndbg.core.types import Array, Backend, Matching, Pair, Trace
from aligndbg.locate.proved import Probed

__all__ = ["Checks", "Clipped", "check_warnings", "clipped_ranges", "repeat_and_observe"]


class Clipped(TypedDict):
    """A pair whose reference value the candidate's grid cuts off: `share` is |r - clip(r)| / |r|."""

    reference: str
    candidate: str
    share: float
    range: list[float]


class Checks(TypedDict, total=False):
    """What was checked, by side or by tensor names; what was not is left out, what cannot be known is None."""

    deterministic: Mapping[str, bool | None]
    observer_effect: Mapping[str, float | None]
    untapped_failed: Mapping[str, str]
    isolation_runs: int | None
    experiments: int
    left_open: Mapping[str, str]
    probed: Probed
    constant_feeds: list[str]
    constant_tensors: list[str]
    no_negatives: list[str]
    no_repeats: list[str]
    ambiguous_layouts: list[str]
    clipped: list[Clipped]


CLIPPED = 0.1  # relative L2 of what a range cuts off; clean conversions were measured up to 0.07


def repeat_and_observe(
    sides: Iterable[tuple[str, Backend, Mapping[str, Array] | None, Trace]], after: Callable[[Backend], None]
) -> Checks:
    """Whether each side repeats itself, and whether tapping changed its outputs (the largest difference).

    An untapped run that gives the tapped one's outputs, bit for bit, is a repetition; else it is run once more.
    `after` is called with each side that was run. A side whose runtime dies of it is in `untapped_failed`: it may need
    more memory than there is, which a run in segments does not.
    """
    repeats: dict[str, bool | None] = {}
    effect: dict[str, float | None] = {}
    failed: dict[str, str] = {}
    for side, backend, feeds, trace in sides:
        outputs = [o for o in trace.graph.outputs if o in trace.values]
        if "run" not in backend.capabilities or not outputs:
            repeats[side], effect[side] = None, _recorded_effect(trace)
            continue
        try:
            repeats[side], effect[side] = _repeated(backend, feeds or {}, outputs, trace)
        except RuntimeCrashError as error:
            repeats[side], effect[side], failed[side] = None, None, error.fact
        after(backend)
    return {"deterministic": repeats, "observer_effect": effect, "untapped_failed": failed}


def _repeated(backend: Backend, feeds: Mapping[str, Array], outputs: Sequence[str], trace: Trace) -> tuple[bool, float]:
    plain = dict(backend.run(feeds, outputs))
    effect = max(_apart(plain[o], trace.values[o]) for o in outputs)
    if not effect:
        return True, effect
    again = dict(backend.run(feeds, outputs))
    return all(_apart(plain[o], again[o]) == 0 for o in outputs), effect


def _recorded_effect(trace: Trace) -> float | None:
    """What the run that made the trace found, where it looked."""
    try:
        return float(trace.info.options["observer_effect"])
    except (KeyError, ValueError):
        return None


def _apart(a: Array, b: Array) -> float:
    """0.0 where bit-equal (NaN equals NaN), else the largest absolute difference."""
    if a.shape != b.shape:
        return float("inf")
    if "O" in (a.dtype.kind, b.dtype.kind):  # words
        return 0.0 if np.array_equal(a, b) else float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        worst = float(np.max(np.abs(x - y)[~same]))
    return worst if worst == worst else float("inf")


def clipped_ranges(reference: Trace, candidate: Trace, matching: Matching) -> list[Clipped]:
    """The pairs whose reference value the candidate's grid cuts off by more than CLIPPED, the worst first.

    A range that was calibrated too narrow: no operator's fault.
    """
    readers, ours = candidate.graph.consumers(), reference.graph.consumers()

    def stored(pair: Pair) -> str:
        through = read_through(readers, pair.candidate)
        return pair.candidate if candidate.quant(pair.candidate) is not None else through[0] if through else ""

    def cut(pair: Pair) -> Clipped | None:
        name = stored(pair)
        quant = candidate.quant(name) if name in candidate.values else None
        if quant is None or quant.scale.size > 1 or reference.quant(pair.reference) is not None:
            return None
        after = ours.get(pair.reference, ())
        if after and all(node.canonical in ("Relu", "Clip") for node in after):
            return None  # a grid that begins at zero does what they do
        limits = np.iinfo(candidate.values[name].dtype)
        low, high = quant.dequantize(np.array([limits.min, limits.max], candidate.values[name].dtype))
        value = reference.values[pair.reference].astype(np.float64)
        norm = float(np.linalg.norm(value))
        if not np.isfinite(norm) or not norm:
            return None
        share = float(np.linalg.norm(value - np.clip(value, low, high))) / norm
        if not share > CLIPPED:
            return None
        return Clipped(reference=pair.reference, candidate=name, share=share, range=[float(low), float(high)])

    found = [one for one in in_threads(cut, filter(stored, matching.pairs)) if one]
    return sorted(found, key=lambda one: -one["share"])


def check_warnings(found: Checks) -> list[str]:
    out = []
    for side, state in (found.get("deterministic") or {}).items():
        if state is False:
            out.append(f"the {side} gives other values when run again: a difference may be its own noise")
    for side, fact in (found.get("untapped_failed") or {}).items():
        out.append(
            f"the {side} could not be run untapped, so whether exposing its tensors moves them is unknown: {fact}"
        )
    for side, effect in (found.get("observer_effect") or {}).items():
        if effect:
            out.append(f"exposing the {side}'s tensors moves its outputs by up to {effect:.2g}")
    cut = found.get("clipped", ())
    if cut:
        low, high = cut[0]["range"]
        out.append(
            f"{len(cut)} of the candidate's tensors cut off values that the reference has: {cut[0]['candidate']} holds "
            f"{low:.3g} to {high:.3g} and loses {cut[0]['share']:.0%} (relative L2); calibrate on inputs like this one"
        )
    for name in found.get("constant_feeds", ()):
        out.append(f"the input {name} is constant: it cannot tell layers, channels or layouts apart")
    for what, names in (("negative numbers", "no_negatives"), ("index twice", "no_repeats")):
        blind = list(found.get(names, ()))  # type: ignore[call-overload]
        if blind:
            more = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
            out.append(f"this input gives {blind[0]}{more} no {what}: it cannot show what becomes of that")
    dead = found.get("constant_tensors", ())
    if dead:
        out.append(
            f"{len(dead)} of the reference's tensors are constant on this input (dead ReLUs?), such as {dead[0]}"
        )
    return out
