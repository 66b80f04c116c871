"""The nouns: frozen dataclasses, enums and protocols shared by every stage. Knows numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from aligndbg.core.moves import NOT_COMPUTING

__all__ = [
    "FLOAT_DTYPES",
    "Array",
    "Backend",
    "Cause",
    "Coverage",
    "Effect",
    "Fault",
    "Graph",
    "Key",
    "Layout",
    "LayoutKind",
    "Matching",
    "ModelInfo",
    "Node",
    "Overrides",
    "Pair",
    "Quant",
    "Region",
    "RunAgain",
    "Skipped",
    "Status",
    "TensorInfo",
    "Trace",
    "Unmatched",
    "UnmatchedClass",
    "Verdict",
]

Array = np.ndarray[Any, np.dtype[Any]]
Key = str | tuple[str, str]  # a tensor; or (tensor, node): what that one node reads of it
Overrides = Mapping[Any, Array]  # by Key; a Mapping is invariant in its keys

FLOAT_DTYPES = frozenset(
    {
        "float16",
        "float32",
        "float64",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
    }
)


class Status(StrEnum):
    """Status of one pair (DESIGN: Status of a pair)."""

    PASS = "pass"
    DRIFT = "drift"
    FAULT = "fault"
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """Verdict of a whole diff; exit codes 0, 1 and 3."""

    ALIGNED = "aligned"
    DIVERGED = "diverged"
    INCONCLUSIVE = "inconclusive"


class RunAgain(StrEnum):
    """Which side is run again, its tensors overridden with the other side's values, to see each region's own error."""

    REFERENCE = "reference"
    CANDIDATE = "candidate"


class UnmatchedClass(StrEnum):
    """Why a float tensor was not compared. The classes are disjoint."""

    UNOBSERVABLE = "unobservable"
    ONE_SIDED = "one_sided"
    UNMATCHED = "unmatched"


class LayoutKind(StrEnum):
    IDENTITY = "identity"
    PERMUTE = "permute"
    SQUEEZE = "squeeze"
    RESHAPE = "reshape"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, eq=False)
class Quant:
    """Affine quantization: real = (q - zero_point) * scale.

    `scale` float32 (n,), `zero_point` int64 (n,), with n = 1 (per tensor) or the length of `axis` (per channel).
    """

    scale: Array
    zero_point: Array
    axis: int | None = None

    def _along(self, ndim: int) -> tuple[Array, Array]:
        if self.axis is None or self.scale.size == 1:
            return self.scale.reshape(()), self.zero_point.reshape(())
        shape = [1] * ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)

    def dequantize(self, q: Array) -> Array:
        """Stored integers of any shape -> float32 of the same shape (exact subtraction, one rounding)."""
        scale, zero = self._along(q.ndim)
        with np.errstate(over="ignore"):  # a grid may reach past float32: inf there, as runtimes have it
            real = (q.astype(np.int64) - zero) * scale.astype(np.float64)
            return np.asarray(real, np.float32)  # of rank 0 numpy has made a number of it

    def quantize(self, x: Array, dtype: str | np.dtype[Any]) -> Array:
        """Floats -> stored integers of `dtype`: round half away from zero as TFLite does, then saturate."""
        scale, zero = self._along(x.ndim)
        limits = np.iinfo(dtype)
        with np.errstate(all="ignore"):  # NaN has no place on a grid
            steps = x.astype(np.float64) / scale.astype(np.float64)
            q = np.copysign(np.floor(np.abs(steps) + 0.5), steps) + zero
            return np.asarray(np.clip(q, limits.min, limits.max), dtype)


@dataclass(frozen=True)
class TensorInfo:
    """What a backend says of one tensor.

    `shape` is None when unknown; a dimension is None (or its symbol) when dynamic. `dtype` is numpy's or
    ml_dtypes' name, or "string", "sequence", "optional", "resource", "variant", "" (unknown until it is run).
    """

    name: str
    shape: tuple[int | str | None, ...] | None = None
    dtype: str = ""
    quant: Quant | None = None

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        if self.shape is None or any(not isinstance(d, int) for d in self.shape):
            return None
        return tuple(d for d in self.shape if isinstance(d, int))


@dataclass(frozen=True)
class Node:
    """One operator. `op_type` is the runtime's own word, `canonical` the ONNX word for the same thing.

    `inputs` and `outputs` are tensor names, "" where an optional one is absent. `attributes` hold plain Python
    values (numbers, strings, lists, arrays); a fused activation is `fused_activation`, as its canonical op name.
    `scope` is the module path or source line, where the file knows it.
    """

    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    canonical: str = ""

    def __post_init__(self) -> None:
        if not self.canonical:
            object.__setattr__(self, "canonical", self.op_type)

    @cached_property
    def tail(self) -> str:
        """The canonical op whose result the node's output holds: the fused activation where there is one."""
        return str(self.attributes.get("fused_activation") or self.canonical)


@dataclass(frozen=True)
class Graph:
    """What a backend says of a model without running it.

    `nodes` in execution order. `constants` names weights and whatever is known to depend on them alone; their
    values are read with `run({}, fetch=[name])`. `untapped` gives, for each node output that `run` cannot yield
    (a string, a sequence, a value inside a control-flow body), the reason. `inner` gives, for each value inside a
    control-flow body, the node that the body belongs to. `opset` is the version of the default ONNX
    domain that gives the nodes their meaning; 0 where their words are another runtime's. `notes` are what a user should
    know of how the model is run. `by_feeds` says that the graph is that of the last run: other feeds may give another,
    and there are no nodes before the first (`run` with an empty `fetch` is enough).
    """

    nodes: tuple[Node, ...] = ()
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    constants: frozenset[str] = frozenset()
    untapped: Mapping[str, str] = field(default_factory=dict)
    inner: Mapping[str, str] = field(default_factory=dict)
    opset: int = 0
    notes: tuple[str, ...] = ()
    by_feeds: bool = False

    def tappable(self) -> tuple[str, ...]:
        """Every node output that `run` can yield, in execution order, each once."""
        seen: dict[str, None] = {}
        for node in self.nodes:
            for name in node.outputs:
                if name and name not in self.untapped and (name not in self.constants or name in self.made):
                    seen.setdefault(name)
        return tuple(seen)

    @cached_property
    def made(self) -> frozenset[str]:
        """The floats that operators compute from constants alone, and what is made of those: weights, in which a
        converter may go wrong too."""
        found: set[str] = set()
        for node in self.nodes:
            if not any(node.inputs) or (node.canonical in NOT_COMPUTING and found.isdisjoint(node.inputs)):
                continue
            infos = (
                (name, self.tensors[name]) for name in node.outputs if name in self.constants and name in self.tensors
            )
            found.update(name for name, info in infos if info.dtype in FLOAT_DTYPES or info.quant is not None)
        return frozenset(found)

    @cached_property
    def stored(self) -> frozenset[str]:
        """The other constants: what the file holds, at most moved or in another form."""
        return self.constants - self.made

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Tensors that the feeds' values cannot change: made from constants and from shapes alone."""
        found = set(self.constants)
        for node in self.nodes:
            read = node.inputs[:1] if node.canonical == "CastLike" else node.inputs  # the second gives its type only
            inputs = [n for n in read if n]
            if node.canonical.startswith("Random"):
                continue
            if node.canonical in ("Shape", "Size") or (inputs and all(n in found for n in inputs)):
                found.update(n for n in node.outputs if n)
        return frozenset(found)

    def producers(self) -> Mapping[str, Node]:
        """Tensor name -> the node that computes it."""
        return self._producers

    def consumers(self) -> Mapping[str, Sequence[Node]]:
        """Tensor name -> the nodes that read it, in execution order."""
        return self._consumers

    def node(self, name: str) -> Node:
        """The node of a name. Raises KeyError."""
        return self.nodes[self._places[name]]

    def places(self) -> Mapping[str, int]:
        """Node name -> its place in execution order."""
        return self._places

    # Looked up by the thousand, and made when they are first asked for.
    @cached_property
    def _producers(self) -> dict[str, Node]:
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def _consumers(self) -> dict[str, list[Node]]:
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    readers.setdefault(name, []).append(node)
        return readers

    @cached_property
    def _places(self) -> dict[str, int]:
        return {node.name: k for k, node in enumerate(self.nodes)}

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what is made of them need not pass from process to process."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class ModelInfo:
    """Which file, which backend, which version of its runtime, and how it was opened."""

    path: str
    backend: str
    version: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Backend(Protocol):
    """A model in a runtime. `capabilities` is a subset of "graph", "run", "override".

    `run` yields each fetched tensor once, as an array that the caller owns, in the tensor's own dtype (quantized
    tensors as stored integers) and layout. `overrides` maps tensor names to arrays of the tensor's own dtype and
    shape: every consumer reads the array, while the model's own value is still yielded. A key may also be an edge,
    (tensor, node): then that one node reads the array. `fetch` may name graph inputs and constants too.

    No more is computed than `fetch` needs given the overrides, and no feed is needed that nothing computed reads.

    Raises FeedError for a missing, unknown or misshapen feed or override, UsageError for an unknown fetch,
    UnsupportedError for one that cannot be tapped or overridden (its name is then the error's `context`), ModelError
    when the runtime refuses the model.

    `release` lets go of what is kept from one run to the next, `bound` says how many bytes may be held of overrides,
    and of what is computed at a time, `pid` is that of the model's own process. `backends.base` has them for those that
    have nothing to do there.
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def capabilities(self) -> frozenset[str]: ...

    @property
    def pid(self) -> int | None: ...

    def graph(self) -> Graph: ...

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]: ...

    def release(self) -> None: ...

    def bound(self, nbytes: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Trace:
    """One run of one model. `values` reads lazily; `order` is execution order; `missing` says why one has no value.

    `graph` has no nodes where the file knows none. Values are stored as the runtime gave them: quantized tensors as
    integers, to be dequantized with `graph.tensors[name].quant`.
    """

    info: ModelInfo
    graph: Graph
    values: Mapping[str, Array]
    feeds: Mapping[str, Array] | None
    order: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)

    def quant(self, name: str) -> Quant | None:
        info = self.graph.tensors.get(name)
        return info.quant if info else None


@dataclass(frozen=True)
class Layout:
    """reference ~= transpose(candidate.reshape(from_shape), permutation).reshape(reference_shape).

    `alternatives` holds the other permutations that fit as well, for an ambiguous layout.
    """

    kind: LayoutKind
    from_shape: tuple[int, ...]
    permutation: tuple[int, ...]
    reference_shape: tuple[int, ...]
    candidate_shape: tuple[int, ...]
    alternatives: tuple[tuple[int, ...], ...] = ()

    def to_reference(self, candidate: Array) -> Array:
        """The candidate's array (any dtype) in the reference's shape; a view where numpy can give one."""
        return candidate.reshape(self.from_shape).transpose(self.permutation).reshape(self.reference_shape)

    def to_candidate(self, reference: Array) -> Array:
        """The inverse: the reference's array in the candidate's shape."""
        moved = tuple(self.from_shape[i] for i in self.permutation)
        back = np.argsort(self.permutation)
        return reference.reshape(moved).transpose(back).reshape(self.candidate_shape)


@dataclass(frozen=True)
class Pair:
    """Two tensors held to be the same value. `confidence` in 0..1; `evidence` is one line a person can check."""

    reference: str
    candidate: str
    layout: Layout
    method: str  # value | experiment | name | output | user
    confidence: float
    evidence: str = ""


@dataclass(frozen=True)
class Unmatched:
    """A float tensor without a counterpart, with its class and the reason."""

    name: str
    op: str
    kind: UnmatchedClass
    reason: str


@dataclass(frozen=True)
class Skipped:
    """A tensor left out on purpose (constant, integer, string, inside a body), with the reason."""

    name: str
    op: str
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Four disjoint counts that sum to the side's float or quantized node outputs."""

    compared: int = 0
    unobservable: int = 0
    one_sided: int = 0
    unmatched: int = 0


@dataclass(frozen=True)
class Matching:
    """The result of pairing, in the reference's execution order.

    `pairs` are one to one. `again` are outputs that are compared beside them, where they, or what they are held
    against, are paired with something else; `notes` say what is to be known of outputs, and what no comparison sees.
    """

    pairs: tuple[Pair, ...]
    unmatched_reference: tuple[Unmatched, ...] = ()
    unmatched_candidate: tuple[Unmatched, ...] = ()
    skipped_reference: tuple[Skipped, ...] = ()
    skipped_candidate: tuple[Skipped, ...] = ()
    coverage_reference: Coverage = Coverage()
    coverage_candidate: Coverage = Coverage()
    again: tuple[Pair, ...] = ()
    notes: tuple[str, ...] = ()
    agreement: float = 0.0  # how well the pairs agree all in all, to choose among feeds; no unit


@dataclass(frozen=True)
class Cause:
    """A tested hypothesis: `before` and `after` are the error without and with the correction."""

    kind: str
    summary: str
    before: float | None = None
    after: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Region:
    """A piece of one side between paired tensors."""

    nodes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effect:
    """What one fault does at the outputs: their errors, relative L2 by the reference's name.

    `alone`: with every other fault corrected, so that only this one is left; `corrected`: with only this one corrected.
    """

    alone: Mapping[str, float]
    corrected: Mapping[str, float]

    @property
    def largest(self) -> float:
        """What it leaves at the output where it matters most; nan counts as the largest."""
        return max((e if e == e else float("inf") for e in self.alone.values()), default=0.0)


@dataclass(frozen=True)
class Fault:
    """One smallest region between paired tensors whose own error is over tolerance.

    `effect` is None where no run told it. `hidden`: this input does not show it below, random values at its borders do.
    """

    reference: str | None
    candidate: str | None
    reference_op: str
    candidate_op: str
    isolated_error: float
    isolated_unit: str  # rel_l2 | lsb
    region_reference: Region = Region()
    region_candidate: Region = Region()
    cause: Cause | None = None
    reference_scope: str = ""  # the module and source line that wrote it, where the model knows
    candidate_scope: str = ""
    effect: Effect | None = None
    hidden: bool = False
