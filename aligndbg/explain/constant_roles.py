"""The constants of a plain program by their role, so that those of two programs can be told to be the same thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligndbg.canonical.program import Program
from aligndbg.core.arrays import in_order
from aligndbg.core.layouts import layouts, sampled_error
from aligndbg.core.types import Array
from aligndbg.explain.folding import LINEAR
from aligndbg.explain.thresholds import EQUAL_WEIGHTS, LARGEST_EPSILON
from aligndbg.measure.distance import distance

__all__ = [
    "ConstantPair",
    "RoleConstant",
    "compared_constants",
    "has_role",
    "is_epsilon",
    "pair_constants",
    "role_constants",
]


# ONNX's gates (iofc of an LSTM) in the order of Keras and PyTorch (ifco); an RNN has one.
GATES = {"LSTM": (0, 2, 3, 1), "RNN": (0,)}
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu")
# By the specification's names: fused normalizations read more, in another order.
NORM_ROLES = {
    "scale": "factor", "gamma": "factor", "b": "term", "beta": "term", "input_mean": "mean", "input_var": "variance",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class RoleConstant:
    """One constant that a step reads. `value` is as the role has it: weights (out, in, ...), terms, factors.

    `put` gives the program with another value there; `absent` marks a bias that is not written.
    """

    role: str  # weight | term | factor | mean | variance | exponent | slope
    step: int
    op: str
    value: Array
    put: Callable[[Array], Program]
    absent: bool = False
    node: str = ""


@dataclass(frozen=True, eq=False)
class ConstantPair:
    """The same constant on both sides. `theirs` is the candidate's value in the reference's shape."""

    reference: RoleConstant
    candidate: RoleConstant
    theirs: Array
    ours: Array  # the reference's value in the candidate's shape

    @property
    def apart(self) -> float:
        """Relative L2 of the difference, to the larger of the two."""
        return min(distance(self.reference.value, self.theirs), distance(self.theirs, self.reference.value))


def role_constants(program: Program) -> list[RoleConstant]:
    """Every float constant with a role; epsilons and shapes left out."""
    found: list[RoleConstant] = []
    for k, step in enumerate(program.steps):
        if not step.node:
            continue
        if step.op in LINEAR:
            found += _linear(program, k)
        elif step.op.endswith("Normalization"):
            for at, name in enumerate(program.slots(k)):
                value, role = program.constant(step, at), _norm_role(step.op, name)
                if value is not None and role:
                    found.append(_as_stored(program, k, at, role, value))
        elif step.op in ARITHMETIC and len(step.inputs) == 2:
            for at in (0, 1):
                value = program.constant(step, at)
                if value is not None and value.dtype.kind == "f" and not (step.op == "Add" and is_epsilon(value)):
                    found += _arithmetic(program, k, at, value)
        elif step.op in GATES:
            found += _recurrent(program, k)
    return found


def has_role(op: str, name: str, slot: int) -> bool:
    """Whether what an operator reads at `slot`, by its `name`, is a weight, a term or a factor where it is constant."""
    if op.endswith("Normalization"):
        return bool(_norm_role(op, name))
    return op in ARITHMETIC or (op in LINEAR and slot in (1, 2)) or (op in GATES and slot in (1, 2, 3))


def _norm_role(op: str, name: str) -> str:
    """What a normalization reads under a name; "" of what it adds before it normalizes."""
    if name == "bias":
        return "term" if op == "GroupNormalization" else ""
    return NORM_ROLES.get({"mean": "input_mean", "var": "input_var"}.get(name, name.lower()), "")


def is_epsilon(value: Array) -> bool:
    """Whether a constant that is added is what keeps a normalization from dividing by zero."""
    if value.dtype.kind != "f" or not value.size or np.ptp(value):
        return False
    return 0 < float(value.reshape(-1)[0]) <= LARGEST_EPSILON


def _as_stored(program: Program, k: int, at: int, role: str, value: Array) -> RoleConstant:
    def put(new: Array) -> Program:
        return program.with_constant(k, at, in_order(new.reshape(value.shape)).astype(value.dtype))

    return RoleConstant(role, k, program.steps[k].op, value, put, node=program.steps[k].node)


def _linear(program: Program, k: int) -> list[RoleConstant]:
    step = program.steps[k]
    weight = program.constant(step, 1)
    if weight is None:
        return []
    axis = _output_axis(step.op, weight.ndim, bool(step.attributes.get("transB")))

    def put_weight(new: Array) -> Program:
        moved = np.moveaxis(new, 0, axis) if axis else new
        return program.with_constant(k, 1, in_order(moved).astype(weight.dtype))

    canonical = np.moveaxis(weight, axis, 0)
    found = [RoleConstant("weight", k, step.op, canonical, put_weight, node=step.node)]
    if step.op == "MatMul":
        return found
    bias = program.constant(step, 2)
    absent = bias is None and (len(step.inputs) < 3 or not step.inputs[2])
    if bias is None and not absent:
        return found
    channels = canonical.shape[0] * (int(step.attributes.get("group", 1)) if step.op == "ConvTranspose" else 1)
    value = np.zeros(channels, weight.dtype) if bias is None else np.broadcast_to(bias.reshape(-1), (channels,))

    def put_bias(new: Array) -> Program:
        return program.with_constant(k, 2, in_order(new.reshape(channels)).astype(weight.dtype))

    found.append(RoleConstant("term", k, step.op, value, put_bias, absent, step.node))
    return found


def _recurrent(program: Program, k: int) -> list[RoleConstant]:
    """One direction's weights as (gates * hidden, in), gates in Keras' and PyTorch's order; both biases as a sum."""
    step = program.steps[k]
    order = GATES[step.op]
    found = []
    for at, role in ((1, "weight"), (2, "weight"), (3, "term")):
        stored = program.constant(step, at)
        if stored is None or stored.shape[0] != 1:
            continue
        whole = stored[0] if at < 3 else stored[0].reshape(2, -1).sum(axis=0)
        gates = whole.reshape(len(order), -1, *whole.shape[1:])

        def put(new: Array, at: int = at, stored: Array = stored, shape: tuple[int, ...] = gates.shape) -> Program:
            back = new.reshape(shape)[np.argsort(order)].reshape(-1, *shape[2:])
            value = back if at < 3 else np.concatenate([back, np.zeros_like(back)])
            return program.with_constant(k, at, value[None].astype(stored.dtype))

        found.append(RoleConstant(role, k, step.op, gates[list(order)].reshape(whole.shape), put, node=step.node))
    return found


def _output_axis(op: str, rank: int, transposed: bool) -> int:
    if op == "Conv" or (op == "Gemm" and transposed):
        return 0
    return 1 if op in ("ConvTranspose", "Gemm") else rank - 1


def _arithmetic(program: Program, k: int, at: int, value: Array) -> list[RoleConstant]:
    op = program.steps[k].op
    if op == "PRelu":
        return [_as_stored(program, k, at, "slope", value)] if at else []
    if op == "Pow":
        return [_as_stored(program, k, at, "exponent", value)] if at else []
    role = "term" if op in ("Add", "Sub") else "factor"
    if at == 1 and op in ("Sub", "Div") and (op == "Sub" or np.all(value != 0)):
        turn: Callable[[Array], Array] = np.negative if op == "Sub" else np.reciprocal

        def put(new: Array) -> Program:
            return program.with_constant(k, at, turn(new.reshape(value.shape)).astype(value.dtype))

        return [RoleConstant(role, k, op, turn(value), put, node=program.steps[k].node)]
    return [_as_stored(program, k, at, role, value)]


def pair_constants(
    reference: Sequence[RoleConstant], candidate: Sequence[RoleConstant]
) -> tuple[list[ConstantPair], list[RoleConstant], list[RoleConstant]]:
    """Constants of one role and size, the nearest values first, each once; then what is left on either side."""
    proposals: list[tuple[float, int, int, ConstantPair]] = []
    for i, r in enumerate(reference):
        for j, c in enumerate(candidate):
            if r.role == c.role and r.value.size == c.value.size:
                made = _pair(r, c)
                if made is not None:
                    proposals.append((made.apart, i, j, made))
    taken_r: set[int] = set()
    taken_c: set[int] = set()
    pairs = []
    for _, i, j, made in sorted(proposals, key=lambda p: (p[0], abs(p[1] - p[2]))):
        if i not in taken_r and j not in taken_c:
            taken_r.add(i)
            taken_c.add(j)
            pairs.append(made)
    return (
        pairs,
        [s for i, s in enumerate(reference) if i not in taken_r],
        [s for j, s in enumerate(candidate) if j not in taken_c],
    )


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(d for d in shape if d != 1)


def _pair(r: RoleConstant, c: RoleConstant) -> ConstantPair | None:
    if _squeezed(r.value.shape) == _squeezed(c.value.shape):
        return ConstantPair(r, c, c.value.reshape(r.value.shape), r.value.reshape(c.value.shape))
    best: tuple[float, ConstantPair] | None = None
    flat = r.value.reshape(-1).astype(np.float64)
    for layout in layouts(r.value.shape, c.value.shape):
        there = in_order(layout.to_reference(c.value))
        error = sampled_error(flat, there.reshape(-1).astype(np.float64))
        if best is None or error < best[0]:
            best = error, ConstantPair(r, c, there, in_order(layout.to_candidate(r.value)))
    return best[1] if best is not None else None


def compared_constants(reference: Program, candidate: Program) -> list[dict[str, Any]]:
    """The weights, biases and factors of both that differ, the worst first; then what only one of them has."""
    pairs, lone_r, lone_c = pair_constants(role_constants(reference), role_constants(candidate))
    rows: list[dict[str, Any]] = [
        {"op": p.candidate.op, "role": p.reference.role, "relative_difference": p.apart}
        for p in sorted(pairs, key=lambda p: -p.apart)
        if p.apart > EQUAL_WEIGHTS
    ]
    for side, lone in (("reference", lone_r), ("candidate", lone_c)):
        rows += [{"op": s.op, "role": s.role, "only": side} for s in lone if not s.absent]
    return rows
