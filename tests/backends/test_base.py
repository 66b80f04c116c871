"""What every backend inherits: options in words, refused names and arrays, and what is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aligndbg.backends.base import (
    BaseBackend,
    Kept,
    check_names,
    check_options,
    checked_feeds,
    choice,
    count,
    digest,
    yes,
)
from aligndbg.backends.open import open_model
from aligndbg.core.errors import AligndbgError, FeedError, UnsupportedError, UsageError
from aligndbg.core.types import Graph, ModelInfo, TensorInfo

GRAPH = Graph(
    tensors={"x": TensorInfo("x", ("n", 2), "float32"), "text": TensorInfo("text", (1,), "string")},
    inputs=("x", "text"),
    constants=frozenset({"w"}),
    untapped={"inner": "inside a body"},
)
FEEDS = {"x": np.zeros((3, 2), np.float32), "text": np.array(["a"])}


class Least(BaseBackend):
    """What a user-written backend must have."""

    capabilities = frozenset({"graph"})
    released = 0

    def __init__(self) -> None:
        self.info = ModelInfo("here", "least")

    def release(self) -> None:
        self.released += 1


def test_the_defaults_make_a_backend() -> None:
    least = Least()
    assert open_model(least) is least
    least.bound(10 << 20)
    least.bound(11 << 20)
    least.bound((11 << 20) + 1)
    assert (least.pid, least.released) == (None, 3)  # each is another share, and drops what was cut for the last
    least.bound((11 << 20) + 1)
    assert least.released == 3
    least.close()
    assert least.released == 4


def test_what_lacks_members_of_a_backend_is_told_which() -> None:
    class Old:
        info, capabilities = ModelInfo("here", "old"), frozenset[str]()

        def graph(self) -> None: ...
        def run(self) -> None: ...
        def close(self) -> None: ...

    with pytest.raises(UsageError, match="lacks pid, release, bound") as caught:
        open_model(Old())
    assert "BaseBackend" in caught.value.hint


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda: check_options("some", {"threads": ""}, {"thread": "1"}), "the some backend has no option 'thread'"),
        (lambda: choice({"level": "most"}, "level", "all", ("all", "none")), "level='most' is not known"),
        (lambda: count({"threads": "²"}, "threads", 1), "threads='²' is not a number"),
        (lambda: count({"threads": "0"}, "threads", 1, least=1), "not a number of 1 or more"),
        (lambda: yes({"trust": "true"}, "trust"), "trust='true' is not known"),
    ],
)
def test_options_that_are_refused(read: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read()
    assert caught.value.hint


def test_options() -> None:
    assert (choice({}, "level", "all", ("all",)), count({}, "threads", 3), yes({"trust": "yes"}, "trust")) == (
        "all",
        3,
        True,
    )


@pytest.mark.parametrize(
    ("fetch", "overrides", "kind", "says"),
    [
        (["z"], {}, UsageError, "cannot fetch 'z'"),
        ([], {"z": 0}, FeedError, "cannot override 'z'"),
        (["inner"], {}, UnsupportedError, "inner: it cannot be fetched or overridden: inside a body"),
        (["x"], {"inner": 0}, UnsupportedError, "inner: it cannot"),
    ],
)
def test_names_that_are_refused(fetch: Any, overrides: Any, kind: type[AligndbgError], says: str) -> None:
    with pytest.raises(kind, match=says):
        check_names(GRAPH, {"x", "w"}, fetch, overrides, "m")


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({"x": FEEDS["x"]}, r"m: input 'text' is missing: expected string \[1\]"),
        (FEEDS | {"w": FEEDS["x"]}, "no input is called 'w' .it is a constant"),
        (FEEDS | {"x": np.zeros((3, 3), np.float32)}, r"expected float32 \[n, 2\], got float32 \[3, 3\]"),
        (FEEDS | {"x": np.zeros(2, np.float32)}, r"got float32 \[2\]"),
        (FEEDS | {"x": np.zeros((3, 2))}, "got float64"),
    ],
)
def test_feeds_that_are_refused(feeds: Any, says: str) -> None:
    with pytest.raises(FeedError, match=says):
        checked_feeds(GRAPH, feeds, "m")


def test_only_what_is_needed_must_be_fed() -> None:
    assert checked_feeds(GRAPH, FEEDS, "m").keys() == {"x", "text"}
    assert checked_feeds(GRAPH, {}, "m", needed=()) == {}


def test_the_oldest_goes_before_a_new_one_is_made() -> None:
    kept, seen = Kept[str](2), []
    for key in "abacb":
        kept.get_or_make(key, lambda key=key: seen.append((key, sorted(kept))) or key)  # type: ignore[misc,func-returns-value]
    assert seen == [("a", []), ("b", ["a"]), ("c", ["a"]), ("b", ["c"])]


def test_digests_tell_values_apart() -> None:
    one = np.arange(6.0).reshape(2, 3)
    assert digest(one) == digest(np.asfortranarray(one)) != digest(one + 1)
