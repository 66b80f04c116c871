"""A tape as a Graph: one node for each operator call, and one for each value changed through shared memory."""

from __future__ import annotations

from typing import Any

from aligndbg.backends.torch.ops import attributes, canonical
from aligndbg.backends.torch.record import op_word
from aligndbg.backends.torch.tape import Step, Tape, each
from aligndbg.core.types import Graph, Node, TensorInfo

__all__ = ["build_graph"]


# In-place operators that read nothing of what they overwrite.
OVERWRITING = frozenset({"copy_", "fill_", "zero_"})


def build_graph(tape: Tape, inputs: tuple[TensorInfo, ...], notes: tuple[str, ...]) -> Graph:
    """`inputs` is the program's signature as far as it is known before it runs."""
    names = [slot.name for slot in tape.slots]
    known = {info.name: info for info in inputs}
    tensors = {
        slot.name: TensorInfo(slot.name, slot.size, slot.dtype, tape.quants.get(k)) for k, slot in enumerate(tape.slots)
    }
    for name, slot in tape.inputs.items():
        info, made = known[name], tape.slots[slot]
        tensors[names[slot]] = TensorInfo(
            names[slot], info.shape if info.shape is not None else (None,) * len(made.size), info.dtype or made.dtype
        )
    read = {slot for step in tape.steps for slot in step.uses()} | set(tape.outputs)
    made_slots = {slot for step in tape.steps for slot in step.makes()}
    fixed = tape.fixed() & (read | made_slots)
    return Graph(
        nodes=tuple(node for step in tape.steps for node in _nodes(tape, step, names)),
        tensors=tensors,
        inputs=tuple(tape.inputs),
        outputs=tuple(dict.fromkeys(names[slot] for slot in tape.outputs)),
        constants=frozenset(names[slot] for slot in fixed),
        untapped={slot.name: slot.untapped for slot in tape.slots if slot.untapped},
        notes=notes,
        by_feeds=True,
    )


def _nodes(tape: Tape, step: Step, names: list[str]) -> list[Node]:
    word = op_word(step.func)
    given = _arguments(step)
    first = next(iter(step.reads), None)
    rank = len(tape.slots[first].size) if first is not None else 0
    reads = [slot for slot in step.reads if not (word in OVERWRITING and slot in step.writes)]
    made = dict.fromkeys((*step.results, *step.writes.values()))
    nodes = [
        Node(
            word,
            step.name,
            tuple(names[slot] for slot in reads),
            tuple(names[slot] for slot in made),
            attributes(word, given, rank),
            step.scope,
            canonical(word, given),
        )
    ]
    for overlay in step.overlays:
        name = names[overlay.after]
        reads = [overlay.written] if overlay.whole else [overlay.before, overlay.written]
        same = "Slice" if overlay.whole else "ScatterND"
        nodes.append(Node(word, name, tuple(names[s] for s in reads), (name,), {}, step.scope, same))
    return nodes


def _arguments(step: Step) -> dict[str, Any]:
    """The arguments of a call by name, as they were given; tensors are left out."""
    schema = getattr(step.func, "_schema", None)
    given = dict(step.kwargs)
    if schema is not None:
        given = {a.name: v for a, v in zip(schema.arguments, step.args, strict=False)} | given
        for argument in schema.arguments:
            if argument.has_default_value() and argument.default_value is not None:
                given.setdefault(argument.name, argument.default_value)
    return {name: value for name, value in given.items() if not list(each(value)) and value is not None}
