"""What the tests of the feeds share: a signature, values, a plan's finding."""

from __future__ import annotations

from typing import Any

import numpy as np

from aligndbg.core.types import Graph, Quant, TensorInfo
from aligndbg.feeds.difference import logical_difference
from aligndbg.feeds.translate import FeedPlan

X = TensorInfo("x", (1, 3, 4, 5), "float32")
INT8 = Quant(np.array([1 / 128], np.float32), np.array([0]))
UINT8 = Quant(np.array([1 / 64], np.float32), np.array([64]))


def model(*infos: TensorInfo) -> Graph:
    return Graph(tensors={info.name: info for info in infos}, inputs=tuple(info.name for info in infos))


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng([3, *shape]).uniform(-0.9, 0.9, shape).astype(np.float32)


def agree(plan: FeedPlan, feeds: dict[str, np.ndarray], left: Graph, right: Graph) -> list[Any]:
    quants = ({name: graph.tensors[name].quant for name in graph.inputs} for graph in (left, right))
    return logical_difference(feeds, plan.feeds, plan.links, *quants)
