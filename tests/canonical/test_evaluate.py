"""Canonical steps on ONNX Runtime."""

from __future__ import annotations

import numpy as np

from aligndbg.canonical.evaluate import Step, evaluate


def test_a_scalar_is_fed_as_one() -> None:
    steps = [Step("Mul", ("x", "k"), ("m",)), Step("Unsqueeze", ("m", "axes"), ("y",))]
    values = {"x": np.array(3, np.float32), "k": np.float32(2), "axes": np.array([0])}
    m, y = evaluate(steps, values, ["m", "y"], 18)
    assert m.shape == ()
    assert y.tolist() == [6]
