"""What one run of a torch program was: every operator call, in order, with values as numbered slots.

In-place writes are taken apart: what a write leaves in a tensor is a new slot, and so is what other live tensors that
share its memory then hold (an "overlay"). The tape is therefore a graph of values, which can be replayed with any
of them replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aligndbg.core.types import Quant

__all__ = ["Overlay", "Ref", "Slot", "Step", "Tape", "each", "extent", "fill"]


@dataclass(frozen=True)
class Ref:
    """Stands for a tensor in the arguments of a step."""

    slot: int


@dataclass(frozen=True)
class Slot:
    """One value. `memory` numbers the storage: two slots with one number may share it.

    `size`, `stride` and `offset` (in elements) say where in it the value lies.
    """

    name: str
    dtype: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    memory: int
    untapped: str = ""


@dataclass(frozen=True)
class Overlay:
    """`after` is what `before` holds once `written` has been written into the memory they share; `whole` where nothing
    of what it held is left."""

    before: int
    written: int
    after: int
    whole: bool


@dataclass(frozen=True)
class Step:
    """One operator call. `results` holds a slot for each tensor of the flattened result, in its order.

    `writes` maps the slots of arguments that are written in place to what they hold afterwards.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    scope: str
    reads: tuple[int, ...]
    writes: dict[int, int]
    results: tuple[int, ...]
    overlays: tuple[Overlay, ...] = ()
    random: bool = False

    def makes(self) -> tuple[int, ...]:
        """Every slot that this step fills, in the order of their names."""
        return tuple(dict.fromkeys((*self.results, *self.writes.values(), *(o.after for o in self.overlays))))

    def uses(self) -> tuple[int, ...]:
        """Every slot whose tensor this step needs."""
        return tuple(dict.fromkeys((*self.reads, *(o.before for o in self.overlays if not o.whole))))


@dataclass
class Tape:
    """`inputs` and `outputs` are slots by name and in order; `constants` are slots with the tensors they hold: the
    program's own parameters and buffers (never to be written), weights that an operator holds packed, and what its
    Python code made. `quants` says what the integers of a slot stand for, where an operator takes or makes them so."""

    slots: list[Slot] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: tuple[int, ...] = ()
    constants: dict[int, Any] = field(default_factory=dict)
    quants: dict[int, Quant] = field(default_factory=dict)

    def fixed(self) -> frozenset[int]:
        """Slots that no input and no random number can change."""
        found = set(self.constants)
        for step in self.steps:
            if not step.random and all(slot in found for slot in step.uses()):
                found.update(step.makes())
        return frozenset(found)

    def prune_overlays(self) -> None:
        """Drops what no later step reads of the tensors that share memory with one written in place."""
        needed = set(self.outputs)
        for i in range(len(self.steps) - 1, -1, -1):
            step = self.steps[i]
            kept = tuple(o for o in step.overlays if o.after in needed)
            if len(kept) != len(step.overlays):
                self.steps[i] = step = Step(**{**step.__dict__, "overlays": kept})
            needed.update(step.uses())


def extent(slot: Slot) -> int:
    """Elements of its storage up to the end of the value."""
    return slot.offset + 1 + sum((n - 1) * d for n, d in zip(slot.size, slot.stride, strict=True))


def each(template: Any) -> Iterator[int]:
    """The slots in arguments, in order."""
    if isinstance(template, Ref):
        yield template.slot
    elif isinstance(template, list | tuple):
        for item in template:
            yield from each(item)
    elif isinstance(template, dict):
        for item in template.values():
            yield from each(item)


def fill(template: Any, values: Any) -> Any:
    """Arguments with the tensors in place of their slots."""
    if isinstance(template, Ref):
        return values[template.slot]
    if isinstance(template, list | tuple):
        filled = [fill(item, values) for item in template]
        return type(template)(filled) if type(template) in (list, tuple) else tuple(filled)
    if isinstance(template, dict):
        return {key: fill(item, values) for key, item in template.items()}
    return template
