"""Any value as plain JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pytest

from aligndbg.core.jsonable import plain_value


class Colour(StrEnum):
    RED = "red"


@dataclass
class Point:
    x: float
    y: tuple[int, ...]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (np.bool_(True), True),
        (3, 3),
        (np.int8(-3), -3),
        (np.float32(0.5), 0.5),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (np.float64(math.inf), "inf"),
        (Colour.RED, "red"),
        (Point(math.nan, (1, 2)), {"x": "nan", "y": [1, 2]}),
        (np.array([[1.0, math.nan]]), [[1.0, "nan"]]),
        ({"a": (1, {2})}, {"a": [1, [2]]}),
        (frozenset({"b"}), ["b"]),
    ],
)
def test_plain_value(value: Any, plain: Any) -> None:
    made = plain_value(value)
    assert made == plain
    assert type(made) is type(plain)
    json.dumps(made, allow_nan=False)


def test_names_that_are_no_unicode_stay_readable() -> None:
    """TFLite names may be any bytes; Python holds what is no UTF-8 as lone surrogates, which no JSON reader takes."""
    name = b"conv\xff".decode("utf-8", "surrogateescape")
    assert plain_value({name: name}) == {"conv\\udcff": "conv\\udcff"}
