"""The plain form of a program: what converters fuse and split is put back together, so that both sides compare.

Explicit pads go into the convolution they feed, transposes move down past what does not mind them, and what scales or
shifts each channel (a batch normalization, Mul, Add) goes into the weights and bias of the operator before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from aligndbg.canonical.evaluate import CannotEvaluateError, Step
from aligndbg.canonical.program import Program
from aligndbg.core.types import Array
from aligndbg.explain.thresholds import FOLDED_REL

__all__ = ["LINEAR", "WINDOWS", "norm_terms", "plain_form"]


WINDOWS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})
LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
UNARY = frozenset(
    {"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Gelu", "Softplus", "Softsign"}
    | {"Exp", "Sqrt", "Reciprocal", "Abs", "Neg", "Erf", "Round", "Identity", "Cast", "Mish", "Selu", "Log", "Floor"}
)
BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu"})


def plain_form(program: Program, feeds: Mapping[str, Array]) -> Program:
    """An equivalent program, checked by running both; the program itself where folding does not keep its value."""
    try:
        plain = _folded(_explicit_pads(_fixed_as_constants(program, feeds), feeds))
        before, after = program.run(feeds)[0], plain.run(feeds)[0]
    except CannotEvaluateError:
        return program
    with np.errstate(all="ignore"):
        norm = float(np.linalg.norm(before.astype(np.float64)))
        apart = float(np.linalg.norm(after.astype(np.float64) - before.astype(np.float64)))
    return plain if before.shape == after.shape and apart <= FOLDED_REL * norm else program


def _folded(program: Program) -> Program:
    for _ in range(4 * len(program.steps)):
        changed = next((made for rule in RULES if (made := rule(program)) is not None), None)
        if changed is None:
            break
        program = replace(changed, steps=tuple(changed.needed([changed.output])))
    return program


def _fixed_as_constants(program: Program, feeds: Mapping[str, Array]) -> Program:
    """What no fed value can change (shapes, biases that an exporter expands) computed once."""
    varying = set(feeds)
    for step in program.steps:
        read = {"CastLike": step.inputs[:1], "Shape": (), "Size": ()}.get(step.op, step.inputs)
        if varying.intersection(read):
            varying.update(step.outputs)
    fixed = {o for s in program.steps for o in s.outputs if o and o not in varying}
    needed = sorted({i for s in program.steps if varying.intersection(s.outputs) for i in s.inputs} & fixed)
    if not needed or program.output in fixed:
        return program
    values = dict(zip(needed, program.run(feeds, needed), strict=True))
    left = tuple(s for s in program.steps if varying.intersection(s.outputs))
    return replace(program, steps=left, constants={**program.constants, **values})


def _only_reader(program: Program, name: str) -> int | None:
    readers = program.readers(name)
    return readers[0] if len(readers) == 1 and name != program.output else None


def _explicit_pads(program: Program, feeds: Mapping[str, Array]) -> Program:
    """auto_pad as numbers, for what reads tensors of known shape."""
    for k, step in enumerate(program.steps):
        word = step.attributes.get("auto_pad", "NOTSET")
        if step.op not in ("Conv", "MaxPool", "AveragePool") or word == "NOTSET":
            continue
        x = step.inputs[0]
        shape = feeds[x].shape if x in feeds else program.run(feeds, [x])[0].shape
        weight = program.constant(step, 1) if step.op == "Conv" else None
        kernel = step.attributes.get("kernel_shape") or list(weight.shape[2:] if weight is not None else ())
        rank = len(kernel)
        strides = step.attributes.get("strides") or [1] * rank
        dilations = step.attributes.get("dilations") or [1] * rank
        begin, end = [], []
        for length, size, s, d in zip(shape[2:], kernel, strides, dilations, strict=True):
            window = (size - 1) * d + 1
            total = 0 if word == "VALID" else max((-(-length // s) - 1) * s + window - length, 0)
            first = total // 2 if word != "SAME_LOWER" else total - total // 2
            begin.append(first)
            end.append(total - first)
        program = program.with_attributes(k, auto_pad=None, pads=begin + end)
    return program


def _drop_identity(program: Program) -> Program | None:
    for k, step in enumerate(program.steps):
        source = step.inputs[0] if step.inputs else ""
        if step.op not in ("Identity", "Dropout") or step.outputs[0] == program.output:
            continue
        rest = [
            replace(s, inputs=tuple(source if i == step.outputs[0] else i for i in s.inputs)) for s in program.steps
        ]
        return replace(program, steps=(*rest[:k], *rest[k + 1 :]))
    return None


def _cancel_transposes(program: Program) -> Program | None:
    """Two in a row are one; one that moves nothing is none."""
    for k, step in enumerate(program.steps):
        if step.op != "Transpose" or "perm" not in step.attributes:
            continue
        perm = list(step.attributes["perm"])
        if perm == sorted(perm):
            return program.with_steps(k, Step("Identity", step.inputs, step.outputs, {}, step.node))
        before = program.producer(step.inputs[0])
        if (
            before is None
            or program.steps[before].op != "Transpose"
            or not program.steps[before].attributes.get("perm")
        ):
            continue
        first = list(program.steps[before].attributes["perm"])
        both = [first[p] for p in perm]
        return program.with_steps(k, replace(step, inputs=program.steps[before].inputs, attributes={"perm": both}))
    return None


def _pad_below_transpose(program: Program) -> Program | None:
    """Pad, Transpose -> Transpose, Pad: then the pads are those of the operator in its own layout."""
    for k, step in enumerate(program.steps):
        if step.op != "Pad" or (at := _only_reader(program, step.outputs[0])) is None:
            continue
        moved, pads = program.steps[at], program.constant(step, 1)
        if moved.op != "Transpose" or "perm" not in moved.attributes or pads is None or len(step.inputs) > 3:
            continue
        perm = list(moved.attributes["perm"])
        name = f"{step.outputs[0]}:moved"
        table = pads.reshape(2, -1)[:, perm].reshape(-1)
        new = (
            *program.steps[:k],
            *program.steps[k + 1 : at],
            replace(moved, inputs=step.inputs[:1], outputs=(name,)),
            replace(step, inputs=(name, f"{name}:pads", *step.inputs[2:]), outputs=moved.outputs),
            *program.steps[at + 1 :],
        )
        return replace(program, steps=new, constants={**program.constants, f"{name}:pads": table})
    return None


def _sink_transpose(program: Program) -> Program | None:
    """Transpose, op -> op, Transpose, for what works on each element alone."""
    for step in program.steps:
        if step.op != "Transpose" or "perm" not in step.attributes:
            continue
        at = _only_reader(program, step.outputs[0])
        if at is None:
            continue
        reader = program.steps[at]
        found = _untransposed_operands(program, step, reader)
        if found is None:
            continue
        renamed, constants = found
        inner = f"{reader.outputs[0]}:untransposed"
        moved = replace(reader, inputs=tuple(renamed.get(i, i) for i in reader.inputs), outputs=(inner,))
        last = replace(step, inputs=(inner,), outputs=reader.outputs)
        return program.with_steps(at, moved, last, constants=constants)
    return None


def _untransposed_operands(
    program: Program, step: Step, reader: Step
) -> tuple[dict[str, str], dict[str, Array]] | None:
    """What an elementwise `reader` of the Transpose `step` reads where it comes before that, by what it reads now.

    With the constants among these that are new; None where it does not work on each element alone, or another operand
    is not transposed so.
    """
    renamed = {step.outputs[0]: step.inputs[0]}
    others = dict.fromkeys(i for i in reader.inputs if i and i != step.outputs[0])
    if reader.op in UNARY and all(i in program.constants for i in others):
        return renamed, {}  # Clip's limits are scalars
    if reader.op not in BINARY or reader.inputs[0] == reader.inputs[-1] or len(reader.outputs) != 1:
        return None
    perm = list(step.attributes["perm"])
    constants: dict[str, Array] = {}
    for i in others:
        value = program.constants.get(i)
        if value is not None and value.ndim <= len(perm):
            renamed[i] = f"{reader.outputs[0]}:{i}"
            constants[renamed[i]] = _transposed_back(value, perm)
            continue
        source = program.producer(i)
        twin = program.steps[source] if source is not None else None
        if twin is None or twin.op != "Transpose" or list(twin.attributes.get("perm", ())) != perm:
            return None
        renamed[i] = twin.inputs[0]
    return renamed, constants


def _transposed_back(value: Array, perm: list[int]) -> Array:
    """A constant that is broadcast against a transposed tensor, for that tensor before it was transposed."""
    full = value.reshape([1] * (len(perm) - value.ndim) + list(value.shape))
    return np.ascontiguousarray(full.transpose(np.argsort(perm))) if value.size > 1 else value


def _pad_into_conv(program: Program) -> Program | None:
    for step in program.steps:
        if step.op != "Pad" or step.attributes.get("mode", "constant") != "constant" or len(step.inputs) > 3:
            continue
        at, pads = _only_reader(program, step.outputs[0]), program.constant(step, 1)
        value = program.constant(step, 2) if len(step.inputs) > 2 and step.inputs[2] else np.zeros(1)
        if at is None or pads is None or value is None or np.any(value):
            continue
        conv = program.steps[at]
        table = pads.reshape(2, -1)
        if conv.op != "Conv" or table[:, :2].any() or (table < 0).any():
            continue
        own = np.reshape(conv.attributes.get("pads") or [0] * (2 * (table.shape[1] - 2)), (2, -1))
        both = [int(p) for p in (own + table[:, 2:]).reshape(-1)]
        merged = replace(conv, inputs=(step.inputs[0], *conv.inputs[1:]), attributes={**conv.attributes, "pads": both})
        return program.with_steps(at, merged)
    return None


def norm_terms(program: Program, step: Step) -> tuple[Array, Array] | None:
    """A batch normalization as (factor, term) for each channel: y = x * factor + term."""
    values = [program.constant(step, k) for k in range(1, 5)]
    if step.op != "BatchNormalization" or any(v is None for v in values) or step.attributes.get("training_mode"):
        return None
    scale, shift, mean, variance = (np.asarray(v, np.float64) for v in values)
    factor = scale / np.sqrt(variance + step.attributes.get("epsilon", 1e-5))
    return factor, shift - mean * factor


def _scaling(program: Program, step: Step, source: str, axis: int, rank: int) -> tuple[Array, Array] | None:
    """(factor, term) that `step` applies to each channel of `source`, scalars included; None if it does more."""
    if not step.node:
        return None  # rounding to a grid is no part of the operator
    if step.op == "BatchNormalization" and (axis == 1 or rank == 2):
        return norm_terms(program, step)
    if step.op not in ("Add", "Sub", "Mul", "Div") or len(step.inputs) != 2:
        return None
    position = 1 - step.inputs.index(source)
    value = program.constant(step, position)
    if value is None or value.dtype.kind != "f" or value.ndim > rank or (position == 0 and step.op == "Div"):
        return None
    full = value.reshape([1] * (rank - value.ndim) + list(value.shape)).astype(np.float64)
    if full.size != full.shape[axis]:
        return None
    c = full.reshape(-1)
    one, zero = np.ones_like(c), np.zeros_like(c)
    if step.op == "Add":
        return one, c
    if step.op == "Mul":
        return c, zero
    if step.op == "Div":
        return 1 / c, zero
    return (one, -c) if position == 1 else (-one, c)


def _fold_scaling(program: Program) -> Program | None:
    for k, step in enumerate(program.steps):
        if step.op not in LINEAR:
            continue
        at, weight = _only_reader(program, step.outputs[0]), program.constant(step, 1)
        if at is None or weight is None or (step.op == "MatMul" and weight.ndim != 2):
            continue
        reader = program.steps[at]
        axis, rank = (1, weight.ndim) if step.op.startswith("Conv") else (-1, 2 if step.op == "Gemm" else 8)
        if reader.inputs.count(step.outputs[0]) != 1:
            continue
        terms = _scaling(program, reader, step.outputs[0], axis, rank)
        if terms is None:
            continue
        made = _scaled(program, k, step, weight, *terms)
        if made is None:
            continue
        new, constants = made
        steps = list(program.steps)
        steps[k] = replace(new, outputs=reader.outputs)
        del steps[at]
        # What read the result comes after `at`; what comes between does not read it.
        return replace(program, steps=tuple(steps), constants={**program.constants, **constants})
    return None


def _scaled(
    program: Program, k: int, step: Step, weight: Array, factor: Array, term: Array
) -> tuple[Step, dict[str, Array]] | None:
    """The linear step with each output channel times `factor`, plus `term`."""
    transposed = step.op == "Gemm" and step.attributes.get("transB")
    group = step.attributes.get("group", 1)
    if step.op == "ConvTranspose" and group != 1:
        return None
    axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 0 if transposed else 1}[step.op]
    channels = weight.shape[axis]
    if factor.size not in (1, channels) or (step.op == "Gemm" and (step.attributes.get("beta", 1.0) != 1.0)):
        return None
    if step.op == "MatMul" and np.any(term):
        return None  # it has no bias: the Add stays
    bias = program.constant(step, 2)
    if len(step.inputs) > 2 and step.inputs[2] and bias is None:
        return None
    shape = [1] * weight.ndim
    shape[axis] = factor.size
    name = f"{step.outputs[0]}:folded{k}"
    constants = {f"{name}:w": (weight.astype(np.float64) * factor.reshape(shape)).astype(weight.dtype)}
    inputs = [step.inputs[0], f"{name}:w"]
    if step.op != "MatMul":
        whole = (np.zeros(channels) if bias is None else bias.astype(np.float64).reshape(-1)) * factor + term
        constants[f"{name}:b"] = np.broadcast_to(whole, (channels,)).astype(weight.dtype)
        inputs.append(f"{name}:b")
    return replace(step, inputs=tuple(inputs)), constants


RULES = (
    _drop_identity,
    _cancel_transposes,
    _pad_below_transpose,
    _sink_transpose,
    _pad_into_conv,
    _fold_scaling,
)
