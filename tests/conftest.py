"""Settings that must stand before any runtime is imported, and the paths of the bundled models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime writes into the home folder
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

collect_ignore = ["sample_project"]  # tests/test_pytest_plugin.py runs it

# A loaded machine is no failure, and a failure must come again when the run is repeated.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of the small models that fixtures/make_*.py write."""
    return Path(__file__).parent.parent / "fixtures"


@pytest.fixture(scope="session")
def demo(fixtures: Path) -> Path:
    """The folder of the pair that `aligndbg demo` compares."""
    return fixtures.parent / "aligndbg" / "demo"
