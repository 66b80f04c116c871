"""A run whose values are compared while it goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import pytest

from aligndbg.core.arrays import Lazy
from aligndbg.core.clock import Clock
from aligndbg.core.types import Array, Graph, Layout, LayoutKind, ModelInfo, Node, Pair, RunAgain, TensorInfo, Trace
from aligndbg.locate.replay import Begin, Replay, Run
from aligndbg.measure.judge import Judge
from aligndbg.measure.results import Metrics
from aligndbg.measure.tolerance import ToleranceRules

NAMES = [f"t{k}" for k in range(6)]
WRONG = "t3"


def trace(values: dict[str, Array]) -> Trace:
    nodes = tuple(Node(name, "Relu", (f"t{k - 1}",) if k else (), (name,)) for k, name in enumerate(NAMES))
    tensors = {name: TensorInfo(name, (50,), "float32") for name in NAMES}
    return Trace(ModelInfo("m", "memory", "", {}), Graph(nodes=nodes, tensors=tensors), values, {}, tuple(NAMES), {})


@pytest.fixture
def values() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=50).astype(np.float32) for name in NAMES}


@pytest.fixture
def pairs() -> list[Pair]:
    layout = Layout(LayoutKind.IDENTITY, (50,), (0,), (50,), (50,))
    return [Pair(name, name, layout, "value", 1.0) for name in NAMES]


class Watched(Judge):
    """Tells when a pair was compared."""

    def isolated(self, pair: Pair, trace: Trace, run_again: RunAgain) -> Metrics:
        try:
            return super().isolated(pair, trace, run_again)
        finally:
            self.done[pair.reference].set()

    done: dict[str, threading.Event]


@pytest.mark.parametrize(("room", "during"), [(None, True), (400, True), (399, False)])
def test_a_pair_is_compared_before_the_next_value_comes_unless_it_is_too_large(
    values: dict[str, Array], pairs: list[Pair], room: int | None, during: bool
) -> None:
    judge = Watched(trace(values), trace(dict(values)), ToleranceRules(), memory_budget=room)
    judge.done = {name: threading.Event() for name in NAMES}
    waited: list[bool] = []

    def rerun(overrides: Lazy, weights: Mapping[str, Array], begin: Begin) -> Replay:
        made: dict[str, Array] = {}
        again = trace(made)
        arrived = begin(again, {})
        for name in NAMES:
            made[name] = values[name] * (1.5 if name == WRONG else 1)
            arrived(name)
            waited.append(judge.done[name].wait(5 if during else 0.05))
        return Replay(again, {})

    _, own = Run(judge, pairs, RunAgain.CANDIDATE).compared(rerun, Lazy({}), {}, Clock(None).comparing)
    assert waited == [during] * len(NAMES)
    assert [r for r, _ in own] == NAMES
    assert {r for (r, _), m in own.items() if m.max_abs} == {WRONG}


def test_after_a_refusal_only_the_last_attempt_counts(values: dict[str, Array], pairs: list[Pair]) -> None:
    judge = Judge(trace(values), trace(dict(values)), ToleranceRules())

    def rerun(overrides: Lazy, weights: Mapping[str, Array], begin: Begin) -> Replay:
        attempts: list[tuple[Mapping[str, str], float]] = [({}, 2.0), ({"t4": "refused"}, 1.0)]
        for refused, factor in attempts:
            made: dict[str, Array] = {}
            again = trace(made)
            arrived = begin(again, refused)
            for name in NAMES[:4]:
                made[name] = values[name] * np.float32(factor)
                arrived(name)
        return Replay(again, {}, refused)

    _, own = Run(judge, pairs, RunAgain.CANDIDATE).compared(rerun, Lazy({}), {}, Clock(None).comparing)
    assert [r for r, _ in own] == NAMES[:4], "what did not come is not compared"
    assert not any(m.max_abs for m in own.values())
