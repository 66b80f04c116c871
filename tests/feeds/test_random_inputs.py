"""Seeded random inputs, and the shapes of dynamic dimensions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligndbg.core.errors import UsageError
from aligndbg.core.types import TensorInfo
from aligndbg.feeds.random_inputs import parse_ranges, parse_shapes, random_inputs, resolve_shapes
from feed_cases import INT8, X


def test_random_inputs_depend_on_seed_and_name_only() -> None:
    infos = [X, TensorInfo("ids", (2, 9), "int64"), TensorInfo("m", (9,), "bool"), TensorInfo("u", (9,), "uint8"),
             TensorInfo("h", (9,), "bfloat16"), TensorInfo("q", (50,), "int8", INT8)]  # fmt: skip
    one, other = random_inputs(infos, seed=1), random_inputs(infos[::-1], seed=1)
    for info in infos:
        array = one[info.name]
        assert array.dtype.name == info.dtype
        assert array.shape == info.shape
        np.testing.assert_array_equal(array, other[info.name])
        assert len(np.unique(array.astype(np.float64))) > 1
    assert 0 <= one["x"].min() < 0.2 < 0.8 < one["x"].max() < 1
    assert set(one["ids"].ravel()) == {0, 1}
    assert one["q"].min() < -60
    assert one["q"].max() > 60
    assert (random_inputs([X], seed=2)["x"] != one["x"]).any()


@given(st.integers(0, 1000), st.sampled_from(["int64", "bool", "float32", "uint8"]), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_random_inputs_are_never_constant_or_zero(seed: int, dtype: str, size: int) -> None:
    array = random_inputs([TensorInfo("t", (size,), dtype)], seed=seed)["t"]
    assert array.any()
    assert size == 1 or len(np.unique(array)) > 1


def test_random_ranges() -> None:
    ids = TensorInfo("ids", (500,), "int32")
    got = random_inputs([X, ids], val_range={"": (-2, -1), "ids": (5, 9)})
    assert -2 <= got["x"].min() <= got["x"].max() < -1
    assert set(got["ids"]) == {5, 6, 7, 8, 9}
    normal = random_inputs([TensorInfo("x", (4000,), "float32")], distribution="normal", val_range=(0, 6))["x"]
    assert (normal.mean(), normal.std()) == pytest.approx((3, 1), abs=0.1)
    with pytest.raises(UsageError, match="holds no int32"):
        random_inputs([ids], val_range=(0.2, 0.8))
    with pytest.raises(UsageError, match="no input 'idz'"):
        random_inputs([ids], val_range={"idz": (0, 1)})
    with pytest.raises(UsageError, match="no random values"):
        random_inputs([TensorInfo("c", (1,), "complex64")])


def test_dynamic_shapes() -> None:
    a, b = TensorInfo("a", ("batch", "seq"), "int64"), TensorInfo("b", ("batch", "seq", 4), "float32")
    assert resolve_shapes([a, b], {"a": (2, 7)}) == {"a": (2, 7), "b": (2, 7, 4)}
    with pytest.raises(UsageError, match=r"dimension 1 \(seq\) of the input 'a'.*\n.*--shape a=NxN"):
        resolve_shapes([a, b])
    with pytest.raises(UsageError, match=r"--shape gives 3 where the input 'b' has batch = 2"):
        resolve_shapes([a, b], {"a": (2, 7), "b": (3, 7, 4)})
    with pytest.raises(UsageError, match="no input 'c'"):
        resolve_shapes([a], {"c": (1,)})
    notes: list[str] = []
    assert resolve_shapes([TensorInfo("x", (None, 3), "float32")], notes=notes) == {"x": (1, 3)}
    assert "taken as 1" in notes[0]
    hint = TensorInfo("serving_default_x:0", (1, 6, 8, 3), "float32")
    assert resolve_shapes([TensorInfo("x", (None, 3, None, None))], hints=[hint]) == {"x": (1, 3, 6, 8)}


def test_options_are_parsed_or_refused() -> None:
    assert parse_shapes(["x=1x3x4x5"], [X]) == parse_shapes(["1,3,4,5"], [X]) == {"x": (1, 3, 4, 5)}
    assert parse_ranges(["-1,1", "x=0,255"], [X]) == {"": (-1, 1), "x": (0, 255)}
    for specs in (["y=1x2"], ["x=axb"], ["x="]):
        with pytest.raises(UsageError):
            parse_shapes(specs, [X])
    for specs in (["1"], ["2,1"], ["y=0,1"], ["0,nan"]):
        with pytest.raises(UsageError):
            parse_ranges(specs, [X])
