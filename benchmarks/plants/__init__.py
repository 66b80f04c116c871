"""Faults of a known kind, put into finished model files at a known operator.

A model file is opened with `open_plantable`; `plant` changes one operator of it and says which tensor the faulty
operator writes, and by how much that tensor moves when the operator reads what it read before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = ["Array", "NotHere", "Plant", "Plantable", "Site", "effect", "open_plantable", "plant"]

Array = np.ndarray[Any, np.dtype[Any]]
WEAKEST = 1e-4  # a plant that moves its tensor by less is not one
WEAKEST_LSB = 2.0
TRIES = 60
BEARING = ("float16", "float32", "float64", "int8", "uint8", "int16")  # wider integers are shapes and indices


class NotHere(Exception):
    """This operator cannot bear this fault: the draw is repeated elsewhere."""


@dataclass(frozen=True)
class Site:
    """A place for a fault: the operator that writes `tensor`."""

    kind: str
    op_type: str
    tensor: str


@dataclass(frozen=True)
class Plant:
    """One planted fault. `effect` is how far the operator's own output moves, all its inputs unchanged."""

    site: Site
    detail: str
    effect: float
    unit: str  # rel_l2 | lsb

    def __str__(self) -> str:
        site = self.site
        return f"{site.kind} in {site.op_type} ({self.detail}), {self.effect:.2g} {self.unit}, at {site.tensor}"


class Plantable(Protocol):
    """A model file that can be changed, and run in its own runtime."""

    def sites(self) -> list[Site]: ...

    def inputs(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]: ...

    def taken(self, name: str, value: Array) -> Array:
        """A float feed in the type that the input of this name takes, quantized where it must be."""
        ...

    def values(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every tensor of one run, by the name aligndbg calls it."""
        ...

    def evaluate(self, tensor: str, values: Mapping[str, Array]) -> Array:
        """`tensor`, computed by as few operators as `values` (which it is not taken from) leaves to be run."""
        ...

    def planted(self, site: Site, rng: np.random.Generator, amount: float, value: Array) -> tuple[Plantable, str]:
        """A changed copy and what was changed. `amount`: the relative change of `value` that is aimed at.

        Raises NotHere.
        """
        ...

    def reach(self, tensor: str) -> dict[str, list[str]]:
        """Tensor name -> the names computed directly from it, for `tensor` and all that follows."""
        ...

    def op_name(self, tensor: str) -> str:
        """What aligndbg calls the operator that writes `tensor`. Raises NotHere where there is none."""
        ...

    def save(self, path: Path) -> None: ...


def open_plantable(path: Path) -> Plantable:
    if path.suffix == ".onnx":
        from plants.onnx_plants import OnnxFile

        return OnnxFile.open(path)
    if path.suffix == ".pt2":
        from plants.torch_plants import TorchFile

        return TorchFile.open(path)
    if path.suffix == ".pb":
        from plants.tensorflow_plants import GraphFile

        return GraphFile.open(path)
    from plants.tflite_plants import TfliteFile

    return TfliteFile.open(path)


def plant(
    model: Plantable,
    rng: np.random.Generator,
    values: Mapping[str, Array],
    kinds: Sequence[str] = (),
    taken: frozenset[str] = frozenset(),
) -> tuple[Plantable, Plant]:
    """A copy of `model` with one fault more, of a random kind (one of `kinds`) at a random place not `taken`.

    Every kind that the model has a place for is as likely as any other. `values` are those of a clean run. Raises
    NotHere when nothing was found that moves its tensor enough.
    """
    places: dict[str, list[Site]] = {}
    for site in model.sites():
        wanted = (not kinds or site.kind in kinds) and site.tensor not in taken
        if wanted and site.tensor in values and values[site.tensor].dtype.name in BEARING:
            places.setdefault(site.kind, []).append(site)
    for _ in range(TRIES if places else 0):
        options = places[sorted(places)[rng.integers(len(places))]]
        site = options[rng.integers(len(options))]
        amount = float(10 ** rng.uniform(-3.3, 0))
        try:
            before = model.evaluate(site.tensor, values)
            changed, detail = model.planted(site, rng, amount, values[site.tensor])
            for earlier in taken:
                changed.op_name(earlier)  # raises where an operator was removed and what it reads renamed
            moved, unit = effect(before, changed.evaluate(site.tensor, values))
        except NotHere:
            continue
        if moved >= (WEAKEST_LSB if unit == "lsb" else WEAKEST):
            return changed, Plant(site, detail, moved, unit)
    raise NotHere(f"no place for a fault of {sorted(kinds) if kinds else 'any kind'}")


def effect(before: Array, after: Array) -> tuple[float, str]:
    """How far `after` is from `before`: the largest difference in steps for integers, else relative L2.

    Raises NotHere where the difference has no measure: another shape, no finite value, all zeros.
    """
    if before.shape != after.shape or before.dtype != after.dtype or not before.size:
        raise NotHere("another shape or type")
    a, b = before.astype(np.float64), after.astype(np.float64)
    if np.issubdtype(before.dtype, np.integer):
        return float(np.max(np.abs(a - b))), "lsb"
    norm = float(np.linalg.norm(a))
    if not np.isfinite(norm) or not np.isfinite(b).all() or norm == 0:
        raise NotHere("no finite measure")
    return float(np.linalg.norm(b - a)) / norm, "rel_l2"
