"""What the tests of the command line share: its outcome, strict JSON, and what a refusal looks like."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

Document = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]

SHAPE = (1, 3, 32, 40)  # of cnn.onnx's input; cnn.tflite has the channels last


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def strict(text: str) -> Document:
    """JSON as the standard has it: no NaN, no Infinity, no key twice."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def once(pairs: list[tuple[str, Any]]) -> Document:
        assert len({key for key, _ in pairs}) == len(pairs), "a key comes twice"
        return dict(pairs)

    document: Document = json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    return document


def refused(done: Done, *words: str) -> None:
    """Exit 2, nothing on stdout, one short message with a hint and no traceback on stderr."""
    assert done.code == 2, done.err
    assert done.out == ""
    assert done.err.startswith("aligndbg: error: ")
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 3
    assert "hint: " in done.err
    for word in words:
        assert word in done.err


def image(seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(0, 1, SHAPE).astype(np.float32)


def channels_last(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "PYTHONIOENCODING")} | more
