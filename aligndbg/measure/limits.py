"""Which limits hold for a pair where the user set none, and why: rules in order, of which the first that applies holds.

They depend on what the values bear the rounding of, on the grids that tensors and weights lie on, and on how the run
that isolated the pair was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from aligndbg.core.qdq import is_coarse, quantized_weights
from aligndbg.core.types import Array, Pair, Trace
from aligndbg.measure.reading import Grids, lost_to_a_mask
from aligndbg.measure.rounding import Rounding
from aligndbg.measure.thresholds import (
    EXPLICIT_REL_L2,
    FEW_INNER,
    HYBRID_REL_L2,
    INT8_VALUES,
    MIN_COSINE,
    RECORDED_FEWEST,
    RECORDED_SAMPLE,
    SOFTMAX_LSB_16,
    UNKNOWN_WEIGHTS_LSB,
)
from aligndbg.measure.tolerance import EPSILON, QUANTIZED, Tolerance, default_tolerance, own_lsb

__all__ = ["Conditions", "Facts", "Limit", "Limits", "Precision", "limit_of"]


@dataclass(frozen=True)
class Conditions:
    """How the run that isolates pairs is made.

    `inner` holds, by a pair's reference name, the unpaired tensors that its region computes and rounds.
    `weights_unknown`: those of the quantized side cannot be read, so the other side computes with unquantized ones.
    `moved`, by a pair's reference name: the relative L2 by which rounding weights was seen to move an output.
    """

    inner: Mapping[str, Rounding] = field(default_factory=dict)
    weights_unknown: bool = False
    moved: Mapping[str, float] = field(default_factory=dict)

    def weak(self, name: str) -> str:
        """Why a pair's own error in quantization steps is judged by a wider limit, "" where it is not."""
        if inner := self.inner.get(name):
            return f"the region rounds {inner.count} inner tensors, so its own error has a wider limit"
        if self.weights_unknown:
            return f"the candidate's weights are unknown, so its own error is judged at {UNKNOWN_WEIGHTS_LSB:g} steps"
        return ""


@dataclass(frozen=True)
class Limit:
    """What holds for a pair, and why."""

    tolerance: Tolerance
    reason: str


@dataclass(frozen=True)
class Facts:
    """What the rules ask of a pair.

    `dtypes` are those whose rounding the values bear, `op` what the reference's tensor is the result of. `on_grid`: one
    of the tensors is quantized; `stored`: the dtype of what a float one holds from a grid (asked of own errors alone).
    `moved`: what rounding the weights was seen to do to it.
    `hybrid`: a side has operators that read weights on a grid as they are; `explicit`: each side puts float tensors on
    a grid and back between operators (Q/DQ). `lost`: a mask stretches the grid so far that little else is left.
    `normalized`: how many numbers a SOFTMAX of LiteRT's normalizes that computes one of the tensors in 16 bits, else 0.
    """

    isolated: bool
    dtypes: tuple[str, str] = ("float32", "float32")
    op: str = ""
    on_grid: bool = False
    stored: str = ""
    inner: Rounding | None = None
    weights_unknown: bool = False
    hybrid: bool = False
    explicit: tuple[bool, bool] = (False, False)
    lost: bool = False
    normalized: int = 0
    moved: float = 0.0

    @property
    def quantized(self) -> bool:
        return any(dtype in QUANTIZED for dtype in self.dtypes)

    @property
    def in_steps(self) -> bool:
        """Whether an own error is one in quantization steps. Of a dump of an int8 run the step is not known."""
        return self.quantized and self.on_grid

    @property
    def relative(self) -> bool:
        """Whether an own error is one relative to the values; else it is one in steps, or values must be equal."""
        return not self.in_steps and (self.quantized or any(dtype in EPSILON for dtype in self.dtypes))


def _lost_to_a_mask(f: Facts) -> Limit | None:
    if not f.lost:
        return None
    return Limit(Tolerance(min_cosine=MIN_COSINE), "a mask stretches the grid, whose steps say nothing of all else")


def _normalized_by_tables(f: Facts) -> Limit | None:
    if not f.normalized:
        return None
    return Limit(Tolerance(max_lsb=SOFTMAX_LSB_16 * f.normalized), "LiteRT's 16-bit SOFTMAX is no finer")


def _stored_on_a_grid(f: Facts) -> Limit | None:
    if not f.stored:
        return None
    return Limit(
        Tolerance(max_lsb=own_lsb(f.stored, *f.dtypes) + (f.inner.lsb if f.inner else 0.0)),
        "a float tensor holds what is stored on a grid",
    )


def _many_inner_roundings(f: Facts) -> Limit | None:
    if not f.quantized or f.inner is None or f.inner.count <= FEW_INNER:
        return None
    return Limit(Tolerance(min_cosine=MIN_COSINE), "too many inner tensors are rounded for a bound in steps")


def _few_inner_roundings(f: Facts) -> Limit | None:
    if not f.in_steps or f.inner is None:
        return None
    return Limit(
        Tolerance(min_cosine=MIN_COSINE, max_lsb=own_lsb(*f.dtypes) + f.inner.lsb), "inner tensors are rounded too"
    )


def _unknown_weights(f: Facts) -> Limit | None:
    if not f.in_steps or not f.weights_unknown:
        return None
    return Limit(Tolerance(max_lsb=UNKNOWN_WEIGHTS_LSB), "the weights are not the quantized ones")


def _explicit_on_one_side(f: Facts) -> Limit | None:
    if not f.relative or f.explicit[0] == f.explicit[1] or f.hybrid or f.weights_unknown or f.inner:
        return None
    return Limit(Tolerance(rel_l2=EXPLICIT_REL_L2), "float operators on what one side's grids leave of their inputs")


def _coarse(f: Facts) -> Limit | None:
    if not f.relative or not (f.hybrid or any(f.explicit) or f.quantized):
        return None
    roundings = 1 + (f.inner.count if f.inner else 0)
    return Limit(Tolerance(rel_l2=HYBRID_REL_L2 * roundings**0.5), "rounded by a grid whose steps are not known")


def _after_grids(f: Facts) -> Limit | None:
    if f.quantized or not f.relative or not (f.hybrid or any(f.explicit)):
        return None
    return Limit(Tolerance(min_cosine=MIN_COSINE), "computed from what grids have left")


def _moved_by_weights(f: Facts) -> Limit | None:
    floor = _noise_floor(f).tolerance
    if not f.moved or floor.rel_l2 is None:
        return None
    return Limit(replace(floor, rel_l2=floor.rel_l2 + f.moved), "rounding the weights was seen to move it so far")


def _noise_floor(f: Facts) -> Limit:
    return Limit(default_tolerance(*f.dtypes, op=f.op, isolated=f.isolated), "the noise floor of the dtypes")


Rule = Callable[[Facts], Limit | None]
OWN: tuple[Rule, ...] = (
    _lost_to_a_mask,
    _normalized_by_tables,
    _stored_on_a_grid,
    _many_inner_roundings,
    _few_inner_roundings,
    _unknown_weights,
    _explicit_on_one_side,
    _coarse,
    _noise_floor,
)
ACCUMULATED: tuple[Rule, ...] = (_after_grids, _moved_by_weights, _noise_floor)


def limit_of(facts: Facts) -> Limit:
    """That of the first rule that applies."""
    return next(found for rule in (OWN if facts.isolated else ACCUMULATED) if (found := rule(facts)))


class Limits:
    """The limits of the noise floor for the pairs of two traces."""

    def __init__(self, reference: Trace, candidate: Trace, grids: tuple[Grids, Grids]) -> None:
        self._traces, self._grids = (reference, candidate), grids
        self._precision = Precision(reference), Precision(candidate)
        self._hybrid = quantized_weights(reference) or quantized_weights(candidate)
        self._explicit = grids[0].between_operators, grids[1].between_operators
        self._any_grid = any(trace.quant(name) is not None for trace in self._traces for name in trace.values)
        self._lost: dict[tuple[str, str], bool] = {}

    @property
    def coarse(self) -> bool:
        """Whether either side is."""
        return self._precision[0].coarse or self._precision[1].coarse

    def lost_to_a_mask(self, pair: Pair) -> bool:
        """Whether a mask stretches the grid of one of the two so far that little else is left of the values."""
        key = (pair.reference, pair.candidate)
        if key not in self._lost:
            self._lost[key] = self._any_grid and lost_to_a_mask(pair, *self._traces, self._grids)
        return self._lost[key]

    def precision(self, pair: Pair) -> str:
        """Of the dtypes whose rounding the values of both sides bear, the one with fewer digits."""
        dtypes = self._precision[0].of(pair.reference), self._precision[1].of(pair.candidate)
        return max(dtypes, key=lambda dtype: EPSILON.get(dtype, 0.0))

    def of(self, pair: Pair, under: Conditions, *, isolated: bool) -> Limit:
        sides = tuple(zip(self._traces, (pair.reference, pair.candidate), self._grids, strict=True))
        node = self._traces[0].graph.producers().get(pair.reference)
        names = (pair.reference, pair.candidate) if isolated else ()
        stored = [self._stored(k, name) for k, name in enumerate(names)]
        return limit_of(
            Facts(
                isolated=isolated,
                dtypes=(self._precision[0].of(pair.reference), self._precision[1].of(pair.candidate)),
                op=node.tail if node else "",
                on_grid=any(trace.quant(name) is not None for trace, name, _ in sides),
                stored=next(filter(None, stored), ""),
                inner=under.inner.get(pair.reference),
                weights_unknown=under.weights_unknown,
                hybrid=self._hybrid,
                explicit=self._explicit,
                lost=isolated and self.lost_to_a_mask(pair),
                normalized=max((self._normalized(k, name) for k, name in enumerate(names)), default=0),
                moved=under.moved.get(pair.reference, 0.0),
            )
        )

    def _stored(self, side: int, name: str) -> str:
        """The dtype of what a float tensor holds from a grid, "" for others."""
        source = self._grids[side].stored(name)
        return str(self._traces[side].values[source].dtype) if source else ""

    def _normalized(self, side: int, name: str) -> int:
        """See Facts."""
        source, trace = self._grids[side].stored(name) or name, self._traces[side]
        node, value = trace.graph.producers().get(source), trace.values[source]
        wide = str(value.dtype) == "int16" and node is not None and node.op_type == "SOFTMAX"
        return value.shape[-1] if wide and value.ndim else 0


class Precision:
    """The dtype whose rounding the values of one side bear."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        weights = {trace.graph.tensors[n].dtype for n in trace.graph.constants if n in trace.graph.tensors}
        self.computed = next((d for d in ("bfloat16", "float16") if d in weights), "float32")
        if not (trace.graph.inputs or trace.graph.constants):  # another tool's dump, whose small tensors show nothing
            votes = Counter(_recorded_precision(trace.values[n]) for n in trace.values)
            del votes[""]
            self.computed = votes.most_common(1)[0][0] if votes else "float32"

    @property
    def coarse(self) -> bool:
        """Whether values are on grids, are made with weights that are, or were recorded of a run of which they were."""
        return self.computed == "int8" or is_coarse(self.trace)

    def of(self, name: str) -> str:
        """Its own dtype; for a wider one, that of weights stored in fewer bits, or what a dump was computed in."""
        stored = str(self.trace.values[name].dtype)
        wider = stored == "float32" or (stored == "float64" and self.computed != "float32")
        return self.computed if wider else stored


def _recorded_precision(value: Array) -> str:
    """What a float32 tensor was computed in: other tools dump fp16, bf16 and dequantized int8 so; "" if unclear."""
    sample = np.ascontiguousarray(value.reshape(-1)[:RECORDED_SAMPLE])
    if str(value.dtype) != "float32" or np.count_nonzero(sample) < RECORDED_FEWEST:
        return ""
    bits = sample.view(np.uint32)
    if not (bits & 0xFFFF).any():
        return "bfloat16"
    if not (bits & 0x1FFF).any():
        return "float16"
    return "int8" if len(np.unique(sample)) <= INT8_VALUES else "float32"
