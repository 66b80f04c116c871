"""Runs the tests of `causes.EitherSide` and `causes.FromRecordings` over what their subclass plants."""

from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "swapped" in metafunc.fixturenames:
        metafunc.parametrize("swapped", [False, True], ids=["candidate", "reference"])
    for name in {"planted", "recorded"} & set(metafunc.fixturenames):
        chosen = [p for p in metafunc.cls.PLANTED if p.recorded or name == "planted"]
        metafunc.parametrize(name, chosen, ids=[p.name for p in chosen])
