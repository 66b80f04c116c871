"""Activations by name, written in ONNX operators that every opset from 11 on has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aligndbg.canonical.evaluate import Step
from aligndbg.core.types import Array

__all__ = ["ACTIVATIONS", "Written", "activation_steps", "describe_step", "written"]


# One operator that is an activation by itself.
ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Selu", "Gelu"}
    | {"Softplus", "Softsign", "Mish", "Erf", "ThresholdedRelu", "Celu", "QuickGelu"}
)
_NAMES = (
    "Relu", "ReLU6", "HardSwish", "SiLU", "Sigmoid", "Tanh", "LeakyRelu 0.01", "LeakyRelu 0.1", "LeakyRelu 0.2",
    "LeakyRelu 0.3", "HardSigmoid (x/6+0.5)", "HardSigmoid (0.2x+0.5)", "Clip to -1..1", "Clip to 0..1", "Elu",
    "GELU (erf)", "GELU (tanh)", "Softplus", "Mish", "Softsign", "Erf", "Erf by tanh", "Selu",
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """An activation as steps from `x` to `y`, with the constants they read."""

    name: str
    steps: tuple[Step, ...]
    constants: dict[str, Array]


def written(x: str, y: str, dtype: np.dtype) -> list[Written]:
    """Every activation known here, reading `x` and writing `y`."""
    return [activation_steps(name, x, y, dtype) for name in _NAMES]


class _Writer:
    def __init__(self, x: str, y: str, dtype: np.dtype) -> None:
        self.x, self.y, self.dtype = x, y, dtype
        self.steps: list[Step] = []
        self.constants: dict[str, Array] = {}

    def op(self, op: str, *inputs: str, last: bool = False, **attributes: float) -> str:
        name = self.y if last else f"{self.y}:activation{len(self.steps)}"
        self.steps.append(Step(op, inputs, (name,), attributes))
        return name

    def number(self, value: float) -> str:
        name = f"{self.y}:number{len(self.constants)}"
        self.constants[name] = np.asarray(value, self.dtype)
        return name


def activation_steps(name: str, x: str, y: str, dtype: np.dtype) -> Written:
    """Gaussian error units after Hendrycks and Gimpel (2016), Mish after Misra (2019), hard ones after MobileNetV3."""
    w = _Writer(x, y, dtype)
    word, _, rest = name.partition(" ")
    limits = {"ReLU6": (0, 6), "Clip": (-1, 1) if "-1" in rest else (0, 1)}
    if word in limits:
        w.op("Clip", x, w.number(limits[word][0]), w.number(limits[word][1]), last=True)
    elif word == "HardSwish":
        w.op("Mul", x, w.op("HardSigmoid", x, alpha=1 / 6, beta=0.5), last=True)
    elif word == "SiLU":
        w.op("Mul", x, w.op("Sigmoid", x), last=True)
    elif word == "LeakyRelu":
        w.op("LeakyRelu", x, alpha=float(rest), last=True)
    elif word == "HardSigmoid":
        w.op("HardSigmoid", x, alpha=1 / 6 if "6" in rest else 0.2, beta=0.5, last=True)
    elif word == "GELU":
        w.op("Mul", w.op("Mul", x, w.number(0.5)), w.op("Add", _gelu_curve(w, rest), w.number(1.0)), last=True)
    elif name == "Erf by tanh":  # what the tanh form of GELU has in place of erf(x / sqrt 2)
        cube = w.op("Mul", w.op("Mul", x, x), x)
        inside = w.op("Add", x, w.op("Mul", cube, w.number(2 * 0.044715)))
        w.op("Tanh", w.op("Mul", inside, w.number(2 / math.sqrt(math.pi))), last=True)
    elif word == "Mish":
        w.op("Mul", x, w.op("Tanh", w.op("Softplus", x)), last=True)
    else:
        w.op(word, x, last=True)
    return Written(name, tuple(w.steps), w.constants)


def _gelu_curve(w: _Writer, form: str) -> str:
    if "erf" in form:
        return w.op("Erf", w.op("Mul", w.x, w.number(math.sqrt(0.5))))
    cube = w.op("Mul", w.op("Mul", w.x, w.x), w.x)
    inside = w.op("Add", w.x, w.op("Mul", cube, w.number(0.044715)))
    return w.op("Tanh", w.op("Mul", inside, w.number(math.sqrt(2 / math.pi))))


def describe_step(step: Step, constants: Sequence[Array | None]) -> str:
    """An activation as people say it: ReLU6, LeakyRelu 0.1, Clip to 0..4."""
    a = step.attributes
    if step.op == "Clip":
        low, high = (float(c.reshape(-1)[0]) if c is not None and c.size else None for c in constants)
        low, high = a.get("min", low), a.get("max", high)
        if (low, high) == (0.0, 6.0):
            return "ReLU6"
        return f"Clip to {'' if low is None else f'{low:g}'}..{'' if high is None else f'{high:g}'}"
    if step.op == "LeakyRelu":
        return f"LeakyRelu {a.get('alpha', 0.01):.3g}"
    if step.op == "HardSigmoid":
        return f"HardSigmoid ({a.get('alpha', 0.2):.3g}x+{a.get('beta', 0.5):.3g})"
    if step.op == "Gelu":
        return f"GELU ({'tanh' if a.get('approximate') == 'tanh' else 'erf'})"
    return step.op
