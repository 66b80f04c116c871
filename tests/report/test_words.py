"""Names and numbers as every report writes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligndbg.report.words import bar, clean, number


@given(st.text(max_size=60))
def test_clean_leaves_nothing_that_acts_on_a_terminal(text: str) -> None:
    assert clean(text).isprintable()


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=60), st.integers(4, 80))
def test_clean_keeps_names_and_fits_the_width(text: str, width: int) -> None:
    assert clean(text) == text
    short = clean(text, width)
    assert len(short) <= width
    if len(text) > width:
        head, tail = short.split("…", 1) if text.count("…") == 0 else ("", "")
        assert text.startswith(head)
        assert text.endswith(tail)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "inf"),
        (0.0, "0"),
        (7, "7"),
        (0.25, "0.25"),
        (1.0, "1"),
        (99.6, "100"),
        (123.4, "123"),
        (0.000012345, "1.2e-05"),
        (-0.5, "-0.5"),
        (1e300, "1.0e+300"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@given(st.floats())
def test_numbers_are_short(value: float) -> None:
    assert len(number(value)) <= 9


@pytest.mark.parametrize(("value", "width"), [(None, 0), (0.0, 0), (1e-30, 2), (1e-4, 50), (5.0, 100), (np.nan, 100)])
def test_the_bars_scale(value: float | None, width: int) -> None:
    assert bar(value) == width
