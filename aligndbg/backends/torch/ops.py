"""ATen's words in ONNX's: operator names, and the attributes that decide what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["attributes", "canonical"]


# ATen word (without the trailing underscore of in-place variants) -> ONNX word.
_CANONICAL = {
    "_adaptive_avg_pool2d": "AveragePool",
    "_convolution": "Conv",
    "_native_batch_norm_legit": "BatchNormalization",
    "_native_batch_norm_legit_no_training": "BatchNormalization",
    "_scaled_dot_product_attention_math": "Attention",
    "_scaled_dot_product_flash_attention_for_cpu": "Attention",
    "_softmax": "Softmax",
    "_log_softmax": "LogSoftmax",
    "_to_copy": "Cast",
    "_unsafe_view": "Reshape",
    "adaptive_max_pool1d": "MaxPool",
    "adaptive_max_pool2d": "MaxPool",
    "addcmul": "Add",
    "addmm": "Gemm",
    "alias": "Identity",
    "amax": "ReduceMax",
    "amin": "ReduceMin",
    "baddbmm": "MatMul",
    "batch_norm": "BatchNormalization",
    "bernoulli": "Bernoulli",
    "bmm": "MatMul",
    "broadcast_to": "Expand",
    "cat": "Concat",
    "chunk": "Split",
    "clamp": "Clip",
    "clamp_max": "Min",
    "clamp_min": "Max",
    "clone": "Identity",
    "concat": "Concat",
    "contiguous": "Identity",
    "convolution": "Conv",
    "copy": "Identity",
    "cumsum": "CumSum",
    "detach": "Identity",
    "dropout": "Dropout",
    "embedding": "Gather",
    "eq": "Equal",
    "feature_dropout": "Dropout",
    "flatten": "Flatten",
    "floor_divide": "Div",
    "ge": "GreaterOrEqual",
    "glu": "Mul",
    "grid_sampler": "GridSample",
    "grid_sampler_2d": "GridSample",
    "group_norm": "GroupNormalization",
    "gt": "Greater",
    "hardsigmoid": "HardSigmoid",
    "hardswish": "HardSwish",
    "hardtanh": "Clip",
    "index": "GatherND",
    "index_put": "ScatterND",
    "index_select": "Gather",
    "instance_norm": "InstanceNormalization",
    "layer_norm": "LayerNormalization",
    "le": "LessOrEqual",
    "leaky_relu": "LeakyRelu",
    "lift_fresh": "Identity",
    "linalg_vector_norm": "ReduceL2",
    "linear": "Gemm",
    "log_softmax": "LogSoftmax",
    "logical_and": "And",
    "logical_not": "Not",
    "logical_or": "Or",
    "lt": "Less",
    "masked_fill": "Where",
    "matmul": "MatMul",
    "maximum": "Max",
    "mean": "ReduceMean",
    "minimum": "Min",
    "mm": "MatMul",
    "movedim": "Transpose",
    "native_group_norm": "GroupNormalization",
    "native_layer_norm": "LayerNormalization",
    "ne": "NotEqual",
    "norm": "ReduceL2",
    "permute": "Transpose",
    "pixel_shuffle": "DepthToSpace",
    "pixel_unshuffle": "SpaceToDepth",
    "prelu": "PRelu",
    "prod": "ReduceProd",
    "rand": "RandomUniform",
    "rand_like": "RandomUniformLike",
    "randn": "RandomNormal",
    "randn_like": "RandomNormalLike",
    "relu6": "Clip",
    "repeat": "Tile",
    "repeat_interleave": "Tile",
    "reshape": "Reshape",
    "rms_norm": "RMSNormalization",
    "rsqrt": "Reciprocal",
    "rsub": "Sub",
    "scaled_dot_product_attention": "Attention",
    "scatter": "ScatterElements",
    "select": "Gather",
    "silu": "Swish",
    "split_with_sizes": "Split",
    "squeeze": "Squeeze",
    "stack": "Concat",
    "sum": "ReduceSum",
    "swapaxes": "Transpose",
    "t": "Transpose",
    "tensor_split": "Split",
    "threshold": "ThresholdedRelu",
    "to": "Cast",
    "topk": "TopK",
    "transpose": "Transpose",
    "triu": "Trilu",
    "tril": "Trilu",
    "type_as": "Cast",
    "unbind": "Split",
    "unflatten": "Reshape",
    "unsqueeze": "Unsqueeze",
    "view": "Reshape",
    "view_as": "Reshape",
    "where": "Where",
} | {
    f"{word}{tail}": name
    for word, name in {
        "avg_pool": "AveragePool",
        "conv": "Conv",
        "conv_transpose": "ConvTranspose",
        "max_pool": "MaxPool",
    }.items()
    for tail in ("1d", "2d", "3d", "2d_with_indices")
}
_CONV_TRANSPOSED = ("_convolution", "convolution")


def canonical(word: str, given: Mapping[str, Any]) -> str:
    """The ONNX word for an ATen one (`conv2d`); CamelCase of it where ONNX has none. `given` are its arguments."""
    word = word.removesuffix("_")
    space, _, rest = word.rpartition(".")
    if space == "quantized":
        word = rest.removesuffix("_fp16").removesuffix("_dynamic").removesuffix("_relu")
    if rest.startswith(("quantize_", "dequantize_")) or rest == "dequantize":
        return "QuantizeLinear" if rest[0] == "q" else "DequantizeLinear"
    if word in _CONV_TRANSPOSED and given.get("transposed"):
        return "ConvTranspose"
    if word.startswith("adaptive_avg_pool"):
        whole = all(size == 1 for size in _listed(given.get("output_size", 0)))
        return "GlobalAveragePool" if whole else "AveragePool"
    if word.startswith(("upsample_", "_upsample_")):
        return "Resize"
    if word.endswith(("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")):
        return "Pad"
    if word in ("constant_pad_nd", "pad", "reflection_pad3d", "replication_pad3d"):
        return "Pad"
    return _CANONICAL.get(word) or "".join(part[:1].upper() + part[1:] for part in word.split("_"))


def attributes(word: str, given: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """The attributes of the ONNX operator, from ATen's arguments; of one without a rule, the arguments themselves.

    `rank` is that of the first tensor: negative axes are counted from its end.
    """
    word = word.removesuffix("_")
    for words, make in _RULES.items():
        if word in words:
            return make(given, max(rank - 2, 1))
    plain: dict[str, Any] = {key: value for key, value in given.items() if isinstance(value, bool | int | float | str)}
    plain |= {key: list(value) for key, value in given.items() if _numbers(value)}
    axes = plain.pop("dim", None)
    rank += word in ("stack", "unsqueeze")  # which count in what they make
    if isinstance(axes, int):
        plain["axis"] = axes % max(rank, 1)
    elif isinstance(axes, list):
        plain["axes"] = [axis % max(rank, 1) for axis in axes]
    return plain


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, bool | int | float) for item in value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _spread(value: Any, count: int) -> list[int]:
    """One number for all axes, or one for each."""
    found = _listed(value)
    return [int(v) for v in (found * count if len(found) == 1 else found)]


def _conv(given: Mapping[str, Any], axes: int) -> dict[str, Any]:
    padding = given.get("padding", 0)
    out: dict[str, Any] = {
        "strides": _spread(given.get("stride", 1), axes),
        "dilations": _spread(given.get("dilation", 1), axes),
        "group": given.get("groups", 1),
    }
    if isinstance(padding, str):
        out["auto_pad"] = "SAME_UPPER" if padding == "same" else "VALID"
    else:
        out["pads"] = _spread(padding, axes) * 2
    if given.get("output_padding") and any(_listed(given["output_padding"])):
        out["output_padding"] = _spread(given["output_padding"], axes)
    return out


def _pool(given: Mapping[str, Any], axes: int) -> dict[str, Any]:
    kernel = _spread(given.get("kernel_size", 1), axes)
    out: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": _spread(given["stride"], axes) if given.get("stride") else kernel,
        "pads": _spread(given.get("padding", 0), axes) * 2,
        "ceil_mode": int(bool(given.get("ceil_mode", False))),
    }
    if "count_include_pad" in given:
        out["count_include_pad"] = int(bool(given["count_include_pad"]))
    if "dilation" in given:
        out["dilations"] = _spread(given["dilation"], axes)
    return out


def _norm(given: Mapping[str, Any], _: int) -> dict[str, Any]:
    out = {"epsilon": given["eps"]} if "eps" in given else {}
    if "num_groups" in given:
        out["num_groups"] = given["num_groups"]
    if given.get("training"):
        out["training_mode"] = 1
    return out


def _permute(given: Mapping[str, Any], axes: int) -> dict[str, Any]:
    rank = len(_listed(given.get("dims", ())))
    return {"perm": [d % rank for d in _listed(given.get("dims", ()))]} if rank else {}


def _clip(low: str, high: str) -> Callable[[Mapping[str, Any], int], dict[str, Any]]:
    def make(given: Mapping[str, Any], _: int) -> dict[str, Any]:
        bounds = {"min": given.get(low), "max": given.get(high)}
        return {key: value for key, value in bounds.items() if isinstance(value, int | float)}

    return make


_RULES: dict[tuple[str, ...], Callable[[Mapping[str, Any], int], dict[str, Any]]] = {
    ("conv1d", "conv2d", "conv3d", "_convolution", "convolution"): _conv,
    ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"): _conv,
    ("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices"): _pool,
    ("avg_pool1d", "avg_pool2d", "avg_pool3d"): _pool,
    ("batch_norm", "group_norm", "layer_norm", "instance_norm", "native_layer_norm", "native_group_norm"): _norm,
    ("permute",): _permute,
    ("leaky_relu",): lambda given, _: {"alpha": given.get("negative_slope", 0.01)},
    ("elu",): lambda given, _: {"alpha": given.get("alpha", 1.0)},
    ("gelu",): lambda given, _: {"approximate": given.get("approximate", "none")},
    ("clamp",): _clip("min", "max"),
    ("hardtanh",): _clip("min_val", "max_val"),
    ("relu6",): lambda given, _: {"min": 0.0, "max": 6.0},
}
