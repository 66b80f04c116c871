"""Peaks of memory by stage: what the system keeps of each process."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from aligndbg.core.clock import Clock
from aligndbg.core.process_memory import forget_peaks, peak_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")

MB = 1 << 20


def test_a_stage_is_charged_what_it_held_at_most_not_what_came_before() -> None:
    clock = Clock(None)
    for name, megabytes in (("small", 1), ("large", 300), ("after", 1)):
        with clock.stage(name):
            np.ones(megabytes * MB, np.uint8).sum(dtype=np.int64)
    small, large, after = (clock.memory[name] for name in ("small", "large", "after"))
    assert 290 * MB < large - small < 330 * MB
    assert after < small + 30 * MB


def test_the_largest_of_a_stage_that_comes_twice_counts() -> None:
    clock = Clock(None)
    for megabytes in (200, 1):
        with clock.stage("run"):
            np.ones(megabytes * MB, np.uint8).sum(dtype=np.int64)
    assert clock.memory["run"] > 200 * MB


def test_children_count_and_those_that_ended_do_not() -> None:
    code = "import sys; held = bytearray(b'x') * (200 << 20); print('there', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        own = peak_bytes([os.getpid()])
        both = peak_bytes([os.getpid(), child.pid])
        assert own is not None
        assert both is not None
        assert both - own > 200 * MB
        child.communicate()
    forget_peaks([child.pid])
    assert peak_bytes([child.pid]) is None
