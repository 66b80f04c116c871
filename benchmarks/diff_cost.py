"""What `aligndbg.diff` costs, against loading and running both models once with every tensor fetched.

    python benchmarks/diff_cost.py [REFERENCE.onnx CANDIDATE.tflite] [--repeat N]

Both are measured in one process, in turns, and medians are compared. Imports and the start of the worker processes are
left out: backends are opened and asked for their graph first. The base is plain ONNX Runtime with each value marked as
an output, and plain LiteRT with all tensors preserved. A diff keeps no pictures of its pairs here, as on the command
line without --html and --save, but for the row that says so. Exits with 1 where the full diff takes more than three
times the base and half a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime writes into the home folder

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

import aligndbg

Array = np.ndarray[Any, np.dtype[Any]]
FACTOR, EXTRA = 3.0, 0.5
MODES: dict[str, dict[str, bool]] = {
    "diff": {},
    "diff, no checks": {"checks": False},
    "diff, no isolation": {"isolate": False},
    "diff, neither": {"checks": False, "isolate": False},
    "diff with pictures": {"details": True},
}


def default_pair() -> tuple[Path, Path]:
    root = Path(__file__).parents[1]
    real = root.parent / "shared" / "pairs" / "mobilenetv3_small"
    if real.is_dir():
        return real / "model_ts.onnx", real / "o2t_float32.tflite"
    return root / "fixtures" / "cnn.onnx", root / "fixtures" / "cnn.tflite"


def run_onnx(path: Path, x: Array) -> int:
    """Loads the model with every node output marked, and runs it once; the number of values."""
    model = onnx.load(path)
    known = {o.name for o in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                model.graph.output.add().name = name
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return len(session.run(None, {session.get_inputs()[0].name: x}))


def run_tflite(path: Path, x: Array) -> int:
    """Loads the model with all tensors preserved, runs it once, and reads what its operators computed."""
    interpreter = Interpreter(model_path=str(path), experimental_preserve_all_tensors=True, num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    interpreter.set_tensor(entry["index"], x.reshape(entry["shape"]))
    interpreter.invoke()
    indices = {i for op in interpreter._get_ops_details() for i in op["outputs"]}
    return len([interpreter.get_tensor(i) for i in indices])


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(reference: Path, candidate: Path, repeat: int) -> dict[str, list[float]]:
    """Seconds of the base and of each mode, `repeat` times in turns; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in ("base", *MODES)}
    with ExitStack() as stack:
        opened = [aligndbg.open_model(path) for path in (reference, candidate)]
        for model in opened:
            stack.callback(model.close)
        graphs = [model.graph() for model in opened]
        trace = aligndbg.capture(opened[0])
        assert trace.feeds is not None
        x = np.asarray(trace.feeds[graphs[0].inputs[0]])
        entry = graphs[1].tensors[graphs[1].inputs[0]]
        moved = np.moveaxis(x, 1, -1) if x.shape != entry.static_shape and x.ndim > 2 else x
        fed = np.ascontiguousarray(moved, dtype=entry.dtype)
        for round_ in range(repeat + 1):
            taken = {"base": seconds(lambda: (run_onnx(reference, x), run_tflite(candidate, fed)))}
            for name, options in MODES.items():
                taken[name] = seconds(
                    lambda options=options: aligndbg.diff(*opened, x, **({"details": False} | options))
                )
            for name, value in taken.items():
                times[name] += [value] if round_ else []
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL", help="an ONNX and a float TFLite model")
    parser.add_argument("--repeat", type=int, default=7, help="rounds, after one to warm up (7)")
    options = parser.parse_args()
    if len(options.models) not in (0, 2):
        parser.error("give two models, or none")
    reference, candidate = options.models or default_pair()
    times = measure(reference, candidate, max(1, options.repeat))
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["base"]
    print(f"{reference}\n{candidate}\n{options.repeat} rounds, median (lowest to highest) seconds")
    for name, values in times.items():
        ratio = "" if name == "base" else f"  {medians[name] / base:5.2f} x base"
        print(f"{name:<20} {medians[name]:7.3f}  ({min(values):.3f} to {max(values):.3f}){ratio}")
    limit = FACTOR * base + EXTRA
    holds = medians["diff"] <= limit
    print(f"diff <= {FACTOR:g} x base + {EXTRA:g} s = {limit:.3f} s: {'holds' if holds else 'DOES NOT HOLD'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
