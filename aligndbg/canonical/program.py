"""A region as a short ONNX program: steps, constants, and edits of both that leave the original as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aligndbg.canonical.evaluate import Step, evaluate
from aligndbg.canonical.schemas import attribute_values, schema
from aligndbg.core.types import Array

__all__ = ["Program"]


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in execution order from `inputs` (names) to `output`; `constants` are what else they read."""

    steps: tuple[Step, ...]
    constants: Mapping[str, Array]
    inputs: tuple[str, ...]
    output: str
    opset: int
    notes: Mapping[str, Any] = field(default_factory=dict)

    def run(self, feeds: Mapping[str, Array], fetch: Sequence[str] = ()) -> list[Array]:
        """The output, or the tensors of `fetch`. Raises CannotEvaluateError."""
        wanted = list(fetch or (self.output,))
        return evaluate(self.needed(wanted), feeds, self.constants, wanted, self.opset)

    def shape(self, feeds: Mapping[str, Array], name: str) -> tuple[int, ...]:
        """Of a value inside. Raises CannotEvaluateError."""
        known = feeds.get(name, self.constants.get(name))
        return tuple((self.run(feeds, [name])[0] if known is None else known).shape)

    def rank(self, feeds: Mapping[str, Array], name: str) -> int:
        return len(self.shape(feeds, name))

    def needed(self, wanted: Iterable[str]) -> list[Step]:
        """The steps that `wanted` depends on."""
        kept, want = [], set(wanted)
        for step in reversed(self.steps):
            if want.intersection(step.outputs):
                kept.append(step)
                want.update(step.inputs)
        return kept[::-1]

    def producer(self, name: str) -> int | None:
        """Index of the step that computes `name`; None for an input or a constant."""
        return next((k for k, step in enumerate(self.steps) if name in step.outputs), None)

    def readers(self, name: str) -> list[int]:
        return [k for k, step in enumerate(self.steps) if name in step.inputs]

    def attributes(self, at: int) -> dict[str, Any]:
        """Every attribute of a step, those that are not written by the defaults of this program's opset."""
        return attribute_values(self.steps[at].op, self.opset, self.steps[at].attributes)

    def slots(self, at: int) -> tuple[str, ...]:
        """The names that the specification has for what a step reads."""
        known = schema(self.steps[at].op, self.opset)
        return known.inputs if known else ()

    def constant(self, step: Step, slot: int) -> Array | None:
        """The constant that a step reads at `slot`."""
        return self.constants.get(step.inputs[slot]) if slot < len(step.inputs) else None

    def with_steps(self, at: int, *steps: Step, constants: Mapping[str, Array] | None = None) -> Program:
        """Step `at` replaced by `steps` (none: dropped)."""
        new = (*self.steps[:at], *steps, *self.steps[at + 1 :])
        return replace(self, steps=new, constants={**self.constants, **(constants or {})})

    def with_attributes(self, at: int, **attributes: Any) -> Program:
        """Step `at` with attributes changed; None drops one."""
        step = self.steps[at]
        merged = {k: v for k, v in {**step.attributes, **attributes}.items() if v is not None}
        outputs = step.outputs
        if "training_mode" in attributes and step.op == "BatchNormalization":  # which decides how many there are
            first = outputs[0]
            outputs = (first, f"{first}:mean", f"{first}:variance") if attributes["training_mode"] else (first,)
        return self.with_steps(at, replace(step, attributes=merged, outputs=outputs))

    def with_inputs(self, at: int, inputs: Sequence[str]) -> Program:
        return self.with_steps(at, replace(self.steps[at], inputs=tuple(inputs)))

    def with_constant(self, at: int, slot: int, value: Array) -> Program:
        """Step `at`, and no other, reading `value` at `slot`."""
        name = f"{self.steps[at].outputs[0]}:constant{slot}"
        inputs = list(self.steps[at].inputs) + [""] * (slot + 1 - len(self.steps[at].inputs))
        inputs[slot] = name
        changed = self.with_inputs(at, inputs)
        return replace(changed, constants={**self.constants, name: value})

    def bypassed(self, at: int, slot: int = 0) -> Program:
        """Without step `at`: what read its output reads its input instead."""
        step = self.steps[at]
        out = self.with_steps(at, replace(step, op="Identity", inputs=(step.inputs[slot],), attributes={}))
        return out

    def followed(self, name: str, steps: Sequence[Step], constants: Mapping[str, Array] | None = None) -> Program:
        """`steps` put right after the step that computes `name`; they read `name:before` and write `name`."""
        at = self.producer(name)
        if at is None:
            raise ValueError(f"{name} is not computed here")
        before = f"{name}:before"
        producer = self.steps[at]
        renamed = replace(producer, outputs=tuple(before if o == name else o for o in producer.outputs))
        return self.with_steps(at, renamed, *steps, constants=constants)
