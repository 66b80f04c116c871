"""What has been paired so far, and what that says of the tensors around it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aligndbg.core.layouts import exchanged_orders, order_of
from aligndbg.core.moves import PASSIVE_OPS
from aligndbg.core.ops import FINISHING, SAME_RESULT, WEIGHT_OPS, ops_agree, output_index
from aligndbg.core.types import Layout, Node, Trace
from aligndbg.match.layouts import Fit, best_layouts
from aligndbg.match.names import similarity
from aligndbg.match.neighbours import Ways
from aligndbg.match.side import Side, moved_from
from aligndbg.match.thresholds import ODD, SAME
from aligndbg.match.weights import WeightPrint, Weights

__all__ = ["Link", "Orders", "State"]


REACH = 400  # tensors looked through on one side before a region counts as open


@dataclass(frozen=True)
class Link:
    """One pair while matching is under way; `error` is the sampled error under `layout` (inf: not comparable)."""

    reference: str
    candidate: str
    layout: Layout
    method: str
    error: float
    evidence: str


@dataclass(frozen=True)
class Orders:
    """How many tensors whose values agree are laid out in each order: all, and those that their shapes leave open."""

    usual: Counter[tuple[int, ...]]
    despite: Counter[tuple[int, ...]]

    def odd(self, layout: Layout) -> bool:
        """True where far more tensors are laid out as this one would be with two axes of one size exchanged."""
        limit = ODD * max(1, self.despite[order_of(layout)])
        return any(self._usual(order) >= limit for order in exchanged_orders(layout))

    def _usual(self, order: tuple[int, ...]) -> int:
        return self.usual[order] + (ODD if order == (0,) else 0)  # nothing moved is usual without any vote


@dataclass
class State:
    reference: Side
    candidate: Side
    links: dict[str, Link] = field(default_factory=dict)  # by reference name
    by_candidate: dict[str, Link] = field(default_factory=dict)
    reject: frozenset[tuple[str, str]] = frozenset()
    weights: Weights | None = None
    tick: Callable[[], None] = lambda: None
    coarse: bool = False  # a side rounds to grids: values agree up to that
    orders: Orders = field(default_factory=lambda: Orders(Counter(), Counter()))
    _fits: dict[tuple[str, str], tuple[float, list[Fit]]] = field(default_factory=dict)  # with what they are known to
    _largest: dict[tuple[bool, int], WeightPrint | None] = field(default_factory=dict)
    _agreements: dict[tuple[int, int], float] = field(default_factory=dict)
    _ways: dict[bool, Ways] = field(default_factory=dict)
    # What follows from the links and the layouts as they are now, kept until one of them changes.
    _usual: dict[tuple[str, str], list[Fit]] = field(default_factory=dict)
    _usual_of: Orders | None = None
    _sources: dict[tuple[bool, str, bool], str] = field(default_factory=dict)
    _chains: dict[tuple[bool, int], list[Node]] = field(default_factory=dict)
    _held: dict[tuple[bool, int, bool], tuple[int, list[Link]]] = field(default_factory=dict)
    _above: dict[tuple[bool, str], tuple[list[str], list[str]]] = field(default_factory=dict)
    # By method and rank, how the tensors that are paired are laid out.
    _permutations: dict[tuple[str, int], Counter[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(Counter))

    def fits(self, r: str, c: str, limit: float = math.inf) -> list[Fit]:
        """Every layout of `c` on `r` with its sampled error, best first; [] where none fits or the pair is refuted.

        Odd ones are left out: a tensor that only they make agree was moved as it should not have been. So may be those
        past `limit`, where one is given.
        """
        if (r, c) in self.reject:
            return []
        if self._usual_of is not self.orders:
            self._usual.clear()
            self._usual_of = self.orders
        if (r, c) not in self._usual or not self._known_to(r, c, limit):
            self._usual[(r, c)] = self._usual_fits(r, c, limit)
        return self._usual[(r, c)]

    def _known_to(self, r: str, c: str, limit: float) -> bool:
        known, fits = self._fits.get((r, c), (-1.0, []))
        return known >= limit or bool(fits and fits[0].error <= known)

    def _all_fits(self, r: str, c: str, limit: float) -> list[Fit]:
        if not self._known_to(r, c, limit):
            ref, cand = self.reference, self.candidate
            self._fits[(r, c)] = limit, best_layouts(ref, r, cand, c, (*ref.hints(r), *cand.hints(c)), limit)
        return self._fits[(r, c)][1]

    def _usual_fits(self, r: str, c: str, limit: float) -> list[Fit]:
        found = self._all_fits(r, c, limit)
        usual = [f for f in found if not self.orders.odd(f.layout)]
        same = usual and usual[0].error <= SAME  # the values do not tell one from the other
        return found if same else usual

    def by_value(self) -> State:
        """What values, the user and the feeds have paired, to go on from."""
        other = replace(self, links={}, by_candidate={}, _ways={}, _sources={}, _chains={}, _held={}, _above={})
        other._permutations = defaultdict(Counter)
        for link in self.links.values():
            if link.method in ("value", "user", "feed"):
                other.add(link)
        return other

    def of(self, reference: Trace, candidate: Trace) -> State:
        """The same links of traces with the same values, where one has another graph; itself where none has."""
        if self.reference.graph is reference.graph and self.candidate.graph is candidate.graph:
            return self
        left, right = (
            Side(reference, self.reference.prints, "reference"),
            Side(candidate, self.candidate.prints, "candidate"),
        )
        other = State(left, right, reject=self.reject, weights=self.weights, tick=self.tick, coarse=self.coarse)
        for link in self.links.values():
            other.add(link)
        return other

    def add(self, link: Link) -> None:
        self.links[link.reference] = link
        self.by_candidate[link.candidate] = link
        self._count_layout(link, 1)
        for side, name in ((self.reference, link.reference), (self.candidate, link.candidate)):
            if (side is self.reference) in self._ways:
                self._ways[side is self.reference].close(name)

    def drop(self, link: Link) -> None:
        del self.links[link.reference]
        del self.by_candidate[link.candidate]
        self._ways.clear()
        self._count_layout(link, -1)

    def open_below(self, side: Side, name: str) -> bool:
        """Whether a way leads down from a tensor to the end of the graph past unpaired tensors only."""
        key = side is self.reference
        if key not in self._ways:
            self._ways[key] = Ways(side, self.links if key else self.by_candidate)
        return self._ways[key].open_from(name)

    def _count_layout(self, link: Link, by: int) -> None:
        for cache in (self._sources, self._chains, self._held, self._above):
            cache.clear()
        if not link.layout.alternatives:
            self._permutations[link.method, len(link.layout.permutation)][link.layout.permutation] += by

    def link_of(self, side: Side, name: str) -> Link | None:
        return (self.links if side is self.reference else self.by_candidate).get(name)

    def seat(self, side: Side, name: str) -> Link | None:
        """The pair whose place in the graph a tensor has: its own, or that of its twin."""
        links = self.links if side is self.reference else self.by_candidate
        if name in links:
            return links[name]
        return next((links[n] for n in side.twins(name) if n in links), None)

    def frontier(self, side: Side, name: str) -> frozenset[str]:
        """The nearest paired ancestors of a tensor, by their reference name; "?" where one path reaches none.

        One that only moves another paired tensor counts as that one: a side may go on from either.
        """
        found: set[str] = set()
        seen = {name}
        queue = deque([name])
        while queue:
            paired, above = self._right_above(side, queue.popleft())
            found.update(paired)
            for i in above:
                if i in seen:
                    continue
                seen.add(i)
                if len(seen) > REACH:
                    found.add("?")
                else:
                    queue.append(i)
        return frozenset(found)

    def _right_above(self, side: Side, name: str) -> tuple[list[str], list[str]]:
        """What a tensor is computed from: the paired ones, by their reference name, and the others; see `frontier`."""
        key = (side is self.reference, name)
        if key not in self._above:
            self._above[key] = self._look_right_above(side, name)
        return self._above[key]

    def _look_right_above(self, side: Side, name: str) -> tuple[list[str], list[str]]:
        node = side.producer.get(name)
        if node is None:  # an unpaired graph input
            return ["?"], []
        inputs = side.data_inputs(node)
        paired, others = [], []
        if link := self.link_of(side, _cell_state(node, name)):
            paired.append(self._unmoved(link.reference))
            if side.shape(node.outputs[0])[0] == 1:  # one step: the initial cell state acts through the new one
                inputs = tuple(i for i in inputs if i != "".join(node.inputs[6:7]))
        for i in inputs:
            link = self.seat(side, i)
            if link:
                paired.append(self._unmoved(link.reference))
            else:
                others.append(i)
        return paired, others

    def _unmoved(self, r: str) -> str:
        """The first paired tensor of the chain of moves that ends in the reference's tensor `r`."""
        above = moved_from(self.reference, r, self.links.__contains__)
        return self._unmoved(above) if above else r

    def resemblance(self, r: str, c: str) -> float:
        """How alike the places of two tensors in their graphs are: outputs, paired inputs, ops, names, depth."""
        ref, cand = self.reference, self.candidate
        rn, cn = ref.node(r), cand.node(c)
        score = 0.15 * similarity(r, c)
        # Of equal tensors an output pairs with an output: its own axis order is what a user will read.
        score += 1.0 * (r in ref.graph.outputs and c in cand.graph.outputs)
        if rn is None or cn is None:
            return score
        score += 0.40 * self.inputs_agree(rn, cn)
        score += 0.25 * ops_agree(rn, cn)
        score += 0.10 * (output_index(rn, r) == output_index(cn, c))
        score += 0.10 * (self.finished(self.reference, r) == self.finished(self.candidate, c))
        depth_r = ref.position[r] / max(1, len(ref.names))
        depth_c = cand.position[c] / max(1, len(cand.names))
        return score + 0.10 * (1 - abs(depth_r - depth_c))

    def inputs_agree(self, rn: Node, cn: Node) -> float:
        """Share of two nodes' inputs that are paired with each other, one-sided helpers looked through; 0..1.

        Of a chain that the other side has as one op (Conv, BatchNormalization, Relu), the chain's inputs count. Inputs
        that agree only when an unpaired finishing op is looked through (one side has a ReLU more) count a little less.
        """
        heads = self._heads_of(rn, cn)
        strict = self._agreeing(*heads, lenient=False)
        if strict[1] or not strict[0]:
            return len(strict[1]) / strict[0] if strict[0] else 1.0
        loose = self._agreeing(*heads, lenient=True)
        return 0.8 * len(loose[1]) / loose[0] if loose[0] else 0.0

    def right_before(self, side: Side, name: str) -> set[str]:
        """What `name` is a moved copy of, and that from which one operator computes it, moves looked through."""
        source = self._computed(side, name)
        node = side.producer.get(source)
        return {source, *(self._computed(side, i) for i in (side.data_inputs(node) if node is not None else ()))}

    def _computed(self, side: Side, name: str) -> str:
        """The tensor that `name` is a moved copy of: a paired one, or the first that is computed."""
        while not self.link_of(side, name):
            node = side.producer.get(name)
            inputs = side.data_inputs(node) if node is not None and node.canonical in PASSIVE_OPS else ()
            if len(inputs) != 1:
                break
            name = inputs[0]
        return name

    def inputs_layouts(self, r: str, c: str) -> list[Layout]:
        """The settled layouts of the inputs that two tensors' nodes have in common."""
        rn, cn = self.reference.node(r), self.candidate.node(c)
        if rn is None or cn is None:
            return []
        _, links = self._agreeing(*self._heads_of(rn, cn), lenient=True)
        return [link.layout for link in links if not link.layout.alternatives]

    def weights_agree(self, rn: Node, cn: Node) -> float:
        """1 where two nodes hold the same weight, up to layout and scales per channel; -1 where not; 0: not known."""
        if self.weights is None:
            return 0.0
        return self._weights_of(
            self._head(self.reference, rn, cn.canonical), self._head(self.candidate, cn, rn.canonical)
        )

    def _weights_of(self, ours: Node, theirs: Node) -> float:
        key = (id(ours), id(theirs))
        if key not in self._agreements:
            left, right = self._weight(self.reference, ours), self._weight(self.candidate, theirs)
            self._agreements[key] = left.agreement(right) if left and right else 0.0
        return self._agreements[key]

    def _weight(self, side: Side, node: Node) -> WeightPrint | None:
        """The largest weight of a node; None where none is known."""
        key = (side is self.reference, id(node))
        if key not in self._largest and self.weights is not None:
            ours, theirs = self.weights()
            prints = ours if side is self.reference else theirs
            found = [prints[n] for n in node.inputs if n in prints]
            self._largest[key] = max(found, key=lambda w: w.count, default=None)
        return self._largest.get(key)

    def finished(self, side: Side, name: str) -> bool:
        """False where all that reads a tensor adds a bias to it or scales it: a converter makes that one op."""
        readers = side.consumers.get(name, ())
        while len(readers) == 1 and readers[0].canonical in PASSIVE_OPS and name not in side.graph.outputs:
            name = readers[0].outputs[0]
            readers = side.consumers.get(name, ())
        if len(readers) != 1 or name in side.graph.outputs:
            return True
        linear = readers[0].canonical in ("BatchNormalization", "Add", "Mul", "Sub", "Div")
        return not (linear and len(side.data_inputs(readers[0])) == 1)

    def usual_permutation(self, rank: int) -> tuple[int, ...] | None:
        """How most tensors of this rank are laid out: those whose values agree."""
        seen = self._permutations["value", rank]
        return seen.most_common(1)[0][0] if seen.total() else None

    def _agreeing(self, head_r: Node, head_c: Node, lenient: bool) -> tuple[int, list[Link]]:
        """The larger number of inputs of two nodes, and those that are paired with each other."""
        ours, left = self._inputs_held(self.reference, head_r, lenient)
        theirs, right = self._inputs_held(self.candidate, head_c, lenient)
        return max(ours, theirs), [a for a in left if any(a.candidate == b.candidate for b in right)]

    def _inputs_held(self, side: Side, node: Node, lenient: bool) -> tuple[int, list[Link]]:
        """How many inputs a node has, and the pairs that `_source` finds for them."""
        key = (side is self.reference, id(node), lenient)
        if key not in self._held:
            sources = [self._source(side, i, lenient) for i in side.data_inputs(node)]
            found = [link for i in sources if (link := self.link_of(side, i))]
            self._held[key] = (len(sources if side is self.reference else set(sources)), found)
        return self._held[key]

    def _heads_of(self, rn: Node, cn: Node) -> tuple[Node, Node]:
        """Of two nodes, those whose inputs are to be compared."""
        if ops_agree(rn, cn) < SAME_RESULT:
            return rn, cn
        return self._head(self.reference, rn, cn.canonical), self._head(self.candidate, cn, rn.canonical)

    def _head(self, side: Side, node: Node, canonical: str) -> Node:
        """The node of op `canonical` that `node` only finishes (activation, bias, normalization); else `node`."""
        for at in self.chain(side, node):
            if at.canonical == canonical or {at.canonical, canonical} <= WEIGHT_OPS:
                return at
        return node

    def chain(self, side: Side, node: Node) -> list[Node]:
        """A node and those above it that it only finishes, as far as nothing between them is paired."""
        key = (side is self.reference, id(node))
        if key not in self._chains:
            found = [node]
            while len(found) < 3:
                inputs = side.data_inputs(found[-1])
                if found[-1].canonical not in FINISHING or len(inputs) != 1 or self.link_of(side, inputs[0]):
                    break
                above = side.producer.get(inputs[0])
                if above is None:
                    break
                found.append(above)
            self._chains[key] = found
        return self._chains[key]

    def _source(self, side: Side, name: str, lenient: bool) -> str:
        """The paired tensor that `name` holds, up through helpers of one input; itself where there is none."""
        key = (side is self.reference, name, lenient)
        if key not in self._sources:
            self._sources[key] = self._look_for_source(side, name, lenient)
        return self._sources[key]

    def _look_for_source(self, side: Side, name: str, lenient: bool) -> str:
        through = PASSIVE_OPS | {"Pad"} | (FINISHING if lenient else frozenset())
        at = name
        for _ in range(8):
            if link := self.seat(side, at):
                return link.reference if side is self.reference else link.candidate
            node = side.producer.get(at)
            if node is None or node.canonical not in through:
                break
            inputs = side.data_inputs(node)
            if len(inputs) != 1:
                break
            at = inputs[0]
        return name


def _cell_state(node: Node, output: str) -> str:
    """The output of the same LSTM from which `output` is computed; "" where there is none."""
    hidden = node.canonical == "LSTM" and len(node.outputs) > 2 and output in node.outputs[:2]
    return node.outputs[2] if hidden else ""
