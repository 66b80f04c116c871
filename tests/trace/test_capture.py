"""Capture: what a trace holds, in which order, within which memory; replaying a recorded one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.backends.open import open_model
from aligndbg.core.errors import FeedError, UnsupportedError, UsageError
from aligndbg.core.types import Backend
from aligndbg.trace.capture import capture
from aligndbg.trace.store import Store
from aligndbg.trace.writer import write_trace

Array = np.ndarray[Any, np.dtype[Any]]


def chain(**options: Any) -> MemoryBackend:
    """x -> double -> (double, x) sum; the outputs are the sum, the input and a constant."""
    return MemoryBackend(
        inputs={"x": ("n",)},
        nodes=[
            MemoryNode("Mul", np.multiply, ("x", "two"), ("double",)),
            MemoryNode("Add", np.add, ("double", "x"), ("sum",)),
        ],
        outputs=("sum", "x", "two"),
        constants={"two": np.float32(2)},
        **options,
    )


X = {"x": np.arange(4, dtype=np.float32)}


def test_a_trace_has_feeds_then_values_in_execution_order() -> None:
    seen: list[tuple[str, list[float]]] = []
    trace = capture(chain(), X, observe=lambda name, value: seen.append((name, value.tolist())))
    assert trace.order == ("x", "two", "double", "sum") == tuple(trace.values)
    assert trace.values["sum"].tolist() == [0, 3, 6, 9]
    assert seen == [(name, trace.values[name].tolist()) for name in trace.order]
    assert trace.feeds is not None
    assert list(trace.feeds) == ["x"]
    assert (trace.missing, trace.info.backend) == ({}, "memory")
    assert len(trace.graph.nodes) == 2
    assert trace.graph.tensors["sum"].dtype == "float32"  # learnt by the run


def test_what_cannot_be_had_is_missing_with_the_reason() -> None:
    trace = capture(chain(untapped={"double": "inside a body"}), X)
    assert trace.order == ("x", "two", "sum")
    assert trace.missing == {"double": "inside a body"}


def test_a_backend_that_gives_less_than_asked() -> None:
    class Forgetful(MemoryBackend):
        def run(
            self, feeds: Mapping[str, Array], fetch: Sequence[str], overrides: Mapping[str, Array] | None = None
        ) -> Iterator[tuple[str, Array]]:
            return ((name, value) for name, value in super().run(feeds, fetch, overrides) if name != "double")

    model = Forgetful(inputs={"x": (4,)}, nodes=[MemoryNode("Neg", np.negative, ("x",), ("double",))], outputs=["x"])
    assert capture(model, X).missing == {"double": "the run gave no value"}


@pytest.mark.parametrize("fetch", [("sum",), ("sum", "x"), ("sum", "sum", "double")])
def test_fetch_narrows(fetch: tuple[str, ...]) -> None:
    trace = capture(chain(), X, fetch=fetch)
    assert set(trace.order) == set(fetch)
    assert trace.order == tuple(name for name in ("x", "double", "sum") if name in fetch)
    assert trace.missing == {}


def test_what_was_asked_for_and_cannot_be_had_is_not_hidden() -> None:
    with pytest.raises(UnsupportedError, match="double"):
        capture(chain(untapped={"double": "inside a body"}), X, fetch=["double"])
    with pytest.raises(UsageError, match="no_such"):
        capture(chain(), X, fetch=["no_such"])


def test_feeds_are_needed_and_checked() -> None:
    with pytest.raises(FeedError, match="needs feeds"):
        capture(chain(), None)
    with pytest.raises(FeedError, match="int64"):
        capture(chain(), {"x": np.arange(4)})


def test_a_store_and_a_limit() -> None:
    store = Store()
    trace = capture(chain(), X, store=store)
    assert trace.values is store
    limited = capture(chain(), X, max_memory=20)
    assert isinstance(limited.values, Store)
    assert limited.values.resident_bytes <= 20 < limited.values.spilled_bytes + 16
    assert all(limited.values[name].tolist() == trace.values[name].tolist() for name in trace.order)


def test_later_changes_of_a_feed_do_not_reach_the_trace() -> None:
    feed = np.arange(4, dtype=np.float32)
    trace = capture(chain(), {"x": feed})
    feed[:] = 99
    assert trace.feeds is not None
    assert trace.values["x"].tolist() == trace.feeds["x"].tolist() == [0, 1, 2, 3]


# ---- recorded


@pytest.fixture(params=[".npz", ".safetensors"])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    path = tmp_path / f"t{request.param}"
    write_trace(path, capture(chain(untapped={"double": "inside a body"}), X))
    return open_model(path)


def test_a_recorded_trace_is_replayed(recorded: Backend) -> None:
    seen: list[str] = []
    trace = capture(recorded, None, observe=lambda name, _: seen.append(name))
    assert tuple(seen) == trace.order == ("x", "two", "sum")
    assert trace.missing == {"double": "inside a body"}
    assert trace.feeds is not None
    assert trace.feeds["x"].tolist() == [0, 1, 2, 3]
    assert capture(recorded, X, fetch=["sum"]).order == ("sum",)
    with pytest.raises(UsageError, match="no value of 'double'") as caught:
        capture(recorded, None, fetch=["double"])
    assert caught.value.hint == "inside a body"


def test_overrides_reach_consumers_and_are_refused_by_a_recorded_trace(recorded: Backend) -> None:
    pins = {"double": np.zeros(4, np.float32)}
    trace = capture(chain(), X, overrides=pins)
    assert trace.values["sum"].tolist() == [0, 1, 2, 3]
    assert trace.values["double"].tolist() == [0, 2, 4, 6]
    with pytest.raises(UnsupportedError, match="overrides"):
        capture(recorded, None, overrides=pins)


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({"x": np.zeros(4, np.float32)}, "is not the one that was recorded"),
        ({"x": np.arange(4)}, "int64"),
        ({"x": np.arange(5, dtype=np.float32)}, r"\[5\] given"),
        ({"y": np.zeros(1)}, "no feed 'y'"),
    ],
)
def test_other_feeds_than_the_recorded_conflict(recorded: Backend, feeds: dict[str, Array], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        capture(recorded, feeds)


def test_a_trace_without_feeds_takes_those_given(tmp_path: Path) -> None:
    np.savez(tmp_path / "dump.npz", y=np.ones(2))
    backend = open_model(tmp_path / "dump.npz")
    assert capture(backend, None).feeds is None
    trace = capture(backend, X)
    assert trace.feeds is not None
    assert trace.feeds["x"].tolist() == X["x"].tolist()
    assert trace.order == ("y",)
