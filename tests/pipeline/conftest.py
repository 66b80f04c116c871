"""The pair that is compared on several inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

import aligndbg


@pytest.fixture(scope="module")
def pair(fixtures: Path) -> tuple[Path, Path]:
    return fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"


@pytest.fixture(scope="module")
def name(pair: tuple[Path, Path]) -> str:
    return aligndbg.layers(pair[0]).inputs[0]
