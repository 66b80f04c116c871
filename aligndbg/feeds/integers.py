"""Random integers that can show what operators do with them: row numbers of the table that they index, negative ones
where a division or remainder treats those apart. Knows numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from aligndbg.core.errors import AligndbgError
from aligndbg.core.moves import PASSIVE_OPS
from aligndbg.core.ops import SIGNED
from aligndbg.core.types import Array, Graph

__all__ = ["informative_integers"]

CARRIES = PASSIVE_OPS | {"Add", "Sub", "Mul", "Neg"}  # after which an integer's sign is what it was, or may be any
NEGATIVE = (-24, 24)  # past the small divisors in use, on both sides
RUNS = Callable[[Mapping[str, Array]], object]


def informative_integers(
    feeds: Mapping[str, Array], graphs: tuple[Graph, Graph], seed: int, fixed: frozenset[str], runs: RUNS
) -> dict[str, Array]:
    """The feeds, with integers that show more where the graphs tell what reads them; `fixed` stay as they are.

    Row numbers are valid whatever they are. Whether a model bears negative numbers `runs` tries: it raises
    AligndbgError where not, and then they stay away.
    """
    out = dict(feeds)
    rng = np.random.default_rng([seed, len(feeds)])
    for name, value in feeds.items():
        if name in fixed or value.dtype.kind != "i" or value.dtype.itemsize < 4 or not value.size:
            continue
        rows = [r for graph in graphs if name in graph.inputs for r in _rows(graph, name)]
        if rows and min(rows) > 2:
            out[name] = rng.integers(0, min(rows), value.shape).astype(value.dtype)
        elif any(_signed(graph, name) for graph in graphs if name in graph.inputs):
            tried = {**out, name: rng.integers(*NEGATIVE, value.shape, endpoint=True).astype(value.dtype)}
            try:
                runs(tried)
            except AligndbgError:
                continue
            out = tried
    return out


def _rows(graph: Graph, name: str) -> Iterator[int]:
    """The lengths of the constant tables that an input indexes as it is."""
    for node in graph.consumers().get(name, ()):
        if node.canonical == "Gather" and len(node.inputs) > 1 and node.inputs[1] == name != node.inputs[0]:
            info = graph.tensors.get(node.inputs[0])
            shape = info.static_shape if info is not None and node.inputs[0] in graph.constants else None
            axis = node.attributes.get("axis", 0)
            yield shape[axis] if shape and isinstance(axis, int) and axis < len(shape) else 0
        elif node.canonical in PASSIVE_OPS and node.inputs[0] == name:
            yield from _rows(graph, node.outputs[0])


def _signed(graph: Graph, name: str) -> bool:
    """Whether an operator that treats negative numbers apart divides what is computed of an input, and none divides by
    it."""
    found, queue, seen = False, [name], {name}
    while queue:
        at = queue.pop()
        for node in graph.consumers().get(at, ()):
            if node.canonical in SIGNED:
                if at in node.inputs[1:]:
                    return False
                found = True
            elif node.canonical in CARRIES:
                fresh = [o for o in node.outputs if o and o not in seen]
                seen.update(fresh)
                queue += fresh
    return found
