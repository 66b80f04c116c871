"""What a window finds beyond the border: zeros, a reflection, minus infinity; by a Pad before it or by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aligndbg.canonical.evaluate import Step
from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.folding import WINDOWS
from aligndbg.explain.hypotheses.padding import describe
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Border"]


FLAGS = ("ceil_mode", "count_include_pad")
FILLED = {"MaxPool": " with minus infinity", "Conv": " with zeros"}
MODES = ("constant", "reflect", "edge")


@dataclass(frozen=True)
class _Padded:
    """A window's padding: `outer` by a Pad step before it, of `mode` and `value`, and `own` by itself."""

    outer: tuple[int, ...]
    mode: str
    value: float
    own: tuple[int, ...]
    flags: Mapping[str, int] = field(default_factory=dict)

    def words(self, op: str) -> str:
        parts = [describe(self.own) + FILLED.get(op, "")] if any(self.own) or not any(self.outer) else []
        if any(self.outer):
            by = f"value {self.value:g}" if self.mode == "constant" else f"mode {self.mode}"
            parts.append(f"{describe(self.outer)} by a Pad of {by} before it")
        return " and ".join(parts) + "".join(f", {name}={value}" for name, value in self.flags.items())


class Border(Hypothesis):
    """The whole padding of a window as the other side has it; where that is not known, each other mode."""

    name = "border"
    from_files = True

    def applies(self, case: Case) -> bool:
        return any(s.op in WINDOWS or s.op == "Pad" for _, p in case.programs() for s in p.steps)

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs())
        found = {side: _windows(program) for side, program in both.items()}
        for side, program in both.items():
            theirs = found.get(other_side(side), [])
            for n, (at, own) in enumerate(found[side]):
                op = program.steps[at].op
                same = [p for k, p in theirs if both[other_side(side)].steps[k].op == op]
                before = sum(program.steps[k].op == op for k, _ in found[side][:n])
                if before < len(same):
                    yield from _known(program, side, at, own, same[before])
                else:
                    yield from _guessed(program, side, at, own)


def _windows(program: Program) -> list[tuple[int, _Padded]]:
    return [(k, p) for k, s in enumerate(program.steps) if s.op in WINDOWS and (p := _padded(program, k)) is not None]


def _padded(program: Program, at: int) -> _Padded | None:
    """None where the Pad before a window is not one of whole borders, known before it is run."""
    step, values = program.steps[at], program.attributes(at)
    weight = program.constant(step, 1)
    rank = len(values.get("kernel_shape") or ()) or (weight.ndim - 2 if weight is not None else 0)
    if values.get("auto_pad", "NOTSET") != "NOTSET" or not rank:
        return None
    own = tuple(int(p) for p in values.get("pads") or [0] * 2 * rank)
    flags = {name: int(values[name]) for name in FLAGS if name in values and step.op != "MaxPool"}
    pad = _pad_before(program, at)
    if pad is None:
        return _Padded((0,) * 2 * rank, "constant", 0.0, own, flags)
    pads, value = program.constant(pad, 1), program.constant(pad, 2)
    if pads is None or pads.size != 2 * rank + 4 or len(pad.inputs) > 3 or pads.min() < 0:
        return None
    table = pads.reshape(2, -1)
    if table[:, :2].any() or (value is None and len(pad.inputs) > 2 and pad.inputs[2]):
        return None
    outer, mode = tuple(int(p) for p in table[:, 2:].reshape(-1)), str(pad.attributes.get("mode", "constant"))
    return _Padded(outer, mode, 0.0 if value is None else float(value.reshape(-1)[0]), own, flags)


def _pad_before(program: Program, at: int) -> Step | None:
    k = program.producer(program.steps[at].inputs[0])
    return program.steps[k] if k is not None and program.steps[k].op == "Pad" else None


def _repadded(program: Program, at: int, other: _Padded) -> Program:
    """The window `at` on what comes before its own Pad, padded as `other`."""
    step, pad = program.steps[at], _pad_before(program, at)
    source, name = (pad or step).inputs[0], f"{step.outputs[0]}:padded"
    attributes = {**step.attributes, "pads": list(other.own), **other.flags}
    window = replace(step, inputs=(name, *step.inputs[1:]), attributes=attributes)
    if not any(other.outer):
        return program.with_steps(at, replace(window, inputs=(source, *step.inputs[1:])))
    rank = len(other.outer) // 2
    pads = np.array([0, 0, *other.outer[:rank], 0, 0, *other.outer[rank:]], np.int64)
    constants = {f"{name}:pads": pads}
    inputs = [source, f"{name}:pads"]
    if other.mode == "constant" and other.value:
        constants[f"{name}:value"] = np.asarray(other.value, np.float32)
        inputs.append(f"{name}:value")
    return program.with_steps(
        at, Step("Pad", tuple(inputs), (name,), {"mode": other.mode}), window, constants=constants
    )


def _known(program: Program, side: str, at: int, own: _Padded, theirs: _Padded) -> Iterator[Trial]:
    alike = len(own.own) == len(theirs.own) and own != theirs
    if not alike or not (any(own.outer) or any(theirs.outer) or own.flags != theirs.flags):
        return  # pads alone are tried as such
    op, kind = program.steps[at].op, "padding" if own.flags == theirs.flags else "pool_mode"
    words = {side: own.words(op), other_side(side): theirs.words(op)}
    summary = f"the candidate's {op} pads {words['candidate']}; the reference's {words['reference']}"
    change = f"with the {other_side(side)}'s in the {side}"
    details: dict[str, Any] = {name: {"padding": said} for name, said in words.items()}
    yield Trial(kind, side, _repadded(program, at, theirs), summary, change, costs.OTHERS_BORDER, details)


def _guessed(program: Program, side: str, at: int, own: _Padded) -> Iterator[Trial]:
    """The same pads in each other mode; of a max pool, its border is minus infinity where it pads itself."""
    if not any(own.outer) and not any(own.own):
        return
    op = program.steps[at].op
    both = tuple(a + b for a, b in zip(own.outer, own.own, strict=True))
    for mode in MODES:
        other = replace(own, outer=both, own=(0,) * len(both), mode=mode, value=0.0)
        same = mode == own.mode and not own.value and (any(own.outer) or op not in ("MaxPool", "AveragePool"))
        if same:
            continue
        yield Trial(
            "padding",
            side,
            _repadded(program, at, other),
            f"the {side}'s {op} pads {own.words(op)}; the {other_side(side)} computes as with {other.words(op)}",
            f"with that in the {side}",
            costs.PAD_MODE,
            {side: {"padding": own.words(op)}, "explained_by": {"padding": other.words(op)}},
            guess=True,
        )
