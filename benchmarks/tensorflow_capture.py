"""What it costs to see all tensors of a TensorFlow model.

    python benchmarks/tensorflow_capture.py MODEL INPUT.npz [MODEL INPUT.npz ...]

In turns, on one frozen graph: TensorFlow's own `Session.run` of the outputs alone (plain) and of everything,
our capture, an isolated run (every tensor overridden with its own value), and one experiment (a dozen operators in the
middle, all before them overridden). Medians of 15, in milliseconds.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np

from aligndbg.backends.tensorflow.backend import TensorflowBackend

ROUNDS = 15


def main(arguments: list[str]) -> None:
    print("| model | tensors | plain ms | fetch all | capture | isolated | experiment | capture / fetch all |")
    print("|---|---|---|---|---|---|---|---|")
    for model, feeds in zip(arguments[::2], arguments[1::2], strict=True):
        print(row(model, dict(np.load(feeds))), flush=True)


def row(model: str, feeds: dict[str, Any]) -> str:
    backend = TensorflowBackend(model, {})
    graph = backend.graph()
    fed = dict(zip(graph.inputs, feeds.values(), strict=True))
    names = graph.tappable()
    values = dict(backend.run(fed, names))
    session = backend._as_is()._session
    theirs = {name: backend._tensors[name] for name in (*graph.inputs, *names, *graph.outputs)}
    given = {theirs[name]: value for name, value in fed.items()}
    todo: list[Callable[[], Any]] = [
        lambda: session.run([theirs[name] for name in graph.outputs], given),
        lambda: session.run([theirs[name] for name in names], given),
        lambda: dict(backend.run(fed, names)),
        lambda: dict(backend.run(fed, names, values)),
        _experiment(backend, names, values),
    ]
    for call in todo:
        call()
    times: list[list[float]] = [[] for _ in todo]
    for _ in range(ROUNDS):
        for k, call in enumerate(todo):
            start = time.perf_counter()
            call()
            times[k].append(1000 * (time.perf_counter() - start))
    plain, everything, capture, isolated, experiment = (statistics.median(each) for each in times)
    backend.close()
    cells = [plain, everything, capture, isolated, experiment]
    label = os.path.basename(os.path.dirname(os.path.abspath(model)))
    return f"| {label} | {len(names)} | " + " | ".join(f"{c:.1f}" for c in cells) + f" | {capture / everything:.2f} |"


def _experiment(backend: TensorflowBackend, names: tuple[str, ...], values: dict[str, Any]) -> Callable[[], Any]:
    """All that is computed before it is overridden, so that a dozen operators run."""
    at = len(names) // 2
    given = {name: values[name] for name in names[:at]}
    return lambda: dict(backend.run({}, names[at : at + 12], given))


if __name__ == "__main__":
    main(sys.argv[1:])
