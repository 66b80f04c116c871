"""TFLite's words: operator names to ONNX names, option tables to plain attributes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

__all__ = ["attributes", "canonical", "enum_names", "module_path"]


# Only words whose CamelCase is not already the ONNX name.
_CANONICAL = {
    "ADD_N": "Sum",
    "ARG_MAX": "ArgMax",
    "ARG_MIN": "ArgMin",
    "AVERAGE_POOL_2D": "AveragePool",
    "BATCH_MATMUL": "MatMul",
    "BIDIRECTIONAL_SEQUENCE_LSTM": "LSTM",
    "BIDIRECTIONAL_SEQUENCE_RNN": "RNN",
    "BITCAST": "BitCast",
    "BITWISE_XOR": "BitwiseXor",
    "BROADCAST_TO": "Expand",
    "CONCATENATION": "Concat",
    "CONV_2D": "Conv",
    "CONV_3D": "Conv",
    "CONV_3D_TRANSPOSE": "ConvTranspose",
    "CUMSUM": "CumSum",
    "DEPTHWISE_CONV_2D": "Conv",
    "DEPTH_TO_SPACE": "DepthToSpace",
    "DEQUANTIZE": "DequantizeLinear",
    "EXPAND_DIMS": "Unsqueeze",
    "FILL": "Expand",
    "FLOOR_MOD": "Mod",
    "FULLY_CONNECTED": "Gemm",
    "GATHER_ND": "GatherND",
    "GREATER_EQUAL": "GreaterOrEqual",
    "L2_NORMALIZATION": "LpNormalization",
    "L2_POOL_2D": "LpPool",
    "LESS_EQUAL": "LessOrEqual",
    "LOCAL_RESPONSE_NORMALIZATION": "LRN",
    "LOGICAL_AND": "And",
    "LOGICAL_NOT": "Not",
    "LOGICAL_OR": "Or",
    "LOGISTIC": "Sigmoid",
    "LSTM": "LSTM",
    "MAXIMUM": "Max",
    "MAX_POOL_2D": "MaxPool",
    "MEAN": "ReduceMean",
    "MINIMUM": "Min",
    "MIRROR_PAD": "Pad",
    "MULTINOMIAL": "Multinomial",
    "NON_MAX_SUPPRESSION_V4": "NonMaxSuppression",
    "NON_MAX_SUPPRESSION_V5": "NonMaxSuppression",
    "ONE_HOT": "OneHot",
    "PACK": "Concat",
    "PADV2": "Pad",
    "PRELU": "PRelu",
    "QUANTIZE": "QuantizeLinear",
    "RANDOM_STANDARD_NORMAL": "RandomNormalLike",
    "RANDOM_UNIFORM": "RandomUniformLike",
    "REDUCE_ALL": "ReduceMin",
    "REDUCE_ANY": "ReduceMax",
    "RELU6": "Clip",
    "RELU_0_TO_1": "Clip",
    "RELU_N1_TO_1": "Clip",
    "RESIZE_BILINEAR": "Resize",
    "RESIZE_NEAREST_NEIGHBOR": "Resize",
    "RFFT2D": "DFT",
    "RIGHT_SHIFT": "BitShift",
    "RNN": "RNN",
    "SCATTER_ND": "ScatterND",
    "SELECT": "Where",
    "SELECT_V2": "Where",
    "SPACE_TO_DEPTH": "SpaceToDepth",
    "SPLIT_V": "Split",
    "STRIDED_SLICE": "Slice",
    "SUM": "ReduceSum",
    "TOPK_V2": "TopK",
    "TRANSPOSE_CONV": "ConvTranspose",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "LSTM",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "RNN",
    "UNPACK": "Split",
    "WHERE": "NonZero",
    "WHILE": "Loop",
}

_ACTIVATIONS = {
    "RELU": "Relu",
    "RELU_N1_TO_1": "Clip",
    "RELU6": "Clip",
    "TANH": "Tanh",
    "SIGN_BIT": "SignBit",
}

_LEVEL = re.compile(r"(?:\w+\.)+[A-Za-z][^\W_]*_(\w+)")  # torch.nn.modules.conv.Conv2d_0
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # dilationHFactor: dilation_h_factor

_ENUM_FIELDS = {
    "combiner": "CombinerType",
    "kernel_type": "LSTMKernelType",
    "mode": "MirrorPadMode",
    "padding": "Padding",
    "weights_format": "FullyConnectedOptionsWeightsFormat",
} | dict.fromkeys(
    (
        "idx_out_type",
        "in_data_type",
        "key_dtype",
        "out_data_type",
        "out_type",
        "output_type",
        "quantized_bias_type",
        "value_dtype",
    ),
    "TensorType",
)


def canonical(word: str) -> str:
    """The ONNX word for a builtin's name; CamelCase of it where ONNX has none."""
    return _CANONICAL.get(word) or "".join(part.capitalize() for part in word.split("_"))


def module_path(name: str) -> str:
    """The torch module that litert-torch keeps in a tensor's name, or "".

    `net.Net/torch.nn.modules.container.Sequential_d1/torch.nn.modules.conv.Conv2d_0;;...` -> `d1.0`: the class of the
    network, then for each level the class and the attribute; of operators that were fused, the last comes first.
    """
    root, *levels = name.split(";")[0].split("/")
    found = [_LEVEL.fullmatch(level) for level in levels]
    if "." not in root or not found or not all(found):
        return ""
    return ".".join(level[1] for level in found if level)


def enum_names(schema: Any, name: str) -> dict[int, str]:
    """Value -> name of one of the schema's enums."""
    return {value: key for key, value in vars(getattr(schema, name)).items() if isinstance(value, int)}


def attributes(schema: Any, options: Any) -> dict[str, Any]:
    """An ...OptionsT table (or None) as plain values in snake_case, enums by name.

    The activation is `fused_activation`, the canonical op's name, absent when there is none; a Clip also carries
    the range as `fused_min` and `fused_max`, which the word alone does not say.
    """
    found: dict[str, Any] = {}
    for field, value in vars(options).items() if options is not None else ():
        key = _WORD_START.sub("_", field).lower()
        if key == "fused_activation_function":
            found |= _fused(enum_names(schema, "ActivationFunctionType").get(value, str(value)))
        elif key in _ENUM_FIELDS and isinstance(value, int):
            found[key] = enum_names(schema, _ENUM_FIELDS[key]).get(value, value)
        elif value is not None:
            found[key] = _plain(value)
    return found


def _fused(activation: str) -> dict[str, Any]:
    if activation == "NONE":
        return {}
    limits = {"RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}.get(activation)
    fused: dict[str, Any] = {"fused_activation": _ACTIVATIONS.get(activation, activation)}
    return fused | ({"fused_min": limits[0], "fused_max": limits[1]} if limits else {})


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
