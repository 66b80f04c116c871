"""Runs a torch program once and writes its tape, at the level at which operators are dispatched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import chain, count
from typing import Any

import numpy as np

from aligndbg.backends.torch.arrays import dtype_name, untappable
from aligndbg.backends.torch.quant import grid_of, packed_weights
from aligndbg.backends.torch.tape import Overlay, Ref, Slot, Step, Tape, each, extent
from aligndbg.core.errors import UnsupportedError

__all__ = ["Namer", "Recorder", "flat_tensors", "op_word", "watch"]


# (operator, a parameter or buffer it reads or "") -> (name of the call, scope)
Namer = Callable[[str, str], tuple[str, str]]
# Operators whose result is whatever the memory held.
UNINITIALIZED = frozenset(
    {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "resize_"}
)


def flat_tensors(value: Any) -> list[Any]:
    """The tensors in nested tuples, lists, dicts, dataclasses and mappings, in order."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in flat_tensors(item)]
    if isinstance(value, list | tuple | set | frozenset):
        return [t for item in value for t in flat_tensors(item)]
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return [t for name in value.__dataclass_fields__ for t in flat_tensors(getattr(value, name))]
    return []


def op_word(func: Any) -> str:
    """`aten::conv2d` -> "conv2d"; of other namespaces the whole, `torchvision.nms`."""
    schema = getattr(func, "_schema", None)
    if schema is None:  # a higher-order operator
        return str(getattr(func, "name", lambda: func)())
    space, _, word = schema.name.partition("::")
    return word if space == "aten" else f"{space}.{word}"


class Recorder:
    """The tape under way; `namer` names the calls. Inputs come first, then the state, then the run."""

    def __init__(self, namer: Namer) -> None:
        self.tape = Tape()
        self.notes: list[str] = []
        self.saved: list[tuple[Any, Any]] = []  # (state tensor, its value before it was written)
        self._namer = namer
        self._slots: dict[int, tuple[Any, int]] = {}
        self._memories: dict[int, tuple[int, list[Any]]] = {}
        self._names: Counter[str] = Counter()
        self._held: list[Any] = []  # state and inputs: their identity must last for the run
        self._next_memory = 0
        self._state: set[int] = set()
        self._versions: dict[int, int] = {}
        self._state_memory: dict[int, Any] = {}

    def add_input(self, name: str, tensor: Any) -> None:
        self._held.append(tensor)
        self.tape.inputs[name] = self._add(tensor, self._unique(name))

    def add_state(self, state: Mapping[str, Any]) -> None:
        """The tensors that belong to the program. A parameter that is named like an input gets another name."""
        for name, tensor in state.items():
            if self._slot_of(tensor) is None:
                slot = self._add(tensor, self._unique(name))
                self.tape.constants[slot] = tensor
                self._held.append(tensor)
                self._state.add(slot)
                if not tensor.is_inference():
                    self._versions[slot] = tensor._version
                self._state_memory[self.tape.slots[slot].memory] = tensor

    def finish(self, outputs: list[Any]) -> Tape:
        """The finished tape; `outputs` are the tensors that the program gave."""
        known = [(t, self._slot_of(t)) for t in outputs]
        self.tape.outputs = tuple(self._constant(t) if slot is None else slot for t, slot in known)
        self.tape.prune_overlays()
        return self.tape

    def restore(self) -> None:
        """Gives the program's own tensors the values they had before the run."""
        import torch

        saved = [tensor for tensor, _ in self.saved]
        for slot, version in self._versions.items():
            tensor = self.tape.constants[slot]
            if tensor._version != version and not any(_shares(tensor, kept) for kept in saved):
                self.notes.append(f"the run changed {self.tape.slots[slot].name} in a way that could not be undone")
        with torch.inference_mode(False), torch.no_grad():
            for tensor, value in reversed(self.saved):
                tensor.copy_(value)

    def before(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, list[Any]]:
        """Arguments with slots in place of tensors, and the tensors that the call will write."""
        template = self._template(args), self._template(kwargs)
        written = _written(func, args, kwargs)
        for tensor in written:
            slot = self._slot_of(tensor)
            assert slot is not None
            memory = self.tape.slots[slot].memory
            owner = self._state_memory.get(memory)
            if owner is not None and not any(owner is kept for kept, _ in self.saved):
                self.saved.append((owner, owner.detach().clone()))
        return *template, written

    def after(self, func: Any, args: Any, kwargs: Any, written: list[Any], result: Any) -> Step | None:
        """Writes the call down. One that gives no tensor and writes none is no step."""
        made = flat_tensors(result)
        if not made and not written:
            return None
        word = op_word(func)
        reads = tuple(dict.fromkeys((*each(args), *each(kwargs))))
        name, scope = self._namer(word, next((self.tape.slots[r].name for r in reads if r in self._state), ""))
        name = self._unique(name)
        names = chain([name], (f"{name}[{k}]" for k in count(1)))
        before = {id(tensor): self._slot_of(tensor) for tensor in written}
        # An operator may return its argument as it is (contiguous() of what is contiguous): another name for it.
        after = {id(t): self._add(t, next(names), _garbage(word)) for t in _distinct([*made, *written])}
        writes = {slot: after[key] for key, slot in before.items() if slot is not None}
        results = tuple(after[id(t)] for t in made)
        overlays = tuple(self._overlays(written, before, after, names))
        step = Step(func, args, kwargs, name, scope, reads, writes, results, overlays, _is_random(func))
        self.tape.steps.append(step)
        return step

    def quantized(self, step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Notes the grids of the integers that the last step takes or makes; weights that it holds packed, it reads."""
        held = []
        for k, (weight, quant) in enumerate(packed_weights(args)):
            slot = self._add(weight, self._unique(f"{step.name}.weight{k or ''}"))
            self._held.append(weight)
            self.tape.constants[slot] = weight
            if quant is not None:
                self.tape.quants[slot] = quant
            held.append(slot)
        if held:
            self.tape.steps[-1] = replace(step, reads=(*step.reads, *held))
        grid = grid_of(op_word(step.func), step.func, args, kwargs)
        if grid is not None:
            side, quant = grid
            self.tape.quants[(step.results if side == "makes" else step.reads)[0]] = quant

    def left(self, tensor: Any, how: str) -> None:
        """Notes a value that Python code takes out of torch: what it makes of it looks like a constant here."""
        slot = self._slot_of(tensor)
        if slot is not None and slot not in self.tape.constants:
            name = self.tape.slots[slot].name
            self.notes.append(f"{name} leaves torch by {how}: what is made of it outside is taken for a constant")

    def _overlays(
        self, written: list[Any], before: dict[int, int | None], after: dict[int, int], names: Iterator[str]
    ) -> Iterator[Overlay]:
        """What other live tensors hold now, of those that lie where one was written."""
        for tensor in written:
            here = self.tape.slots[after[id(tensor)]]
            for other in self._sharing(tensor):
                stale = self._slot_of(other)
                if stale is None or id(other) in after:
                    continue
                there = self.tape.slots[stale]
                some, whole = _overlap(here, there)
                if not some:
                    continue
                if here.dtype != there.dtype:
                    fact = f"{here.name} writes into memory that {there.name} reads as {there.dtype}"
                    raise UnsupportedError(fact, hint="write in place through a view of the same type")
                yield Overlay(stale, after[id(tensor)], self._add(other, next(names)), whole)

    def _template(self, value: Any) -> Any:
        import torch

        if isinstance(value, torch.Tensor):
            slot = self._slot_of(value)
            return Ref(self._constant(value) if slot is None else slot)
        if isinstance(value, list | tuple):
            items = [self._template(item) for item in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self._template(item) for key, item in value.items()}
        return value

    def _constant(self, tensor: Any) -> int:
        """A tensor that no operator made: a number or an array of the program's own Python code."""
        slot = self._add(tensor, self._unique(f"constant_{len(self.tape.constants)}"))
        self._held.append(tensor)
        self.tape.constants[slot] = tensor.detach().clone()
        return slot

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        return name if self._names[name] == 1 else self._unique(f"{name}#{self._names[name] - 1}")

    def _slot_of(self, tensor: Any) -> int | None:
        found = self._slots.get(id(tensor))
        return found[1] if found and found[0]() is tensor else None

    def _add(self, tensor: Any, name: str, untapped: str = "") -> int:
        slot = len(self.tape.slots)
        reason = untappable(tensor) or untapped
        strided = not reason or bool(untapped)
        memory = self._memory(tensor) if strided else self._fresh()
        self.tape.slots.append(
            Slot(
                name,
                dtype_name(tensor.dtype),
                tuple(tensor.shape),
                tuple(tensor.stride()) if strided else (),
                tensor.storage_offset() if strided else 0,
                memory,
                reason,
            )
        )
        self._slots[id(tensor)] = (_weak(tensor), slot)
        return slot

    def _fresh(self) -> int:
        self._next_memory += 1
        return self._next_memory

    def _memory(self, tensor: Any) -> int:
        key = tensor.untyped_storage()._cdata
        number, users = self._memories.get(key, (0, []))
        users = [ref for ref in users if ref() is not None]
        if not users:
            number = self._fresh()
        if not any(ref() is tensor for ref in users):
            users.append(_weak(tensor))
        self._memories[key] = (number, users)
        return number

    def _sharing(self, tensor: Any) -> list[Any]:
        if untappable(tensor):
            return []
        _, users = self._memories.get(tensor.untyped_storage()._cdata, (0, []))
        return [other for ref in users if (other := ref()) is not None]


def watch(recorder: Recorder) -> AbstractContextManager[Any]:
    """Shows every operator call within to the recorder, and every value that leaves torch."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    leaving = {torch.Tensor.numpy: "numpy()", torch.Tensor.tolist: "tolist()", torch.Tensor.__array__: "numpy"}

    class Calls(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed for us
        supports_higher_order_operators = True

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if op_word(func) == "cond":  # the branch that is taken, seen from inside
                with self:
                    return (args[1] if bool(args[0]) else args[2])(*args[3])
            args = _with_tensors(func, args)
            filled, named, written = recorder.before(func, args, kwargs)
            result = func(*args, **kwargs)
            step = recorder.after(func, filled, named, written, result)
            if step is not None:
                recorder.quantized(step, args, kwargs)
            return result

    class Exits(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in leaving and args:
                recorder.left(args[0], leaving[func])
            return func(*args, **(kwargs or {}))

    stack = ExitStack()
    stack.enter_context(Exits())
    stack.enter_context(Calls())
    return stack


def _with_tensors(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, where a number that TorchScript holds as a tensor has reached `item` or `equal` as a number."""
    import torch

    schema = getattr(func, "_schema", None)
    if schema is None or any(isinstance(r.type, torch.TensorType) for r in schema.returns):
        return args  # with which numbers are as good
    return tuple(
        torch.tensor(value) if isinstance(value, int | float) and isinstance(wanted.type, torch.TensorType) else value
        for value, wanted in zip(args, schema.arguments, strict=False)
    )


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    schema = getattr(func, "_schema", None)
    if schema is None:
        return []
    given = {a.name: kwargs.get(a.name, args[i] if i < len(args) else None) for i, a in enumerate(schema.arguments)}
    names = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if given.get("training") or given.get("use_input_stats"):  # writes that the schemas of normalizations leave out
        names += [name for name in ("running_mean", "running_var") if name in given]
    return _distinct([t for name in names for t in flat_tensors(given[name])])


def _shares(tensor: Any, other: Any) -> bool:
    return bool(tensor.untyped_storage()._cdata == other.untyped_storage()._cdata)


def _distinct(tensors: list[Any]) -> list[Any]:
    return list({id(t): t for t in tensors}.values())


def _weak(tensor: Any) -> Any:
    """A reference that survives a tensor whose Python object dies while C++ still holds it."""
    from torch.utils.weak import TensorWeakRef

    return TensorWeakRef(tensor)


def _is_random(func: Any) -> bool:
    import torch

    return torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())


def _garbage(word: str) -> str:
    return "memory that nothing has been written to" if word in UNINITIALIZED else ""


def _overlap(written: Slot, other: Slot) -> tuple[bool, bool]:
    """Whether a write reaches some, and all, of the elements that another value has in the same storage."""
    if 0 in written.size or 0 in other.size:
        return False, False
    if written.dtype != other.dtype:
        return True, False
    marks = np.zeros(max(extent(written), extent(other)), np.bool_)
    _window(marks, written)[...] = True
    reached = _window(marks, other)
    return bool(reached.any()), bool(reached.all())


def _window(marks: Any, slot: Slot) -> Any:
    from numpy.lib.stride_tricks import as_strided

    return as_strided(marks[slot.offset :], slot.size, [d * marks.itemsize for d in slot.stride])
