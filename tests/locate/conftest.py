"""The input of the networks of numpy operators."""

from __future__ import annotations

import numpy as np
import pytest

from aligndbg.core.types import Array


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)
