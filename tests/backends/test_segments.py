"""Cutting a graph: every node in a segment, and each takes only what an earlier one leaves."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aligndbg.backends.segments import cut


@given(st.integers(0, 10_000), st.integers(1, 60))
def test_a_segment_takes_only_what_an_earlier_one_leaves(seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    names, constants = ["x", "k"], {"k"}
    reads, makes = [], []
    for i in range(int(rng.integers(1, 30))):
        reads.append([str(n) for n in rng.choice(names, size=int(rng.integers(1, 3)))])
        makes.append([f"v{i}"])
        if set(reads[-1]) <= constants:
            constants.add(f"v{i}")
        names.append(f"v{i}")
    stuck = {name for name in names[2:] if rng.random() < 0.1}
    sizes = {name: int(rng.integers(1, 20)) for name in names}
    segments = cut(reads, makes, sizes, limit, constants, lambda name: name not in stuck)
    known, done = set[str](), set[int]()
    for segment in segments:
        inside = {name for i in segment.nodes for name in makes[i]}
        outside = {name for i in segment.nodes for name in reads[i]} - inside - {"x", "k"}
        assert set(segment.takes) == outside
        assert outside <= known
        assert not outside & (stuck | constants)
        assert set(segment.leaves) <= inside
        known |= set(segment.leaves)
        done |= set(segment.nodes)
    assert done == set(range(len(reads)))


def test_a_segment_holds_what_its_limit_allows_and_at_least_one_node() -> None:
    reads, makes = [["x"], ["a"], ["b"], ["c", "w"], ["d", "w"]], [["a"], ["b"], ["c"], ["d"], ["e"]]
    sizes = {"x": 1, "a": 4, "b": 5, "c": 50, "d": 1, "e": 1, "w": 6}
    segments = cut(reads, makes, sizes, 10, (), lambda _: True)
    assert [s.nodes for s in segments] == [(0, 1), (2,), (3, 4)]
    assert [s.takes for s in segments] == [(), ("b",), ("c",)]


def test_an_empty_graph_is_one_segment() -> None:
    nothing: list[list[str]] = []
    (segment,) = cut(nothing, nothing, {}, 10, (), lambda _: True)
    assert segment.nodes == ()
