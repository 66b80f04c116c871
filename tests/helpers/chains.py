"""Networks of a few numpy operators in a row, some of them wrong, some that cannot be overridden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.core.errors import ModelError, UnsupportedError
from aligndbg.core.types import Array

OPS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("Tanh", np.tanh),
    ("Exp", np.exp),
    ("Sin", np.sin),
    ("Sqrt", lambda a: np.sqrt(np.abs(a))),
    ("Sigmoid", lambda a: 1 / (1 + np.exp(-a))),
)


class Stubborn(MemoryBackend):
    """Refuses to have the tensors of `refused` overridden; with `broken`, any tensor."""

    refused: tuple[str, ...] = ()
    broken = False

    def run(
        self, feeds: Mapping[str, Array], fetch: Sequence[str], overrides: Mapping[str, Array] | None = None
    ) -> Iterator[tuple[str, Array]]:
        for name in overrides or {}:
            if self.broken:
                raise ModelError("the runtime does not start on a cut model")
            if name in self.refused:
                raise UnsupportedError("of a type that cannot be fed", context=name)
        return super().run(feeds, fetch, overrides)


def chain(wrong: Sequence[int] = (), prefix: str = "", refused: Sequence[int] = (), broken: bool = False) -> Stubborn:
    """x through OPS in a row, each `wrong` one scaled by 1.1."""

    def scaled(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda a: 1.1 * fn(a)

    def name(k: int) -> str:
        return f"{prefix}t{k}"

    nodes = [
        MemoryNode(op, scaled(fn) if k in wrong else fn, (name(k - 1) if k else "x",), (name(k),))
        for k, (op, fn) in enumerate(OPS)
    ]
    made = Stubborn(inputs={"x": (4, 50)}, nodes=nodes, outputs=[name(len(OPS) - 1)], name=f"{prefix}chain")
    made.refused, made.broken = tuple(map(name, refused)), broken
    return made


def places(diff: Any) -> list[tuple[str | None, str | None]]:
    return [(f.reference, f.candidate) for f in diff.faults]
