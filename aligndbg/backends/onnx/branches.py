"""If operators entered: the branch that a run takes becomes a part of the main graph, where its values can be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from aligndbg.backends.base import digest
from aligndbg.backends.onnx.file import OnnxModel
from aligndbg.backends.onnx.protos import all_names, attribute_graphs, defined_names, rename_reads
from aligndbg.core.types import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["PathOfRun", "conditions", "entered"]


BRANCHES = {True: "then_branch", False: "else_branch"}
SAID = 3  # branches that a note names
Run = Callable[[Iterable[str]], Mapping[str, Array]]  # the values of some tensors on the feeds in question


class PathOfRun:
    """Which branches of a model's Ifs the last run took. `whole` is the model with none of them entered."""

    def __init__(self, whole: OnnxModel) -> None:
        self.whole = whole
        self.by_feeds = bool(conditions(whole.proto.graph))
        self._inputs = {item.name for item in whole.proto.graph.input} - {*whole.stored()}
        self._fed: object = None
        self._taken: dict[str, bool] = {}  # by the tensor that decides it
        self._entered: list[str] = []

    def asks(self, feeds: Mapping[str, Array]) -> bool:
        """Whether it is to be seen which branches these feeds take, and can be."""
        if not self.by_feeds or not feeds.keys() >= self._inputs:
            return False
        arrays = {name: np.asarray(array) for name, array in feeds.items()}
        fed = {name: (array.dtype, array.shape, _digest(array)) for name, array in arrays.items()}
        same, self._fed = fed == self._fed, fed
        return not same

    def follow(self, run: Run, loads: Callable[[], bool]) -> Iterator[OnnxModel]:
        """The models to use one after the other until the branches taken are entered, and those that lie in them.

        Between two of them `run` and `loads` are of the one given last; where the runtime does not load what is made,
        it is the whole model again, and stays so.
        """
        if self._taken and _truths(run, self._taken) == self._taken:
            return
        yield self.whole
        self._taken, self._entered, model = {}, [], self.whole
        while asked := conditions(model.proto.graph):
            found = _truths(run, asked.values())
            taken = {node: found[name] for node, name in asked.items()}
            self._taken |= found
            self._entered += [f"the {BRANCHES[way].replace('_', ' ')} of {node!r}" for node, way in taken.items()]
            model = model.holding(entered(model.proto, taken))
            yield model
        if not loads():
            self.by_feeds, self._taken, self._entered = False, {}, []
            yield self.whole

    def notes(self) -> tuple[str, ...]:
        if not self._entered:
            return ()
        more = f" and {len(self._entered) - SAID} more" if len(self._entered) > SAID else ""
        said = ", ".join(self._entered[:SAID])
        return (f"of each If only the branch that this input takes is compared: {said}{more}",)


def _truths(run: Run, names: Iterable[str]) -> dict[str, bool]:
    values = run(dict.fromkeys(names))
    return {name: bool(value.reshape(-1)[0]) for name, value in values.items()}


def _digest(array: Array) -> object:
    return array.tolist() if array.dtype.kind in "OUS" else digest(array)


def conditions(graph: onnx.GraphProto) -> dict[str, str]:
    """For each If of the main graph, by its name, the tensor that decides which branch is taken."""
    return {node.name: node.input[0] for node in graph.node if node.op_type == "If" and not node.domain}


def entered(proto: onnx.ModelProto, taken: Mapping[str, bool]) -> onnx.ModelProto:
    """A copy in which each If of `taken`, by name, is replaced by what its then (True) or else branch holds.

    Values keep their names where no other value has the same; what a branch gives has the name of the If's output. The
    nodes added may be unsorted and unnamed.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph, whole = copy.graph, proto.graph
    del graph.node[:]
    for node in whole.node:
        if node.name in taken:
            others = (_names_inside(other) for other in whole.node if other.attribute and other.name != node.name)
            _add_branch(graph, node, taken[node.name], all_names(graph).union(defined_names(whole), *others), whole)
        else:
            graph.node.add().CopyFrom(node)
    return copy


def _branch(node: onnx.NodeProto, condition: bool) -> onnx.GraphProto:
    found: onnx.GraphProto = next(item.g for item in node.attribute if item.name == BRANCHES[condition])
    return found


def _add_branch(
    graph: onnx.GraphProto, node: onnx.NodeProto, condition: bool, outside: set[str], whole: onnx.GraphProto
) -> None:
    """Adds what the branch of an If of the graph `whole` holds; `outside` are the names of values outside the If."""
    import onnx

    body = onnx.GraphProto()
    body.CopyFrom(_branch(node, condition))
    names = _fresh_names(node, body, outside)
    for tensor in body.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for sparse in body.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    graph.initializer.extend(body.initializer)
    graph.sparse_initializer.extend(body.sparse_initializer)
    called = {n.name for n in (*graph.node, *whole.node)}
    rename_reads(body.node, names)
    for inner in body.node:
        for k, name in enumerate(inner.output):
            inner.output[k] = names.get(name, name)
        if inner.name:
            inner.name = _free(inner.name, called)
            called.add(inner.name)
    graph.node.extend(body.node)
    for own, given in zip(body.output, node.output, strict=False):
        source = names.get(own.name, own.name)
        if given and source != given:  # a weight, or a value that is given twice
            graph.node.append(onnx.helper.make_node("Identity", [source], [given]))


def _fresh_names(node: onnx.NodeProto, body: onnx.GraphProto, outside: set[str]) -> dict[str, str]:
    """The names that a body's values get in the main graph, where they are not their own."""
    made = {name for inner in body.node for name in inner.output if name}
    names: dict[str, str] = {}
    for own, given in zip(body.output, node.output, strict=False):
        if given and own.name in made:
            names.setdefault(own.name, given)
    taken = outside | _names_inside(node)
    for name in sorted(defined_names(body) - names.keys()):
        if name in outside:
            names[name] = _free(f"{node.name}/{name}", taken)
            taken.add(names[name])
    return names


def _names_inside(node: onnx.NodeProto) -> set[str]:
    return set[str]().union(*(all_names(body) for body in attribute_graphs(node)))


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
