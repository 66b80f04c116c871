"""Operators that compute nothing, in ONNX words."""

from __future__ import annotations

__all__ = ["LAYOUT_OPS", "MOVING", "NOT_COMPUTING", "PASSIVE_OPS"]

# Ops that move values without computing: what a converter adds or drops at will (canonical names).
LAYOUT_OPS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
# Ops whose output holds their input's values, at most rounded to another type.
PASSIVE_OPS = LAYOUT_OPS | {"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "Dropout"}
# Ops that round nothing by themselves.
MOVING = LAYOUT_OPS | {"Pad", "Slice", "Split", "Gather"}
# Of constants these give constants: what is stored, and what is known of shapes.
NOT_COMPUTING = PASSIVE_OPS | MOVING | {"Constant", "ConstantOfShape", "Expand", "Tile", "Shape", "Size", "Range"}
