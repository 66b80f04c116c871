"""Canonical steps on ONNX Runtime."""

from __future__ import annotations

import numpy as np

from aligndbg.canonical.evaluate import Step, evaluate


def test_a_scalar_is_fed_as_one() -> None:
    steps = [Step("Mul", ("x", "k"), ("m",)), Step("Unsqueeze", ("m", "axes"), ("y",))]
    feeds, constants = {"x": np.array(3, np.float32)}, {"k": np.float32(2), "axes": np.array([0])}
    m, y = evaluate(steps, feeds, constants, ["m", "y"], 18)
    assert m.shape == ()
    assert y.tolist() == [6]


def test_constants_that_decide_shapes_are_stored() -> None:
    steps = [
        Step("Shape", ("x",), ("s",)),
        Step("Slice", ("s", "from", "to", "axes"), ("two",)),
        Step("Concat", ("two", "size"), ("sizes",), {"axis": 0}),
        Step("Resize", ("x", "", "", "sizes"), ("y",), {"mode": "nearest"}),
    ]
    shape = {"from": np.array([0]), "to": np.array([2]), "axes": np.array([0]), "size": np.array([4, 6])}
    [y] = evaluate(steps, {"x": np.zeros((1, 2, 2, 3), np.float32)}, shape, ["y"], 17)
    assert y.shape == (1, 2, 4, 6)
