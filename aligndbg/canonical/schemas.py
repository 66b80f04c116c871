"""What an operator is where its file does not say: attributes with the defaults of its own opset, input names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["Schema", "attribute_values", "schema"]


@dataclass(frozen=True)
class Schema:
    """`defaults` has every attribute, None where the specification leaves its meaning to the text or to the shapes."""

    domain: str
    defaults: Mapping[str, Any]
    inputs: tuple[str, ...]


@lru_cache(maxsize=1024)
def schema(op: str, opset: int) -> Schema | None:
    """Of the newest version of an operator that `opset` has in ONNX, else of what ONNX Runtime has by that name."""
    import onnx

    try:
        found: Any = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        found = _contrib().get(op)
    if found is None:
        return None
    defaults = {name: _default(attribute) for name, attribute in found.attributes.items()}
    return Schema(found.domain, defaults, tuple(item.name for item in found.inputs))


@lru_cache(maxsize=1)
def _contrib() -> dict[str, Any]:
    from onnxruntime.capi import onnxruntime_pybind11_state

    every = onnxruntime_pybind11_state.get_all_operator_schema()
    return {each.name: each for domain in ("", "com.microsoft") for each in every if each.domain == domain}


def _default(attribute: Any) -> Any:
    """Of an attribute of onnx.defs, or of ONNX Runtime, which gives bytes."""
    import onnx

    value = getattr(attribute, "default_value", None)
    if value is None:
        value = onnx.AttributeProto.FromString(attribute._default_value)
    if not value.type:
        return None
    found = onnx.helper.get_attribute_value(value)
    if isinstance(found, bytes):
        return found.decode()
    return [word.decode() for word in found] if value.type == onnx.AttributeProto.STRINGS else found


def attribute_values(op: str, opset: int, written: Mapping[str, Any]) -> dict[str, Any]:
    """Every attribute that the operator has, the written ones over the defaults; None where neither is known."""
    known = schema(op, opset)
    return {**(known.defaults if known else {}), **written}
