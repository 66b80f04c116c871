"""For those who write a backend: subclass `BackendConformance` in your tests. Needs pytest."""

import pytest

pytest.register_assert_rewrite("aligndbg.testing.conformance")  # its failures then show the values

from aligndbg.testing.conformance import BackendConformance  # noqa: E402 - after the line above, or it is too late

__all__ = ["BackendConformance"]
