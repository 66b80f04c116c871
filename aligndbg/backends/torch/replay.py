"""Plays a tape again, step by step, with any value replaced; holds no more than is still to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from aligndbg.backends.torch.arrays import to_array, to_tensor
from aligndbg.backends.torch.record import flat_tensors
from aligndbg.backends.torch.tape import Overlay, Slot, Step, Tape, extent, fill
from aligndbg.core.errors import ModelError
from aligndbg.core.types import Array

__all__ = ["SlotOverrides", "replay"]


Slotted = int | tuple[int, str]  # a slot, or what one step (by name) reads of it
SlotOverrides = dict[Slotted, Callable[[], Array]]  # what gives the value


def replay(
    tape: Tape,
    feeds: Mapping[int, Any],
    wanted: Mapping[int, str],
    overrides: SlotOverrides,
    device: Any,
    quiet: Callable[[], AbstractContextManager[Any]],
    seed: int,
) -> Iterator[tuple[str, Array]]:
    """Yields (name, array) of the `wanted` slots in the tape's order, computing what they need and no more.

    `quiet` is the state torch must be in while an operator runs; it is left whenever a value is handed out.
    """
    fixed = not feeds and wanted.keys() <= tape.fixed()
    steps = _needed(tape, wanted, overrides, chance=not fixed)
    state = _State(tape, steps, feeds, overrides, device, seed)
    for slot in tape.constants:
        if slot in wanted:
            yield wanted[slot], to_array(tape.constants[slot])
    for step in steps:
        with quiet():
            made = state.play(step)
            out = [(wanted[slot], to_array(tensor)) for slot, tensor in made if slot in wanted]
            del made
            state.settle(step)
        while out:
            yield out.pop(0)


def _needed(tape: Tape, wanted: Mapping[int, str], overrides: SlotOverrides, chance: bool) -> list[Step]:
    """The steps that the wanted slots depend on, given the overrides; with `chance` all that draw random numbers: their
    order counts."""
    needed, kept = set(wanted), []
    for step in reversed(tape.steps):
        if (step.random and chance) or any(slot in needed for slot in step.makes()):
            step = replace(step, overlays=tuple(o for o in step.overlays if o.after in needed))
            if not (step.random and chance) and _overlays_alone(tape, step, needed, overrides):
                step = replace(step, func=None, reads=(), writes={}, results=())
            kept.append(step)
            needed.update(_uses(tape, step, overrides))
    return kept[::-1]


def _overlays_alone(tape: Tape, step: Step, needed: set[int], overrides: SlotOverrides) -> bool:
    """Whether nothing needs what the operator computes: all that it writes into other tensors is overridden."""
    written = [(o.written, tape.slots[o.after].name) for o in step.overlays]
    return needed.isdisjoint((*step.results, *step.writes.values())) and all(
        slot in overrides or (slot, node) in overrides for slot, node in written
    )


def _uses(tape: Tape, step: Step, overrides: SlotOverrides) -> list[int]:
    """The slots whose own values a step needs, given the overrides."""
    read = [(slot, step.name) for slot in step.reads]
    read += [(o.before, tape.slots[o.after].name) for o in step.overlays if not o.whole]
    return list(dict.fromkeys(slot for slot, node in read if slot not in overrides and (slot, node) not in overrides))


class _State:
    """The values that are alive, as what reads them sees them."""

    def __init__(
        self,
        tape: Tape,
        steps: list[Step],
        feeds: Mapping[int, Any],
        overrides: SlotOverrides,
        device: Any,
        seed: int,
    ) -> None:
        self.tape, self.overrides, self.device = tape, overrides, device
        self.values: dict[int, Any] = {**tape.constants, **feeds}
        self.last: dict[int, int] = {}
        for i, step in enumerate(steps):
            for slot in (*step.makes(), *step.uses(), *(o.written for o in step.overlays)):
                self.last[slot] = i
        computed = {slot for step in steps for slot in step.makes()}
        for key, override in overrides.items():
            if isinstance(key, int) and key in self.last and key not in computed:
                at = self.values[key].device if key in self.values else device
                self.values[key] = _placed(to_tensor(override(), at), tape.slots[key])
        self.leaving: dict[int, list[int]] = {}
        for slot, i in self.last.items():
            self.leaving.setdefault(i, []).append(slot)
        self.memories: dict[int, set[int]] = {}  # which live slots may share memory
        self.kept = set(tape.constants)
        for slot in self.values:
            self._remember(slot)
        self.at = 0
        self.random = _Random(seed) if any(step.random for step in steps) else None

    def play(self, step: Step) -> list[tuple[int, Any]]:
        """Runs one step; the slots it fills with the tensors the program computed, overrides not yet applied."""
        made = {} if step.func is None else self._computed(step)
        for slot, tensor in made.items():
            self._fill(slot, tensor)
        for overlay in step.overlays:
            made[overlay.after] = self._overlaid(overlay)
            self._fill(overlay.after, made[overlay.after])
        return list(made.items())

    def _computed(self, step: Step) -> dict[int, Any]:
        arguments = dict.fromkeys(step.uses())
        for slot in arguments:
            arguments[slot] = self._read(slot, step.name)
        for slot in step.writes:
            if self._shared(slot):
                arguments[slot] = _laid_out(arguments[slot], arguments[slot])
        try:
            if step.random and self.random:
                with self.random:
                    result = step.func(*fill(step.args, arguments), **fill(step.kwargs, arguments))
            else:
                result = step.func(*fill(step.args, arguments), **fill(step.kwargs, arguments))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            text = (str(error).strip().splitlines() or [""])[0]
            raise ModelError(f"{type(error).__name__}: {text}", context=step.name) from error
        made: dict[int, Any] = {after: arguments[slot] for slot, after in step.writes.items()}
        for slot, tensor in zip(step.results, flat_tensors(result), strict=True):
            made.setdefault(slot, tensor)
        return made

    def _read(self, slot: int, node: str) -> Any:
        """What one node reads of a slot; None where it is not to be had (and an overlay's, which is read later)."""
        override = self.overrides.get((slot, node))
        if override is None:
            return self.values.get(slot)
        return _placed(to_tensor(override(), self.device), self.tape.slots[slot])

    def _fill(self, slot: int, tensor: Any) -> None:
        override = self.overrides.get(slot)
        self.values[slot] = tensor if override is None else _laid_out(to_tensor(override(), tensor.device), tensor)
        self._remember(slot)

    def _overlaid(self, overlay: Overlay) -> Any:
        """What was there, with what was written where the two lie in the same memory."""
        import torch

        node = self.tape.slots[overlay.after].name
        written = self._read(overlay.written, node)
        here, there = self.tape.slots[overlay.written], self.tape.slots[overlay.before]
        buffer = torch.empty(max(extent(here), extent(there)), dtype=written.dtype, device=written.device)
        view = buffer.as_strided(there.size, there.stride, there.offset)
        if not overlay.whole:
            view.copy_(self._read(overlay.before, node))
        buffer.as_strided(here.size, here.stride, here.offset).copy_(written)
        return view

    def settle(self, step: Step) -> None:
        """Lets go of what no later step reads."""
        for slot in self.leaving.get(self.at, ()):
            if slot not in self.kept and slot in self.values:
                del self.values[slot]
                self.memories[self.tape.slots[slot].memory].discard(slot)
        self.at += 1

    def _remember(self, slot: int) -> None:
        self.memories.setdefault(self.tape.slots[slot].memory, set()).add(slot)

    def _shared(self, slot: int) -> bool:
        """Whether writing into this value would be seen by anything that is still to be read."""
        users = self.memories[self.tape.slots[slot].memory]
        return any(user in self.kept or (user != slot and self.last.get(user, -1) >= self.at) for user in users) or (
            self.last[slot] > self.at
        )


def _laid_out(tensor: Any, like: Any) -> Any:
    """A copy that lies in memory as `like` does: sums depend on the order of what they add, and views on strides.

    Where elements of `like` share memory (an expanded axis) it is contiguous.
    """
    return _strided(tensor.to(like.device, like.dtype), tuple(like.size()), tuple(like.stride()), like.storage_offset())


def _placed(tensor: Any, slot: Slot) -> Any:
    """A copy that lies in memory as the slot's own value did."""
    return _strided(tensor, slot.size, slot.stride, slot.offset)


def _strided(tensor: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Any:
    import torch

    reach = 0
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride <= reach:
            return tensor.clone(memory_format=torch.contiguous_format)
        reach += (size - 1) * stride
    buffer = torch.empty(offset + max(reach + 1, 0), dtype=tensor.dtype, device=tensor.device)
    return buffer.as_strided(shape, strides, offset).copy_(tensor)


class _Random:
    """The random numbers of one run, apart from the caller's."""

    def __init__(self, seed: int) -> None:
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._states = _states()

    def __enter__(self) -> None:
        self._outer = _states()
        _set_states(self._states)

    def __exit__(self, *_: object) -> None:
        self._states = _states()
        _set_states(self._outer)


def _states() -> tuple[Any, list[Any]]:
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda


def _set_states(states: tuple[Any, list[Any]]) -> None:
    import torch

    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
