"""What the system knows of memory: the most that processes held, and what they may give back."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable
from pathlib import Path

__all__ = ["forget_peaks", "give_back", "peak_bytes"]

PEAK = b"VmHWM:"


def forget_peaks(pids: Iterable[int]) -> None:
    """Lets the peak of each process begin at what it holds now (Linux keeps it, so that nothing has to watch)."""
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended; or the system has no such file
            Path(f"/proc/{pid}/clear_refs").write_bytes(b"5")


def peak_bytes(pids: Iterable[int]) -> int | None:
    """The sum of each process's peak of resident memory; None where the system does not tell.

    The peaks need not have been at the same time, and what processes share counts in each: never too little.
    """
    total = None
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
            kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith(PEAK))
            total = (total or 0) + 1024 * kilobytes
    return total


def give_back() -> None:
    """Gives freed memory back to the system, where the C library keeps it to itself until asked (glibc)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library; Windows has no CDLL(None)
        ctypes.CDLL(None).malloc_trim(0)
