"""Several inputs of the fixture network, and what a diff says but for its times."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

import aligndbg

SHAPE = (1, 3, 32, 40)


def document(diff: aligndbg.Diff) -> dict[str, Any]:
    """All that a diff found; how long it took differs from run to run."""
    found: dict[str, Any] = json.loads(diff.to_json())
    del found["timing"], found["memory"]
    return found


def inputs(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).uniform(size=(count, *SHAPE)).astype(np.float32)
