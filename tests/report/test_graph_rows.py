"""Rows of both graphs: edges go down, and paired nodes meet where the order allows it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aligndbg.report.graph_rows import rows

CHAIN = [[], [0], [1], [2]]


def test_equal_chains_meet_row_by_row() -> None:
    assert rows(CHAIN, CHAIN, {k: k for k in range(4)}) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_a_node_of_one_side_leaves_room_on_the_other() -> None:
    left, right = rows(CHAIN, [[], [0]], {0: 0, 1: 3})
    assert left == [0, 1, 2, 3]
    assert right == [0, 3]


def test_another_topological_order_is_brought_near() -> None:
    """Two branches that the other side runs in the other order."""
    left, right = rows([[], [0], [0], [1, 2]], [[], [0], [0], [2, 1]], {0: 0, 1: 2, 2: 1, 3: 3})
    assert [right[k] for k in (0, 2, 1, 3)] == left


def test_what_cannot_meet_is_still_placed() -> None:
    """Crossed pairs: no order of the right side agrees with the left's."""
    left, right = rows([[], [0]], [[], [0]], {0: 1, 1: 0})
    assert left[0] < left[1]
    assert right[0] < right[1]


def test_nothing_is_paired_or_there() -> None:
    assert rows([], [], {}) == ([], [])
    assert rows(CHAIN, [], {}) == ([0, 1, 2, 3], [])
    assert rows([[]], [[], []], {}) == ([0], [0, 1])


@given(st.data())
def test_every_edge_goes_down_and_no_row_is_taken_twice(data: st.DataObject) -> None:
    def graph() -> list[list[int]]:
        size = data.draw(st.integers(0, 12))
        return [data.draw(st.lists(st.integers(0, k - 1), max_size=3) if k else st.just([])) for k in range(size)]

    left, right = graph(), graph()
    count = min(len(left), len(right))
    chosen = data.draw(st.permutations(range(len(left))))[:count]
    pairs = dict(zip(data.draw(st.permutations(range(len(right))))[:count], chosen, strict=True))
    for sources, placed in zip((left, right), rows(left, right, pairs), strict=True):
        assert len(set(placed)) == len(sources)
        assert all(placed[s] < placed[k] for k, read in enumerate(sources) for s in read)
