"""What each ATen operator is in ONNX. Its numbers are attributes of the node (`other`, `alpha`), its tensors inputs.

A node lists each tensor that it reads once. What a rule cannot know (a divisor given, a training mode) shows when the
program is held against the runtime's own value, and such a program is not used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aligndbg.backends.torch import indexing, recurrent
from aligndbg.canonical.emitter import Emitter, Form, Forms, gelu, registry
from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.core.types import Node

__all__ = ["FORMS"]

FORMS: Forms = {}
form = registry(FORMS)
OVERLAID = ("Slice", "ScatterND")  # not what overwrites, but a tensor that shares its memory
TO_ONNX = {"float32": 1, "float16": 10, "float64": 11}  # TensorProto.DataType


def _dtype(e: Emitter, name: str) -> np.dtype[Any]:
    """Of a tensor; one that numpy has no name for (bfloat16) cannot be computed here."""
    try:
        return np.dtype(e.graph.tensors[name].dtype)
    except (KeyError, TypeError):
        raise CannotEvaluateError(f"the dtype of {name!r} is none of numpy's") from None


def _number(e: Emitter, node: Node, value: Any) -> str:
    """A constant of the dtype of what the node reads."""
    return e.const(value, _dtype(e, node.inputs[0]))


def _axis(e: Emitter, node: Node, default: int = 0) -> int:
    return int(node.attributes.get("axis", default)) % max(len(e.shape(node.inputs[0])), 1)


def _to_shape(e: Emitter, name: str, output: str) -> None:
    e.add("Reshape", [name, e.const(e.shape(output))], output)


# Convolutions and what has windows.


def _spatial(e: Emitter, node: Node) -> int:
    """How many axes windows move along. Raises for a tensor without a batch axis."""
    rank = len(e.shape(node.inputs[0]))
    if rank < 3 or len(e.shape(node.outputs[0])) != rank:
        raise CannotEvaluateError(f"{node.op_type} of a tensor of {rank} axes")
    return rank - 2


@form("conv1d", "conv2d", "conv3d", "convolution", "_convolution")
@form("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv(e: Emitter, node: Node) -> None:
    count, a = _spatial(e, node), node.attributes
    kernel = e.shape(node.inputs[1])[2:]
    if len(kernel) != count:
        raise CannotEvaluateError("a convolution without a batch axis")
    pads = list(a.get("pads", [0] * 2 * count))
    if a.get("auto_pad") == "SAME_UPPER":
        spread = [(k - 1) * d for k, d in zip(kernel, a["dilations"], strict=True)]
        pads = [s // 2 for s in spread] + [s - s // 2 for s in spread]
    more: dict[str, Any] = {"output_padding": list(a["output_padding"])} if "output_padding" in a else {}
    e.add(
        node.canonical,
        node.inputs[:3],
        kernel_shape=list(kernel),
        strides=list(a["strides"]),
        dilations=list(a["dilations"]),
        pads=pads,
        group=int(a["group"]),
        **more,
    )


@form("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices")
@form("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _pool(e: Emitter, node: Node) -> None:
    _spatial(e, node)
    known = {k: v for k, v in node.attributes.items() if k in ("kernel_shape", "strides", "pads", "ceil_mode")}
    if node.canonical == "MaxPool":
        known["dilations"] = list(node.attributes.get("dilations", [1] * len(known["strides"])))
    else:
        known["count_include_pad"] = int(node.attributes.get("count_include_pad", 1))
    e.add(node.canonical, node.inputs, **known)


@form("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def _adaptive(e: Emitter, node: Node) -> None:
    """Windows of one size where the sizes divide; else they overlap unevenly, as no operator of ONNX does."""
    _spatial(e, node)
    before, after = e.shape(node.inputs[0])[2:], e.shape(node.outputs[0])[2:]
    if set(after) == {1}:
        e.add("GlobalAveragePool", node.inputs)
        return
    if any(b % a for b, a in zip(before, after, strict=True)):
        raise CannotEvaluateError("windows of unlike sizes")
    kernel = [b // a for b, a in zip(before, after, strict=True)]
    e.add("AveragePool", node.inputs, kernel_shape=kernel, strides=kernel)


_RESIZES: dict[str, dict[str, Any]] = {
    "upsample_nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "_upsample_nearest_exact": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    "upsample_linear": {"mode": "linear"},
    "upsample_bilinear": {"mode": "linear"},
    "upsample_bicubic": {"mode": "cubic", "cubic_coeff_a": -0.75},
}


@form(*(f"{word}{axes}d" for word in _RESIZES for axes in (1, 2)))
def _resize(e: Emitter, node: Node) -> None:
    known: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel", **_RESIZES[node.op_type[:-2]]}
    if node.attributes.get("align_corners"):
        known["coordinate_transformation_mode"] = "align_corners"
    factors = node.attributes.get("scale_factors")  # given so, they are not rounded to whole pixels
    target = [e.const([1, 1, *factors], np.float32)] if factors else ["", e.const(e.shape(node.outputs[0]))]
    e.add("Resize", [node.inputs[0], "", *target], **known)


# Matrices.


@form("linear")
def _linear(e: Emitter, node: Node) -> None:
    x, weight = node.inputs[:2]
    shape, depth = e.shape(node.outputs[0]), e.shape(weight)[-1]
    if len(e.shape(x)) == 2:
        e.add("Gemm", node.inputs[:3], transB=1)
        return
    flat = e.inner("Reshape", [x, e.const([-1, depth])])
    e.add("Reshape", [e.inner("Gemm", [flat, *node.inputs[1:3]], transB=1), e.const(shape)])


@form("addmm")
def _addmm(e: Emitter, node: Node) -> None:
    added, left, right = _three(node)
    alpha, beta = (float(node.attributes.get(name, 1)) for name in ("alpha", "beta"))
    e.add("Gemm", [left, right, added], alpha=alpha, beta=beta)


@form("baddbmm")
def _baddbmm(e: Emitter, node: Node) -> None:
    added, left, right = _three(node)
    made, terms = e.inner("MatMul", [left, right]), []
    for name, factor in ((added, node.attributes.get("beta", 1)), (made, node.attributes.get("alpha", 1))):
        terms.append(name if factor == 1 else e.inner("Mul", [name, _number(e, node, factor)]))
    e.add("Add", terms)


def _three(node: Node) -> tuple[str, str, str]:
    if len(node.inputs) != 3:
        raise CannotEvaluateError(f"{node.op_type} reads one tensor twice")
    return node.inputs[0], node.inputs[1], node.inputs[2]


@form("matmul", "mm", "bmm")
def _matmul(e: Emitter, node: Node) -> None:
    e.add("MatMul", [node.inputs[0], node.inputs[-1]])


@form("scaled_dot_product_attention")
def _attention(e: Emitter, node: Node) -> None:
    """softmax(q k^T * scale + mask) v (Vaswani et al., 2017); scale is 1 / sqrt(depth) where none is given."""
    if len(node.inputs) < 3 or node.attributes.get("dropout_p"):
        raise CannotEvaluateError("attention that reads one tensor twice, or drops out")
    q, k, v = node.inputs[:3]
    rows, depth = e.shape(q)[-2:]
    scale = node.attributes.get("scale", 1 / math.sqrt(depth))
    rank = len(e.shape(k))
    turned = e.inner("Transpose", [k], perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = e.inner("Mul", [e.inner("MatMul", [q, turned]), _number(e, node, scale)])
    if len(node.inputs) > 3:
        mask = node.inputs[3]
        if _dtype(e, mask) != _dtype(e, q):
            raise CannotEvaluateError("a mask of booleans")
        scores = e.inner("Add", [scores, mask])
    if node.attributes.get("is_causal"):
        later = np.triu(np.full((rows, e.shape(k)[-2]), -np.inf), 1)
        scores = e.inner("Add", [scores, _number(e, node, later)])
    e.add("MatMul", [e.inner("Softmax", [scores], axis=-1), v])


# Normalizations.


@form("batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(e: Emitter, node: Node) -> None:
    x, *parameters = node.inputs
    if len(parameters) == 2:  # not affine: mean and variance only
        channels, dtype = e.shape(x)[1], _dtype(e, x)
        parameters = [e.const(np.ones(channels), dtype), e.const(np.zeros(channels), dtype), *parameters]
    if len(parameters) != 4:
        raise CannotEvaluateError("a batch normalization by the batch's own mean and variance")
    e.add("BatchNormalization", [x, *parameters], epsilon=_epsilon(node))
    if node.attributes.get("training_mode"):
        outputs = tuple(f"{node.outputs[0]}{end}" for end in ("", ":mean", ":variance"))
        kept = {**e.steps[-1].attributes, "training_mode": 1}
        e.steps[-1] = replace(e.steps[-1], attributes=kept, outputs=outputs)


def _epsilon(node: Node) -> float:
    return float(node.attributes.get("epsilon", node.attributes.get("eps", 1e-5)))


@form("layer_norm", "native_layer_norm")
def _layer_norm(e: Emitter, node: Node) -> None:
    if len(node.inputs) < 2:
        raise CannotEvaluateError("a layer normalization without weights: over how many axes is not known")
    axes = len(e.shape(node.inputs[1]))
    e.add("LayerNormalization", node.inputs[:3], axis=-axes, epsilon=_epsilon(node))


@form("group_norm", "instance_norm")
def _group_norm(e: Emitter, node: Node) -> None:
    """Instance normalization of groups as if they were channels, then a factor and an offset for each channel."""
    x, shape = node.inputs[0], e.shape(node.inputs[0])
    groups = int(node.attributes.get("num_groups", shape[1]))
    dtype, whole = _dtype(e, x), [1, shape[1], *[1] * (len(shape) - 2)]
    flat = e.inner("Reshape", [x, e.const([shape[0], groups, -1])])
    ones, zeros = e.const(np.ones(groups), dtype), e.const(np.zeros(groups), dtype)
    found = e.inner("InstanceNormalization", [flat, ones, zeros], epsilon=_epsilon(node))
    steps = [("Mul", name) for name in node.inputs[1:2]] + [("Add", name) for name in node.inputs[2:3]]
    if not steps:
        _to_shape(e, found, node.outputs[0])
        return
    found = e.inner("Reshape", [found, e.const(shape)])
    for k, (op, name) in enumerate(steps):
        spread = [found, e.const(e.known(name).reshape(whole), dtype)]
        found = e.add(op, spread) if k == len(steps) - 1 else e.inner(op, spread)


@form("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(e: Emitter, node: Node) -> None:
    e.add(node.canonical, node.inputs, axis=_axis(e, node, -1))


# Elementwise.

_UNARY = {
    "abs": "Abs", "ceil": "Ceil", "cos": "Cos", "erf": "Erf", "exp": "Exp", "floor": "Floor", "hardswish": "HardSwish",
    "log": "Log", "logical_not": "Not", "neg": "Neg", "reciprocal": "Reciprocal", "relu": "Relu",
    "round": "Round", "sigmoid": "Sigmoid", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "tanh": "Tanh",
} | dict.fromkeys(
    ("alias", "clone", "contiguous", "detach", "dropout", "feature_dropout", "lift_fresh"), "Identity"
)  # fmt: skip
_BINARY = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min", "pow": "Pow",
    "eq": "Equal", "gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual",
    "logical_and": "And", "bitwise_and": "And", "__and__": "And",
    "logical_or": "Or", "bitwise_or": "Or", "__or__": "Or",
}  # fmt: skip


@form(*_UNARY)
def _unary(e: Emitter, node: Node) -> None:
    if node.attributes.get("decimals"):
        raise CannotEvaluateError("rounding to decimals")
    e.add(_UNARY[node.op_type], node.inputs[:1])


@form("square")
def _square(e: Emitter, node: Node) -> None:
    e.add("Mul", [node.inputs[0], node.inputs[0]])


@form("rsqrt")
def _rsqrt(e: Emitter, node: Node) -> None:
    e.add("Reciprocal", [e.inner("Sqrt", node.inputs[:1])])


@form(*_BINARY, "rsub")
def _binary(e: Emitter, node: Node) -> None:
    """left op alpha * right. One tensor and no number: it is its own partner."""
    a, word = node.attributes, node.op_type
    if a.get("rounding_mode"):
        raise CannotEvaluateError(f"{word} that rounds")
    if len(node.inputs) > 1:
        right = node.inputs[1]
    else:
        number = a.get("other", a.get("exponent"))
        right = node.inputs[0] if number is None else _number(e, node, number)
    if a.get("alpha", 1) != 1:
        right = e.inner("Mul", [right, _number(e, node, a["alpha"])])
    left = node.inputs[0]
    if "self" in a:  # a number to the power of a tensor
        left, right = _number(e, node, a["self"]), left
    operands = [_promoted(e, node, name) for name in ([right, left] if word == "rsub" else [left, right])]
    e.add("Sub" if word == "rsub" else _BINARY[word], operands)


def _promoted(e: Emitter, node: Node, name: str) -> str:
    """An operand in the dtype of the result, where integers meet floats."""
    result = _dtype(e, node.outputs[0])
    value, info = e.value(name), e.graph.tensors.get(name)
    own = value.dtype if value is not None else e.constants[name].dtype if name in e.constants else None
    own = np.dtype(info.dtype) if own is None and info is not None else own
    if own is None or own.kind not in "iu" or result.kind != "f":
        return name
    return e.inner("Cast", [name], to=TO_ONNX[result.name])


@form("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6")
def _clip(e: Emitter, node: Node) -> None:
    if len(node.inputs) > 1:
        raise CannotEvaluateError("limits that are tensors")
    ends = (node.attributes.get("min"), node.attributes.get("max"))
    e.add("Clip", [node.inputs[0], *("" if end is None else _number(e, node, end) for end in ends)])


@form("gelu")
def _gelu(e: Emitter, node: Node) -> None:
    gelu(e, node.inputs[0], node.attributes.get("approximate") == "tanh", _dtype(e, node.inputs[0]))


@form("silu")
def _silu(e: Emitter, node: Node) -> None:
    e.add("Mul", [node.inputs[0], e.inner("Sigmoid", node.inputs[:1])])


@form("mish")
def _mish(e: Emitter, node: Node) -> None:
    e.add("Mul", [node.inputs[0], e.inner("Tanh", [e.inner("Softplus", node.inputs[:1])])])


@form("hardsigmoid")
def _hard_sigmoid(e: Emitter, node: Node) -> None:
    e.add("HardSigmoid", node.inputs, alpha=1 / 6, beta=0.5)


@form("elu", "leaky_relu")
def _with_slope(e: Emitter, node: Node) -> None:
    if node.attributes.get("scale", 1) != 1 or node.attributes.get("input_scale", 1) != 1:
        raise CannotEvaluateError("an Elu that is scaled")
    e.add(node.canonical, node.inputs, alpha=float(node.attributes["alpha"]))


@form("prelu")
def _prelu(e: Emitter, node: Node) -> None:
    slope, rank = e.known(node.inputs[1]), len(e.shape(node.inputs[0]))
    e.add("PRelu", [node.inputs[0], e.const(slope.reshape(-1, *[1] * max(rank - 2, 0)), slope.dtype)])


@form("softplus")
def _softplus(e: Emitter, node: Node) -> None:
    if node.attributes.get("beta", 1) != 1:
        raise CannotEvaluateError("a Softplus with beta")
    e.add("Softplus", node.inputs)


@form("where", "masked_fill")
def _where(e: Emitter, node: Node) -> None:
    if node.op_type.startswith("masked"):
        value = node.inputs[2] if len(node.inputs) > 2 else _number(e, node, node.attributes["value"])
        e.add("Where", [node.inputs[1], value, node.inputs[0]])
    else:
        e.add("Where", _three(node))


@form("to", "_to_copy", "type_as")
def _cast(e: Emitter, node: Node) -> None:
    dtype = e.graph.tensors[node.outputs[0]].dtype
    if dtype not in TO_ONNX:
        raise CannotEvaluateError(f"a cast to {dtype}")
    e.add("Cast", node.inputs[:1], to=TO_ONNX[dtype])


# Reductions.

_REDUCTIONS = {
    "mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin", "prod": "ReduceProd",
    "linalg_vector_norm": "ReduceL2",
}  # fmt: skip


@form(*_REDUCTIONS)
def _reduce(e: Emitter, node: Node) -> None:
    a, rank = node.attributes, len(e.shape(node.inputs[0]))
    if a.get("ord", 2) != 2:
        raise CannotEvaluateError(f"a norm of order {a['ord']}")
    axes = list(a["axes"]) if a.get("axes") else [a["axis"]] if "axis" in a else list(range(rank))
    op, keep = _REDUCTIONS[node.op_type], int(bool(a.get("keepdim")))
    if op == "ReduceSum":  # the one whose axes became an input before opset 18
        e.add(op, [node.inputs[0], e.const(axes)], keepdims=keep)
    else:
        e.add(op, node.inputs[:1], axes=axes, keepdims=keep)


@form("cumsum")
def _cumsum(e: Emitter, node: Node) -> None:
    e.add("CumSum", [node.inputs[0], e.const(_axis(e, node))])


# Moving values.


@form("view", "_unsafe_view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "view_as")
def _reshape(e: Emitter, node: Node) -> None:
    _to_shape(e, node.inputs[0], node.outputs[0])


@form("permute")
def _permute(e: Emitter, node: Node) -> None:
    e.add("Transpose", node.inputs, perm=list(node.attributes["perm"]))


@form("transpose", "swapaxes", "t", "mT")
def _transpose(e: Emitter, node: Node) -> None:
    """Two axes exchanged, the last two where none are given."""
    rank = len(e.shape(node.inputs[0]))
    perm = list(range(rank))
    if rank > 1:
        a, b = (int(node.attributes.get(f"dim{k}", k - 2)) % rank for k in (0, 1))
        perm[a], perm[b] = perm[b], perm[a]
    e.add("Transpose", node.inputs, perm=perm)


@form("cat", "concat")
def _concat(e: Emitter, node: Node) -> None:
    e.add("Concat", node.inputs, axis=_axis(e, node))


@form("stack")
def _stack(e: Emitter, node: Node) -> None:
    axis = int(node.attributes.get("axis", 0))
    e.add("Concat", [e.inner("Unsqueeze", [name, e.const([axis])]) for name in node.inputs], axis=axis)


@form("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def _pad(e: Emitter, node: Node) -> None:
    """Torch counts pads from the last axis, begin and end of each together."""
    a, word = node.attributes, node.op_type
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    mode = "reflect" if word.startswith("reflection") else "edge" if word.startswith("replic") else ""
    mode = mode or modes.get(str(a.get("mode", "constant")), "")
    if not mode:
        raise CannotEvaluateError(f"a pad of mode {a['mode']}")
    given, rank = list(a.get("pad", a.get("padding", []))), len(e.shape(node.inputs[0]))
    begin, end = np.zeros((2, rank), np.int64)
    for k in range(len(given) // 2):
        begin[rank - 1 - k], end[rank - 1 - k] = given[2 * k : 2 * k + 2]
    pads = e.const(np.concatenate([begin, end]))
    value = [_number(e, node, a.get("value") or 0)] if mode == "constant" else []
    e.add("Pad", [node.inputs[0], pads, *value], mode=mode)


@form("slice")
def _slice(e: Emitter, node: Node) -> None:
    a = node.attributes
    size = e.shape(node.inputs[0])[_axis(e, node)]
    start, end, step = (int(a.get(name, default)) for name, default in (("start", 0), ("end", size), ("step", 1)))
    limits = [e.const([value]) for value in (start, end, _axis(e, node), step)]
    e.add("Slice", [node.inputs[0], *limits])


@form("select")
def _select(e: Emitter, node: Node) -> None:
    axis = _axis(e, node)
    at = int(node.attributes["index"]) % e.shape(node.inputs[0])[axis]
    part = e.inner("Slice", [node.inputs[0], *(e.const([value]) for value in (at, at + 1, axis))])
    _to_shape(e, part, node.outputs[0])


@form("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
def _split(e: Emitter, node: Node) -> None:
    """Slices, so that one output alone can be asked for."""
    x, axis, begin = node.inputs[0], _axis(e, node), 0
    for name in node.outputs:
        size = 1 if node.op_type == "unbind" else e.shape(name)[axis]
        part = [x, *(e.const([value]) for value in (begin, begin + size, axis))]
        begin += size
        if node.op_type == "unbind":
            _to_shape(e, e.inner("Slice", part), name)
        else:
            e.add("Slice", part, name)


@form("expand", "expand_as", "broadcast_to")
def _expand(e: Emitter, node: Node) -> None:
    e.add("Expand", [node.inputs[0], e.const(e.shape(node.outputs[0]))])


@form("repeat")
def _repeat(e: Emitter, node: Node) -> None:
    times, shape = list(node.attributes["repeats"]), e.shape(node.inputs[0])
    whole = e.inner("Reshape", [node.inputs[0], e.const([*[1] * (len(times) - len(shape)), *shape])])
    e.add("Tile", [whole, e.const(times)])


@form("flip")
def _flip(e: Emitter, node: Node) -> None:
    axes = list(_listed(node.attributes.get("dims", node.attributes.get("axes"))))
    ends = [[-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-1] * len(axes)]
    e.add("Slice", [node.inputs[0], *(e.const(end) for end in ends)])


def _listed(value: Any) -> Sequence[int]:
    return [value] if isinstance(value, int) else list(value or ())


@form("embedding")
def _embedding(e: Emitter, node: Node) -> None:
    e.add("Gather", node.inputs[:2])


@form("index_select")
def _index_select(e: Emitter, node: Node) -> None:
    e.add("Gather", node.inputs[:2], axis=_axis(e, node))


@form("pixel_shuffle")
def _pixel_shuffle(e: Emitter, node: Node) -> None:
    e.add("DepthToSpace", node.inputs, blocksize=int(node.attributes["upscale_factor"]), mode="CRD")


# Operators that overwrite their input: torch marks them by `_` (`__and__` is no such).


def _overwriting(form_of_value: Form) -> Form:
    def overwriting(e: Emitter, node: Node) -> None:
        if node.canonical in OVERLAID:
            raise CannotEvaluateError(f"{node.op_type} has no canonical form here")
        form_of_value(e, replace(node, op_type=node.op_type.removesuffix("_")))

    return overwriting


FORMS |= recurrent.FORMS | indexing.FORMS
FORMS |= {f"{word}_": _overwriting(made) for word, made in FORMS.items() if not word.endswith("_")}
