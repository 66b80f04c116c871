"""One side of a match: a trace with what pairing needs to know of each tensor, computed once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aligndbg.core.layouts import sample_positions
from aligndbg.core.moves import PASSIVE_OPS
from aligndbg.core.regions import needed
from aligndbg.core.types import FLOAT_DTYPES, Array, Graph, Node, Quant, Skipped, Trace
from aligndbg.measure.fingerprint import Fingerprint
from aligndbg.measure.limits import Precision

__all__ = ["FIXED", "Grid", "Side", "is_cell", "is_hidden", "moved_from"]

FIXED = "depends on shapes and constants only"  # why a tensor is not compared


@dataclass(frozen=True)
class Grid:
    """Multiples of `step` from `low` to `high`."""

    step: float
    low: float
    high: float

    def rounded(self, values: Array) -> Array:
        """What the grid leaves of real values."""
        found: Array = np.clip(np.round(values / self.step) * self.step, self.low, self.high)
        return found


class Side:
    """Names to compare, the graph around them, fingerprints, and sampled reads."""

    def __init__(self, trace: Trace, prints: Mapping[str, Fingerprint], label: str) -> None:
        self.trace = trace
        self.graph = trace.graph
        self.prints = prints
        self.label = label
        self.precision = Precision(trace)
        self.producer = self.graph.producers()
        self.consumers = self.graph.consumers()
        self.fixed = self.graph.fixed
        self.inputs = tuple(self.graph.inputs)
        self._inputs: dict[tuple[int, bool], tuple[str, ...]] = {}  # by the id of a node of `graph`
        self._dtypes: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.unseen: dict[str, str] = {}  # floats inside control-flow bodies, each with the reason
        self.names, self.skipped = self._sort_out()
        self.comparable = frozenset(self.names)
        self._shape_made = self.fixed - self.comparable
        self.position = {name: i for i, name in enumerate(self.names)}
        self._samples: dict[str, Array] = {}
        self.spreads: dict[str, float] = {}  # of the samples, filled and read by layouts
        self.masks: dict[str, Array | None] = {}  # likewise
        self.moved_samples: dict[tuple[str, tuple[int, ...], tuple[int, ...]], Array] = {}  # likewise
        self._hints: dict[str, tuple[tuple[int, ...], ...]] = {}
        self._twins = _twins(self.graph)

    def _sort_out(self) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
        names, skipped = [], []
        outputs = dict.fromkeys(n for node in self.graph.nodes for n in node.outputs if n)
        feeds = set(self.inputs) | set(self.trace.feeds or ())
        known = outputs if outputs else dict.fromkeys(n for n in self.trace.order if n not in feeds)
        for name in known:
            reason = self._reason_to_skip(name)
            if reason:
                skipped.append(Skipped(name, self.op(name), reason))
            else:
                names.append(name)
        for name in self.graph.inner:
            info = self.graph.tensors.get(name)
            if info is None or not info.dtype or info.dtype in FLOAT_DTYPES or info.quant is not None:
                self.unseen[name] = self.graph.untapped.get(name, "inside a body")
            else:
                skipped.append(Skipped(name, "", f"{info.dtype} values inside a body"))
        return tuple(names), tuple(skipped)

    def _reason_to_skip(self, name: str) -> str:
        if name in self.graph.stored:
            return "constant"
        if name in self.trace.missing:
            return self.trace.missing[name]
        if name not in self.trace.values:
            return "no value was captured"
        dtype = self.dtype(name)
        if self.quant(name) is None and dtype not in FLOAT_DTYPES:
            return f"{dtype.replace('object', 'string')} values"
        if name in self.fixed and (self.prints[name].constant or not self.prints[name].finite):
            return FIXED
        return ""

    @cached_property
    def unread(self) -> set[str]:
        """Node outputs from which no model output is computed."""
        if not self.graph.outputs:
            return set()
        places, _ = needed(self.graph, self.graph.outputs, ())
        read = {i for place in places for i in self.graph.nodes[place].inputs}.union(self.graph.outputs)
        return {o for node in self.graph.nodes for o in node.outputs if o} - read

    def op(self, name: str) -> str:
        node = self.producer.get(name)
        return node.op_type if node else ""

    def node(self, name: str) -> Node | None:
        return self.producer.get(name)

    def quant(self, name: str) -> Quant | None:
        return self.trace.quant(name)

    def grid(self, name: str) -> Grid | None:
        """The grid that a whole tensor lies on, or was dequantized from; None for others."""
        quant, node = self.quant(name), self.producer.get(name)
        if quant is None and node is not None and node.canonical == "DequantizeLinear" and node.inputs[0] != name:
            return self.grid(node.inputs[0]) if node.inputs[0] in self.trace.values else None
        if quant is None or quant.scale.size > 1 or not self.dtype(name).startswith(("int", "uint")):
            return None
        limits, step, zero = np.iinfo(self.dtype(name)), float(quant.scale[0]), float(quant.zero_point[0])
        return Grid(step, (limits.min - zero) * step, (limits.max - zero) * step)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            self._shapes[name] = tuple(self.value(name).shape)
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        if name not in self._dtypes:
            self._dtypes[name] = str(self.trace.values[name].dtype)
        return self._dtypes[name]

    def value(self, name: str) -> Array:
        """The stored value, of a node output or a feed."""
        if name in self.inputs and self.trace.feeds and name in self.trace.feeds:
            return self.trace.feeds[name]
        return self.trace.values[name]

    def count(self, name: str) -> int:
        return math.prod(self.shape(name))

    def read(self, name: str, flat: Array) -> Array:
        """The values at flat positions, dequantized, float64."""
        value = self.value(name)
        picked = value.reshape(-1)[flat]
        quant = self.quant(name)
        if quant is None or picked.dtype.kind == "f":
            return picked.astype(np.float64)
        if quant.axis is None or quant.scale.size == 1:
            return quant.dequantize(picked).astype(np.float64)
        channel = np.unravel_index(flat, value.shape)[quant.axis]
        exact = picked.astype(np.float64) - quant.zero_point[channel]
        return exact * quant.scale[channel].astype(np.float64)

    def sample(self, name: str) -> Array:
        """The values at this count's sample positions, in the tensor's own order."""
        if name not in self._samples:
            self._samples[name] = self.read(name, sample_positions(self.count(name)))
        return self._samples[name]

    def data_inputs(self, node: Node, made: bool = False) -> tuple[str, ...]:
        """The inputs that carry values: not constants, nor what depends on shapes alone; with the weights that the
        graph computes where `made`."""
        found = self._inputs.get((id(node), made))
        if found is None:
            told = self._shape_made if made else self.fixed
            found = self._inputs[id(node), made] = tuple(n for n in dict.fromkeys(node.inputs) if n and n not in told)
        return found

    def twins(self, name: str) -> tuple[str, ...]:
        """The other tensors that the same op computes from the same inputs: one side may do twice what the other does
        once."""
        return self._twins.get(name, ())

    def hints(self, name: str) -> tuple[tuple[int, ...], ...]:
        """Shapes around a tensor with its element count: what a flattened tensor may have been."""
        if name in self._hints:
            return self._hints[name]
        count = self.count(name)
        around: dict[tuple[int, ...], None] = {}
        node = self.node(name)
        near = list(self.data_inputs(node)) if node else []
        near += [o for reader in self.consumers.get(name, ()) for o in reader.outputs if o in self.comparable]
        for n in near:
            if (n in self.comparable or n in self.inputs) and self.count(n) == count:
                around.setdefault(self.shape(n))
        self._hints[name] = tuple(around)
        return self._hints[name]


def moved_from(side: Side, name: str, wanted: Callable[[str], bool]) -> str:
    """The nearest tensor that is `wanted` of those that `name` is a moved copy of, itself left out; "" for none."""
    node = side.producer.get(name)
    while node is not None and node.canonical in PASSIVE_OPS:
        inputs = side.data_inputs(node)
        if len(inputs) != 1:
            return ""
        if wanted(inputs[0]):
            return inputs[0]
        node = side.producer.get(inputs[0])
    return ""


def is_cell(side: Side, name: str) -> bool:
    """Whether a tensor is computed as an unrolled LSTM's cell state is: a sum of two products."""
    node = side.producer.get(name)
    return node is not None and node.tail == "Add" and _tails(side, node) == ["Mul", "Mul"]


def is_hidden(side: Side, name: str) -> bool:
    """Whether a tensor is computed as an unrolled LSTM's hidden state is: a gate times the squashed cell state."""
    node = side.producer.get(name)
    if node is None or node.tail != "Mul":
        return False
    above = [side.producer.get(i) for i in side.data_inputs(node)]
    return any(n is not None and any(is_cell(side, i) for i in side.data_inputs(n)) for n in above)


def _tails(side: Side, node: Node) -> list[str]:
    return [side.producer[i].tail if i in side.producer else "" for i in side.data_inputs(node)]


def _twins(graph: Graph) -> dict[str, tuple[str, ...]]:
    found: dict[tuple[str, tuple[str, ...], int], list[str]] = defaultdict(list)
    for node in graph.nodes:
        for k, o in enumerate(node.outputs):
            if o:
                found[node.tail, tuple(sorted(node.inputs)), k].append(o)
    return {name: tuple(n for n in alike if n != name) for alike in found.values() if len(alike) > 1 for name in alike}
