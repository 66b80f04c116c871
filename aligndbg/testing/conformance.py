"""What every backend promises, as tests.

    class TestMine(BackendConformance):
        @pytest.fixture
        def backend(self):
            return MyBackend("model.mine", {})

        @pytest.fixture
        def feeds(self):
            return {"x": np.ones((1, 3, 8, 8), np.float32)}

Give it a small model with branches, float tensors, a constant and at least one input. Tests of what the backend is
not capable of are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import pytest

from aligndbg.core.errors import FeedError, UnsupportedError, UsageError
from aligndbg.core.types import FLOAT_DTYPES, Array, Backend, Graph, ModelInfo, Node, Overrides

__all__ = ["BackendConformance"]


Feeds = Mapping[str, Array]
Item = TypeVar("Item")
SHAPE_READERS = {"Shape", "Size"}  # what they give does not depend on values


def run(backend: Backend, feeds: Feeds, fetch: Sequence[str], overrides: Overrides | None = None) -> dict[str, Array]:
    """Everything that one run yields. A tensor that comes twice fails."""
    values: dict[str, Array] = {}
    for name, value in backend.run(feeds, fetch, overrides):
        assert name not in values, f"{name!r} was yielded twice"
        values[name] = value
    return values


def changed(one: Mapping[str, Array], other: Mapping[str, Array]) -> list[str]:
    """Names whose values differ in any bit (so NaN equals itself), dtype or shape."""
    assert one.keys() == other.keys()
    return [name for name in one if not same(one[name], other[name])]


def same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def downstream(graph: Graph, *names: str) -> set[str]:
    """Every tensor that depends on one of them."""
    consumers, found, waiting = graph.consumers(), set[str](), [*names]
    while waiting:
        for node in consumers.get(waiting.pop(), ()):
            fresh = {output for output in node.outputs if output} - found
            found |= fresh
            waiting.extend(fresh)
    return found


def variations(graph: Graph, name: str, value: Array) -> Iterator[Array]:
    """Other values for a float or quantized tensor, one of which an activation or a clamp should let through."""
    if value.dtype.name in FLOAT_DTYPES:
        for other in (value + 1, 1 - value, value * 0.5 + 0.25, value * 0):
            yield other.astype(value.dtype)
    elif graph.tensors[name].quant is not None and value.dtype.kind in "iu":
        yield ~value
        yield np.roll(value, 1)


class BackendConformance:
    """Subclass it, and give the fixtures `backend` (open) and `feeds` (all inputs)."""

    max_overrides = 24  # tensors that are overridden one at a time
    max_constants = 8
    lazy = True  # a run computes what it is asked for and no more; False where the whole model runs

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError("give a fixture `backend`")

    @pytest.fixture
    def feeds(self) -> Feeds:
        raise NotImplementedError("give a fixture `feeds`")

    @pytest.fixture
    def disposable_backend(self, backend: Backend) -> Backend:
        """A backend that a test may close. Override it where `backend` is shared by several tests."""
        return backend

    @pytest.fixture
    def runnable(self, backend: Backend) -> Backend:
        return self._need(backend, "run")

    @pytest.fixture
    def overridable(self, backend: Backend) -> Backend:
        return self._need(backend, "run", "override")

    @staticmethod
    def _need(backend: Backend, *capabilities: str) -> Backend:
        lacking = sorted({*capabilities} - backend.capabilities)
        if lacking:
            pytest.skip(f"the backend is not capable of: {', '.join(lacking)}")
        return backend

    @staticmethod
    def _some(names: Sequence[Item], count: int) -> list[Item]:
        """At most `count` of them, spread evenly from the first to the last."""
        places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
        return [names[place] for place in dict.fromkeys(places.tolist())]

    # ---- what it says of itself

    def test_is_a_backend(self, backend: Backend) -> None:
        assert isinstance(backend, Backend)
        assert isinstance(backend.info, ModelInfo)
        assert backend.info.path
        assert backend.info.backend
        assert backend.capabilities <= {"graph", "run", "override"}

    def test_graph_is_sane(self, backend: Backend) -> None:
        self._need(backend, "graph")
        graph = backend.graph()
        names = [node.name for node in graph.nodes]
        assert len(set(names)) == len(names), "node names repeat"
        produced = [output for node in graph.nodes for output in node.outputs if output]
        assert len(set(produced)) == len(produced), "two nodes write one tensor"
        known = {"", *graph.inputs, *graph.constants}
        for node in graph.nodes:
            assert set(node.inputs) <= known, f"{node.name!r} reads what is not known before it: not in execution order"
            assert node.op_type
            known |= set(node.outputs)
        assert graph.outputs
        assert set(graph.outputs) <= known | set(graph.untapped)
        assert not set(graph.inputs) & (set(graph.constants) | set(produced))
        for name in chain(graph.inputs, graph.outputs, graph.tappable()):
            assert name in graph.tensors, f"no TensorInfo of {name!r}"
            assert graph.tensors[name].name == name

    def test_graph_does_not_change_when_it_runs(self, runnable: Backend, feeds: Feeds) -> None:
        before = runnable.graph()
        run(runnable, feeds, before.tappable())
        after = runnable.graph()
        assert [node.name for node in after.nodes] == [node.name for node in before.nodes]
        assert (after.inputs, after.outputs, after.constants) == (before.inputs, before.outputs, before.constants)

    def test_without_run_says_so(self, backend: Backend, feeds: Feeds) -> None:
        if "run" in backend.capabilities:
            pytest.skip("the backend runs")
        with pytest.raises(UnsupportedError):
            run(backend, feeds, [])

    # ---- runs

    def test_every_tensor_comes_once_in_execution_order(self, runnable: Backend, feeds: Feeds) -> None:
        names = runnable.graph().tappable()
        assert names
        assert tuple(run(runnable, feeds, (*names[::-1], *names))) == names

    def test_values_fit_their_description(self, runnable: Backend, feeds: Feeds) -> None:
        graph = runnable.graph()
        for name, value in run(runnable, feeds, graph.tappable()).items():
            info = graph.tensors[name]
            assert value.dtype.name == (info.dtype or value.dtype.name), name
            if info.static_shape is not None:
                assert value.shape == info.static_shape, name

    def test_two_runs_are_equal(self, runnable: Backend, feeds: Feeds) -> None:
        names = runnable.graph().tappable()
        assert not changed(run(runnable, feeds, names), run(runnable, feeds, names))

    def test_taps_do_not_change_the_outputs(self, runnable: Backend, feeds: Feeds) -> None:
        graph = runnable.graph()
        outputs = [name for name in graph.outputs if name not in graph.untapped]
        plain = run(runnable, feeds, outputs)
        tapped = run(runnable, feeds, [*graph.tappable(), *outputs])
        assert not changed(plain, {name: tapped[name] for name in plain})

    def test_one_tensor_alone_is_the_same(self, runnable: Backend, feeds: Feeds) -> None:
        names = runnable.graph().tappable()
        everything = run(runnable, feeds, names)
        for name in self._some(names, 4):
            assert not changed(run(runnable, feeds, [name]), {name: everything[name]})

    def test_inputs_can_be_fetched(self, runnable: Backend, feeds: Feeds) -> None:
        inputs = runnable.graph().inputs
        assert not changed(run(runnable, feeds, inputs), {name: feeds[name] for name in inputs})

    def test_constants_can_be_fetched_without_feeds(self, runnable: Backend, feeds: Feeds) -> None:
        graph = runnable.graph()
        names = self._some(sorted(graph.constants - graph.untapped.keys()), self.max_constants)
        if not names:
            pytest.skip("the model has no constants")
        alone = run(runnable, {}, names)
        assert set(alone) == set(names)
        assert not changed(alone, run(runnable, feeds, list(alone)))

    def test_feeds_are_left_as_they_are(self, runnable: Backend, feeds: Feeds) -> None:
        before = {name: value.copy() for name, value in feeds.items()}
        run(runnable, feeds, runnable.graph().tappable())
        assert not changed(before, dict(feeds))

    def test_arrays_outlive_the_next_run(self, runnable: Backend, feeds: Feeds) -> None:
        graph = runnable.graph()
        first = run(runnable, feeds, [*graph.inputs, *graph.tappable()])
        copies = {name: value.copy() for name, value in first.items()}
        others = {name: np.flip(value).copy() for name, value in feeds.items()}
        run(runnable, others, graph.tappable())
        assert not changed(first, copies)

    def test_arrays_belong_to_the_caller(self, runnable: Backend, feeds: Feeds) -> None:
        names = runnable.graph().tappable()
        first = run(runnable, feeds, names)
        copies = {name: value.copy() for name, value in first.items()}
        for value in first.values():
            value[...] = np.zeros((), value.dtype)
        assert not changed(run(runnable, feeds, names), copies)

    def test_arrays_outlive_close(self, disposable_backend: Backend, feeds: Feeds) -> None:
        backend = self._need(disposable_backend, "run")
        values = run(backend, feeds, backend.graph().tappable())
        copies = {name: value.copy() for name, value in values.items()}
        backend.close()
        backend.close()
        assert not changed(values, copies)

    def test_a_run_can_be_left_early(self, runnable: Backend, feeds: Feeds) -> None:
        names = runnable.graph().tappable()
        whole = run(runnable, feeds, names)
        values = runnable.run(feeds, names)
        name, value = next(values)
        assert same(value, whole[name])
        del values
        assert not changed(run(runnable, feeds, names), whole)

    # ---- what it refuses

    def test_unknown_fetch(self, runnable: Backend, feeds: Feeds) -> None:
        with pytest.raises(UsageError, match="no_such_tensor"):
            run(runnable, feeds, ["no_such_tensor"])

    def test_untapped_fetch(self, runnable: Backend, feeds: Feeds) -> None:
        untapped = list(runnable.graph().untapped)
        if not untapped:
            pytest.skip("every tensor of the model can be tapped")
        for name in self._some(untapped, 4):
            with pytest.raises(UnsupportedError):
                run(runnable, feeds, [name])

    def test_missing_feed(self, runnable: Backend, feeds: Feeds) -> None:
        graph = runnable.graph()
        for name in graph.inputs:
            with pytest.raises(FeedError, match=name):
                run(runnable, {key: value for key, value in feeds.items() if key != name}, graph.tappable())

    def test_unknown_feed(self, runnable: Backend, feeds: Feeds) -> None:
        with pytest.raises(FeedError, match="no_such_input"):
            run(runnable, {**feeds, "no_such_input": np.zeros(1, np.float32)}, runnable.graph().tappable())

    @pytest.mark.parametrize("wrong", ["shape", "dtype"])
    def test_misshapen_feed(self, runnable: Backend, feeds: Feeds, wrong: str) -> None:
        graph = runnable.graph()
        for name in graph.inputs:
            with pytest.raises(FeedError, match=name):
                run(runnable, {**feeds, name: spoilt(feeds[name], wrong)}, graph.tappable())

    def test_a_refused_run_leaves_it_usable(self, runnable: Backend, feeds: Feeds) -> None:
        names = runnable.graph().tappable()
        whole = run(runnable, feeds, names)
        with pytest.raises(UsageError):
            run(runnable, feeds, ["no_such_tensor"])
        assert not changed(run(runnable, feeds, names), whole)

    # ---- overrides

    def test_unknown_override(self, overridable: Backend, feeds: Feeds) -> None:
        with pytest.raises(UsageError, match="no_such_tensor"):
            run(overridable, feeds, overridable.graph().outputs, {"no_such_tensor": np.zeros(1, np.float32)})

    @pytest.mark.parametrize("wrong", ["shape", "dtype"])
    def test_misshapen_override(self, overridable: Backend, feeds: Feeds, wrong: str) -> None:
        graph = overridable.graph()
        values = run(overridable, feeds, graph.tappable())
        for name in self._some(self._inner(graph), 4):
            with pytest.raises(FeedError):
                run(overridable, feeds, graph.tappable(), {name: spoilt(values[name], wrong)})

    def test_own_values_one_at_a_time_change_nothing(self, overridable: Backend, feeds: Feeds) -> None:
        graph = overridable.graph()
        values = run(overridable, feeds, graph.tappable())
        for name in self._some(graph.tappable(), self.max_overrides):
            again = run(overridable, feeds, graph.tappable(), {name: values[name]})
            assert not changed(values, again), f"after overriding {name!r}"

    def test_own_values_all_at_once_change_nothing(self, overridable: Backend, feeds: Feeds) -> None:
        graph = overridable.graph()
        values = run(overridable, feeds, graph.tappable())
        assert not changed(values, run(overridable, feeds, graph.tappable(), values))

    def test_consumers_and_nothing_else_see_other_values(self, overridable: Backend, feeds: Feeds) -> None:
        graph = overridable.graph()
        names = [*graph.inputs, *graph.tappable()]
        values = run(overridable, feeds, names)
        tried = 0
        for name in self._some([*graph.inputs, *self._inner(graph)], self.max_overrides):
            below, others = downstream(graph, name), list(variations(graph, name, values[name]))
            seen = False
            for other in others:
                moved = set(changed(values, run(overridable, feeds, names, {name: other})))
                assert moved <= below, f"overriding {name!r} changed what does not depend on it"
                seen = seen or bool(moved)
            assert seen or not others or not below, f"no consumer saw the override of {name!r}"
            tried += bool(others)
        assert tried, "the model has no float or quantized tensor to override"

    def test_all_overridden_at_once_are_all_seen(self, overridable: Backend, feeds: Feeds) -> None:
        """With every tensor overridden each node computes from the overrides alone, whatever the feeds are."""
        graph = overridable.graph()
        names = graph.tappable()
        values = run(overridable, feeds, names)
        pins = {**values, **{name: feeds[name] for name in graph.inputs}}
        others = {name: np.flip(value).copy() for name, value in feeds.items()}
        assert not changed(values, run(overridable, others, names, pins))

    def test_one_node_alone_sees_an_override_of_what_it_reads(self, overridable: Backend, feeds: Feeds) -> None:
        graph = overridable.graph()
        names = [*graph.inputs, *graph.tappable()]
        values = run(overridable, feeds, names)
        tried = 0
        for name, node in self._some(self._edges(graph), self.max_overrides):
            edge = (name, node.name)
            assert not changed(values, run(overridable, feeds, names, {edge: values[name]})), f"own values at {edge}"
            outputs = [output for output in node.outputs if output]
            below, others = {*outputs, *downstream(graph, *outputs)}, list(variations(graph, name, values[name]))
            moved = [set(changed(values, run(overridable, feeds, names, {edge: other}))) for other in others]
            assert all(m <= below for m in moved), f"overriding {edge} changed what does not depend on it"
            assert any(m & set(outputs) for m in moved) or not others, f"the override of {edge} was not seen"
            tried += bool(others)
        assert tried, "no float or quantized tensor has two readers: give the suite a model with a branch"

    def test_an_edge_wins_over_its_tensor(self, overridable: Backend, feeds: Feeds) -> None:
        graph = overridable.graph()
        names = graph.tappable()
        values = run(overridable, feeds, [*graph.inputs, *names])
        for name, node in self._some(self._edges(graph), 4):
            for other in variations(graph, name, values[name]):
                every = {(name, reader.name): values[name] for reader in graph.consumers()[name]}
                again = run(overridable, feeds, names, {name: other, **every})
                assert not changed({n: values[n] for n in names}, again), f"with {name!r} and {node.name!r} overridden"

    def test_unknown_edges(self, overridable: Backend, feeds: Feeds) -> None:
        graph = overridable.graph()
        name, _ = self._edges(graph)[0]
        value = run(overridable, feeds, [name])[name]
        stranger = next(n.name for n in graph.nodes if name not in n.inputs)
        for reader in ("no_such_node", stranger):
            with pytest.raises(FeedError, match=reader):
                run(overridable, feeds, graph.outputs, {(name, reader): value})

    def test_what_nobody_reads_need_not_be_fed(self, overridable: Backend, feeds: Feeds) -> None:
        """A run computes what is fetched from the nearest overrides, and reads no feed above them."""
        if not self.lazy:
            pytest.skip("the backend runs the whole model")
        graph = overridable.graph()
        values = run(overridable, feeds, [*graph.inputs, *graph.tappable()])
        nodes = [n for n in graph.nodes if any(i in values for i in n.inputs) and set(n.outputs) & set(values)]
        for node in self._some(nodes, self.max_overrides):
            given = {name: values[name] for name in node.inputs if name in values}
            wanted = [output for output in node.outputs if output in values]
            rest = {n: v for n, v in feeds.items() if any(n in graph.node(m).inputs for m in self._hidden(graph, node))}
            assert not changed({n: values[n] for n in wanted}, run(overridable, rest, wanted, given)), node.name

    @staticmethod
    def _hidden(graph: Graph, node: Node) -> list[str]:
        """The nodes before `node` whose values cannot be overridden."""
        producers, found, waiting = graph.producers(), dict[str, None](), [*node.inputs]
        while waiting:
            name = waiting.pop()
            made = producers.get(name)
            if made is not None and name in graph.untapped and made.name not in found:
                found[made.name] = None
                waiting += made.inputs
        return list(found)

    @staticmethod
    def _edges(graph: Graph) -> list[tuple[str, Node]]:
        """What nodes read for its values, of tensors with other readers."""
        consumers = graph.consumers()
        return [
            (name, node)
            for name in [*graph.inputs, *graph.tappable()]
            for node in consumers.get(name, ())
            if len(consumers[name]) > 1 and node.canonical not in SHAPE_READERS
        ]

    @staticmethod
    def _inner(graph: Graph) -> list[str]:
        """Tensors that some node reads for its values."""
        consumers = graph.consumers()
        readers = {name: [node.canonical for node in consumers.get(name, ())] for name in graph.tappable()}
        return [name for name, ops in readers.items() if not set(ops) <= SHAPE_READERS]


def spoilt(value: Array, wrong: str) -> Any:
    """The array with an axis or a dtype that it should not have."""
    if wrong == "shape":
        return value[np.newaxis]
    return value.astype(np.int64 if value.dtype.name in FLOAT_DTYPES else np.float64)
