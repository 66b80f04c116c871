"""What RECORD says of one build: its seconds and how far it is from its framework, or why it failed or was refused."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["attempt", "distance"]


def attempt(path: Path, make: Callable[[], None], far: Callable[[], list[float]]) -> dict[str, Any]:
    """`make` writes `path`, `far` runs it: how far each output is off. A file that does not run is not kept."""
    _gone(path)
    start = time.perf_counter()
    try:
        with _quiet():
            make()
    except Exception as error:  # exporters and converters raise all sorts; the record is what is wanted of them
        _gone(path)
        return {"failed": _why(error)}
    seconds = round(time.perf_counter() - start, 1)
    try:
        with _quiet():
            return {"seconds": seconds, "off": far()}
    except Exception as error:  # the runtimes' exceptions have no common class
        _gone(path)
        return {"refused": _why(error)}


def _gone(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def distance(a: Any, b: Any) -> float:
    """Relative L2."""
    return float(np.linalg.norm(a.astype(np.float64) - b) / (np.linalg.norm(b) or 1))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters and converters talk much, on both streams and in the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        nowhere = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
