"""How many weights two networks have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aligndbg.core.types import Graph, Node
from aligndbg.explain.common_weights import CommonWeights, common_weights, multiplied
from aligndbg.match.weights import WeightPrint, weight_print

Array = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(4)
SHAPES = [(16, 3, 3, 3), (32, 16, 3, 3), (24, 1, 3, 3), (32, 24, 1, 1), (64, 48), (10, 64), (40, 1)]
WEIGHTS = [RNG.standard_normal(shape).astype(np.float32) for shape in SHAPES]
OTHERS = [RNG.standard_normal(shape).astype(np.float32) for shape in SHAPES]


def prints(weights: list[Array]) -> list[WeightPrint]:
    return [weight_print(w) for w in weights]


def on_grid(w: Array) -> Array:
    """int8, one step for each output channel."""
    step = np.abs(w).max(axis=tuple(range(1, w.ndim)), keepdims=True) / np.float32(127)
    return np.asarray(np.round(w / step) * step, np.float32)


def last(w: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(w, 0, -1))


def scaled(w: Array) -> Array:
    """A normalization folded into the output channels."""
    factor = RNG.uniform(0.2, 3, (len(w), *[1] * (w.ndim - 1))) * RNG.choice([-1, 1])
    return np.asarray(w * (factor if w.size > len(w) else 1), np.float32)


@pytest.mark.parametrize(
    "change",
    [last, scaled, on_grid, lambda w: w.astype(np.float16).astype(np.float32), lambda w: last(on_grid(scaled(w)))],
)
def test_layouts_folded_scales_and_rounding_change_nothing(change: Callable[[Array], Array]) -> None:
    found = common_weights(prints(WEIGHTS), prints([change(w) for w in WEIGHTS]))
    assert (found.equal + found.near, found.other) == (7, 0)
    assert found.equal >= 6
    assert found.share == 1


@pytest.mark.parametrize("change", [np.asarray, on_grid])
def test_another_training_has_nothing_in_common(change: Callable[[Array], Array]) -> None:
    found = common_weights(prints(WEIGHTS), prints([change(w) for w in OTHERS]))
    assert found == CommonWeights(equal=0, near=0, other=7, sized=7)
    assert found.share == 0


def test_weights_that_differ_a_little_are_near() -> None:
    noisy = [(w + 0.04 * RNG.standard_normal(w.shape)).astype(np.float32) for w in WEIGHTS]
    found = common_weights(prints(WEIGHTS), prints(noisy))
    assert (found.near, found.other) == (7, 0)


def test_half_of_the_weights_trained_further() -> None:
    found = common_weights(prints(WEIGHTS), prints([*WEIGHTS[:4], *OTHERS[4:]]))
    assert (found.equal, found.other) == (4, 3)


def test_a_weight_may_be_made_of_several() -> None:
    """Query, key and value in one; gates in another order; both directions of a recurrent layer in one."""
    parts = [RNG.standard_normal((24, 32)).astype(np.float32) for _ in range(8)]
    joined = [
        np.concatenate(parts[:3]),
        np.concatenate(parts[3:7]),
        np.stack([np.concatenate(parts[4:]), np.concatenate(parts[:4])]),
    ]
    order = np.concatenate([parts[k] for k in (3, 5, 6, 4)])
    for one, other in (
        (joined, parts),
        (parts, joined),
        ([joined[1]], [order]),
        ([joined[2]], [joined[2][::-1].copy()]),
    ):
        found = common_weights(prints(one), prints(other))
        assert found.equal == len(one)


def test_what_tells_nothing_is_not_counted() -> None:
    """Few channels, channels that are all alike, and padding rows that both have."""
    flat = [
        np.ones((16, 9), np.float32),
        np.tile(np.arange(9, dtype=np.float32), (16, 1))[:, :4],
        np.ones((4, 4), np.float32),
    ]
    assert common_weights(prints(flat), prints(flat)).count == 0
    ours, theirs = (RNG.standard_normal((20, 16)).astype(np.float32) for _ in range(2))
    for table in (ours, theirs):
        table[3], table[7] = 0, -np.inf
    assert common_weights(prints([ours]), prints([theirs])).equal == 0
    assert common_weights(prints([ours]), prints([ours])).equal == 1


def test_masks_and_tables_that_are_added_are_no_weights() -> None:
    graph = Graph(
        nodes=(
            Node("Transpose", "t", ("w",), ("moved",)),
            Node("MatMul", "m", ("x", "moved"), ("y",)),
            Node("Add", "a", ("y", "mask"), ("z",)),
        ),
        constants=frozenset({"w", "moved", "mask"}),
    )
    assert multiplied(graph) == {"moved"}
