"""TensorFlow's words: operator names to ONNX names, attributes to plain values."""

from __future__ import annotations

from typing import Any

__all__ = ["attributes", "canonical"]

# Only words that are not already the ONNX name.
_CANONICAL = {
    "AddN": "Sum",
    "AddV2": "Add",
    "All": "ReduceMin",
    "Any": "ReduceMax",
    "AvgPool": "AveragePool",
    "AvgPool3D": "AveragePool",
    "BatchMatMul": "MatMul",
    "BatchMatMulV2": "MatMul",
    "BatchMatMulV3": "MatMul",
    "BiasAdd": "Add",
    "BroadcastTo": "Expand",
    "ConcatV2": "Concat",
    "Conv2D": "Conv",
    "Conv2DBackpropInput": "ConvTranspose",
    "Conv3D": "Conv",
    "Conv3DBackpropInputV2": "ConvTranspose",
    "Cumsum": "CumSum",
    "DepthwiseConv2dNative": "Conv",
    "ExpandDims": "Unsqueeze",
    "FakeQuantWithMinMaxArgs": "QuantizeLinear",
    "FakeQuantWithMinMaxVars": "QuantizeLinear",
    "FakeQuantWithMinMaxVarsPerChannel": "QuantizeLinear",
    "Fill": "Expand",
    "FloorMod": "Mod",
    "FusedBatchNorm": "BatchNormalization",
    "FusedBatchNormV2": "BatchNormalization",
    "FusedBatchNormV3": "BatchNormalization",
    "GatherNd": "GatherND",
    "GatherV2": "Gather",
    "GreaterEqual": "GreaterOrEqual",
    "IdentityN": "Identity",
    "LessEqual": "LessOrEqual",
    "LogicalAnd": "And",
    "LogicalNot": "Not",
    "LogicalOr": "Or",
    "Max": "ReduceMax",
    "MaxPoolV2": "MaxPool",
    "MaxPool3D": "MaxPool",
    "Maximum": "Max",
    "Mean": "ReduceMean",
    "Min": "ReduceMin",
    "Minimum": "Min",
    "MirrorPad": "Pad",
    "NonMaxSuppressionV3": "NonMaxSuppression",
    "NonMaxSuppressionV4": "NonMaxSuppression",
    "NonMaxSuppressionV5": "NonMaxSuppression",
    "Pack": "Concat",
    "PadV2": "Pad",
    "PartitionedCall": "Identity",
    "PlaceholderWithDefault": "Identity",
    "PreventGradient": "Identity",
    "Prod": "ReduceProd",
    "RandomStandardNormal": "RandomNormalLike",
    "RealDiv": "Div",
    "Relu6": "Clip",
    "ResizeBicubic": "Resize",
    "ResizeBilinear": "Resize",
    "ResizeNearestNeighbor": "Resize",
    "Reverse": "ReverseSequence",
    "ScatterNd": "ScatterND",
    "Select": "Where",
    "SelectV2": "Where",
    "SplitV": "Split",
    "StatelessIf": "If",
    "StatelessWhile": "Loop",
    "StopGradient": "Identity",
    "StridedSlice": "Slice",
    "Sum": "ReduceSum",
    "TensorScatterUpdate": "ScatterND",
    "TopKV2": "TopK",
    "TruncateDiv": "Div",
    "Unpack": "Split",
    "Where": "NonZero",
    "While": "Loop",
    "_FusedConv2D": "Conv",
    "_FusedMatMul": "Gemm",
}


def canonical(word: str) -> str:
    """The ONNX word for an operator; its own where ONNX has none."""
    return _CANONICAL.get(word, word)


def attributes(operation: Any) -> dict[str, Any]:
    """What a tf.Operation says of itself, as plain values: types by name, functions by name, tensors left out."""
    found: dict[str, Any] = {}
    for key, value in operation.node_def.attr.items():
        if not key.startswith("_") and value.WhichOneof("value") not in (None, "tensor", "placeholder"):
            found[key] = _plain(operation.get_attr(key))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool | int | float | str):
        return value
    if type(value).__name__ == "DType":
        return value.name
    if hasattr(value, "unknown_rank"):  # TensorShapeProto
        return None if value.unknown_rank else [dim.size for dim in value.dim]
    return str(getattr(value, "name", value))
