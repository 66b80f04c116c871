"""The pairs of a region that are looked at: leaving out the others changes no pairing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pytest

from aligndbg.core.types import Array, Graph, Layout, LayoutKind, Matching, ModelInfo, Node, TensorInfo, Trace
from aligndbg.match import structure
from aligndbg.match.candidates import possible
from aligndbg.match.pairing import match
from aligndbg.match.state import State
from aligndbg.match.weights import weight_print
from aligndbg.measure.fingerprint import fingerprint

SIZE = 24
OPS = ("Gemm", "Relu", "Add", "Tanh", "Mul", "Sigmoid", "HardSwish", "Sub")


def graph(seed: int, nodes: int = 40) -> tuple[list[Node], dict[str, Array]]:
    """Nodes over tensors of one size, and the weights that some of them hold."""
    rng = np.random.default_rng(seed)
    made: list[Node] = []
    weights: dict[str, Array] = {}
    for k in range(nodes):
        before = [f"t{i}" for i in range(max(0, k - 4), k)] or ["x"]
        op = str(rng.choice(OPS))
        inputs = [str(rng.choice(before)) for _ in range(2 if op in ("Add", "Mul", "Sub") else 1)]
        if op == "Gemm":
            weights[f"w{k}"] = rng.standard_normal((SIZE, SIZE)).astype(np.float32)
            inputs.append(f"w{k}")
        made.append(Node(op, f"n{k}", tuple(inputs), (f"t{k}",)))
    return made, weights


def trace(nodes: list[Node], weights: dict[str, Array], values: dict[str, Array], prefix: str = "") -> Trace:
    def named(name: str) -> str:
        return name if name == "x" else prefix + name

    renamed = [Node(n.op_type, n.name, tuple(map(named, n.inputs)), tuple(map(named, n.outputs))) for n in nodes]
    tensors = {named(n): TensorInfo(named(n), v.shape, "float32") for n, v in (weights | values).items()}
    found = Graph(tuple(renamed), tensors, ("x",), renamed[-1].outputs, frozenset(map(named, weights)))
    held = {named(n): v for n, v in values.items()}
    return Trace(ModelInfo("", "memory"), found, held, {"x": values["x"]}, tuple(held))


def unlike(values: dict[str, Array], how: str, rng: np.random.Generator) -> dict[str, Array]:
    out = dict(values)
    for k, name in enumerate(list(values)[8:]):
        if how == "far":
            out[name] = rng.permutation(values[name])
        elif how == "near":
            out[name] = (values[name] + 0.2 * rng.standard_normal(SIZE)).astype(np.float32)
        elif how == "not finite" or (how == "partly" and k % 2):
            out[name] = np.full(SIZE, np.nan, np.float32)
        elif how == "partly":
            out[name] = np.where(np.arange(SIZE) % 3, values[name], np.inf).astype(np.float32)
        elif how == "constant":
            out[name] = np.zeros(SIZE, np.float32)
    return out


def pairs(seed: int, how: str) -> Matching:
    nodes, weights = graph(seed)
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(SIZE).astype(np.float32) for name in ("x", *(n.outputs[0] for n in nodes))}
    ours = unlike(values, how, rng) if how in ("constant", "partly") else values
    left, right = trace(nodes, weights, ours), trace(nodes, weights, unlike(values, how, rng), "c")
    prints = [{n: fingerprint(v) for n, v in side.values.items()} for side in (left, right)]
    known = {n: weight_print(w) for n, w in weights.items()}
    theirs = {f"c{n}": one for n, one in known.items()}
    link = ("x", "x", Layout(LayoutKind.IDENTITY, (SIZE,), (0,), (SIZE,), (SIZE,)))
    return match(left, right, *prints, inputs=[link], weights=lambda: (known, theirs))


@pytest.mark.parametrize("how", ["far", "near", "not finite", "partly", "constant"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_left_out_is_nothing_that_would_be_paired(monkeypatch: pytest.MonkeyPatch, seed: int, how: str) -> None:
    looked: list[int] = []
    quick = possible

    def counted(state: State, ours: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[str, str]]:
        found = list(quick(state, ours, theirs))
        looked.append(len(found))
        return iter(found)

    def every(_: State, ours: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[str, str]]:
        found = list(product(ours, theirs))
        looked.append(len(found))
        return iter(found)

    monkeypatch.setattr(structure, "possible", counted)
    some = pairs(seed, how)
    few = sum(looked)
    looked.clear()
    monkeypatch.setattr(structure, "possible", every)
    assert pairs(seed, how) == some
    assert sum(p.method == "structure" for p in some.pairs) > 10
    if how in ("far", "not finite", "constant"):
        assert few < 0.6 * sum(looked)
