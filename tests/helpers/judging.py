"""What the tests of judges and verdicts share: small traces of given values, pairs, and arrays at a given error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aligndbg.core.types import Graph, Layout, LayoutKind, ModelInfo, Node, Pair, Quant, TensorInfo, Trace
from aligndbg.measure.judge import Judge
from aligndbg.measure.metrics import compare
from aligndbg.measure.results import Metrics
from aligndbg.measure.tolerance import ToleranceRules

Array = np.ndarray[Any, np.dtype[Any]]
VALUES = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
GRID = Quant(np.array([0.05], np.float32), np.array([3]))


def trace(
    values: Mapping[str, Array],
    outputs: tuple[str, ...] = ("y",),
    *,
    quants: Mapping[str, Quant] | None = None,
    missing: Mapping[str, str] | None = None,
) -> Trace:
    """One node for each value, op type "Op", in the order given."""
    nodes = tuple(Node("Op", f"{name}.node", ("x",), (name,)) for name in (*values, *(missing or {})))
    tensors = {n: TensorInfo(n, a.shape, str(a.dtype), (quants or {}).get(n)) for n, a in values.items()}
    graph = Graph(nodes, tensors, ("x",), outputs)
    return Trace(ModelInfo("m", "memory"), graph, dict(values), None, tuple(values), dict(missing or {}))


def pair(name: str = "y", method: str = "value", **layout: Any) -> Pair:
    same = {"kind": LayoutKind.IDENTITY, "from_shape": (4, 6), "permutation": (0, 1)} | layout
    return Pair(name, name, Layout(**same, reference_shape=(4, 6), candidate_shape=(4, 6)), method, 0.9)


def near(error: float, values: Array = VALUES) -> Array:
    """Another array at `error` relative L2."""
    noise = np.random.default_rng(1).normal(size=values.shape)
    norm = np.linalg.norm(values.astype(np.float64)) / np.linalg.norm(noise)
    found: Array = (values + error * noise * norm).astype(values.dtype)
    return found


def judge_of(candidate: Array, reference: Array = VALUES, rules: ToleranceRules | None = None) -> Judge:
    return Judge(trace({"y": reference}), trace({"y": candidate}), rules or ToleranceRules())


def own(error: float) -> Metrics:
    return compare(VALUES, near(error))
