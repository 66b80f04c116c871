"""Any value as plain JSON."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

__all__ = ["plain_value"]


def plain_value(value: Any) -> Any:
    """Enums, tuples, dataclasses, numpy values and non-finite floats as JSON has them."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return plain_value(value.item())
    if isinstance(value, np.ndarray):
        return plain_value(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_value(getattr(value, f.name)) for f in fields(value)}
    if hasattr(value, "items"):
        return {plain_value(str(k)): plain_value(v) for k, v in value.items()}
    return [plain_value(v) for v in value]
