"""What performance.py measures: each tool on a pair of models, in this process or by its commands.

python benchmarks/performance_tools.py TOOL REFERENCE CANDIDATE FEEDS.npz      (prints what was found, as JSON)
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime writes into the home folder
ROOT = Path(__file__).resolve().parents[1]
Result = dict[str, Any]


def run_onnx(path: str, feeds: dict[str, Any]) -> int:
    """Loads the model with every node output marked, and runs it once; the number of values."""
    import onnx
    import onnxruntime

    model = onnx.load(path, load_external_data=False)  # external weights stay in their file, which ORT maps
    known = {o.name for o in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for node in model.graph.node for name in node.output if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    folder = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(folder, str(Path(path).resolve().parent))
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return len(session.run(None, feeds))


def run_tflite(path: str, feeds: dict[str, Any]) -> int:
    """Loads the model with all tensors preserved, runs it once, and reads what its operators computed."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, experimental_preserve_all_tensors=True, num_threads=1)
    feed_tflite(interpreter, feeds)
    indices = {i for op in interpreter._get_ops_details() for i in op["outputs"]}
    return len([interpreter.get_tensor(i) for i in indices])


def run_torch(path: str, feeds: dict[str, Any]) -> int:
    """Loads an exported program, runs it node by node, and keeps what each gives as an array."""
    import torch

    program = torch.export.load(path)
    values = []

    class Keeping(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            made = super().run_node(n)
            if n.op == "call_function" and isinstance(made, torch.Tensor):
                values.append(made.numpy().copy())
            return made

    with torch.inference_mode():
        Keeping(program.module()).run(*(torch.from_numpy(x) for x in feeds.values()))
    return len(values)


def plain(path: str, feeds: dict[str, Any]) -> Result:
    """One inference of one model as its users run it: nothing exposed, the runtime's own defaults."""
    import_runtimes([path])
    start = time.perf_counter()
    if path.endswith(".pt2"):
        import torch

        with torch.inference_mode():
            torch.export.load(path).module()(*(torch.from_numpy(x) for x in feeds.values()))
    elif path.endswith(".onnx"):
        import onnxruntime

        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)
    else:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=path, num_threads=1)
        feed_tflite(interpreter, feeds)
    return {"work": time.perf_counter() - start}


def feed_tflite(interpreter: Any, feeds: dict[str, Any]) -> None:
    import numpy as np

    interpreter.allocate_tensors()
    (entry,), (x,) = interpreter.get_input_details(), feeds.values()
    moved = np.moveaxis(x, 1, -1) if x.ndim == 4 else x
    interpreter.set_tensor(entry["index"], np.ascontiguousarray(moved))
    interpreter.invoke()


def import_runtimes(models: list[str]) -> None:
    for path in models:
        for package in RUNTIMES[Path(path).suffix][1]:
            importlib.import_module(package)


RUNTIMES: dict[str, tuple[Callable[[str, dict[str, Any]], int], tuple[str, ...]]] = {
    ".onnx": (run_onnx, ("onnx", "onnxruntime")),
    ".tflite": (run_tflite, ("ai_edge_litert.interpreter",)),
    ".pt2": (run_torch, ("torch",)),
}


def bare(models: list[str], feeds: dict[str, Any]) -> Result:
    import_runtimes(models)
    start = time.perf_counter()
    for path in models:
        RUNTIMES[Path(path).suffix][0](path, feeds)
    return {"work": time.perf_counter() - start}


def aligndbg_diff(models: list[str], feeds: dict[str, Any], **settings: Any) -> Result:
    import aligndbg

    def opened(paths: list[str]) -> tuple[float, list[Any]]:
        start = time.perf_counter()
        backends = [aligndbg.open_model(path) for path in paths]
        for backend in backends:
            backend.graph()
        return time.perf_counter() - start, backends

    tiny, backends = opened(tiny_files(models))
    settings = {"details": False} | settings  # as the command line does without --html
    aligndbg.diff(*backends, **settings)  # lazy imports
    for backend in backends:
        backend.close()
    loading, backends = opened(models)
    start = time.perf_counter()
    diff = aligndbg.diff(*backends, feeds, **settings)
    work = time.perf_counter() - start + max(0.0, loading - tiny)
    for backend in backends:
        backend.close()
    coverage = diff.coverage["reference"]
    return {
        "work": work,
        "stages": {"open": loading - tiny, **diff.timing},
        "found": f"{diff.verdict}, {len(diff.pairs)} pairs, {coverage.unmatched} unmatched, {len(diff.faults)} faults",
    }


def tiny_files(models: list[str]) -> list[str]:
    """Small models of the same formats: what they take to open is the start of the runtimes' processes."""
    if models[0].endswith(".pt2"):
        return [str(Path(path).with_stem("tiny")) for path in models]
    return [str(ROOT / "fixtures" / f"cnn{Path(path).suffix}") for path in models]


def polygraphy_in_process(models: list[str], feeds: dict[str, Any]) -> Result:
    from polygraphy import constants
    from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs, OnnxFromPath
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator

    level = importlib.import_module("onnxruntime").GraphOptimizationLevel.ORT_DISABLE_ALL
    start = time.perf_counter()
    runners = []
    for path in models:
        marked = BytesFromOnnx(ModifyOutputs(OnnxFromPath(path), outputs=constants.MARK_ALL))
        session = SessionFromOnnx(marked, providers=["CPUExecutionProvider"], graph_optimization_level=level)
        runners.append(OnnxrtRunner(session, name=Path(path).stem))
    results = Comparator.run(runners, data_loader=[feeds])
    compared = Comparator.compare_accuracy(results).output_names()
    return {"work": time.perf_counter() - start, "found": f"{len(compared)} tensors compared"}


def polygraphy_commands(models: list[str], feeds: dict[str, Any]) -> list[list[str]]:
    """The two commands of its how-to; the inputs are written in its own format first."""
    from polygraphy.json import save_json

    save_json([feeds], "inputs.json")
    tool = [str(Path(sys.executable).with_name("polygraphy")), "run"]
    common = ["--onnxrt", "--onnx-outputs", "mark", "all", "--load-inputs", "inputs.json"]
    common += ["--graph-optimization-level", "ORT_DISABLE_ALL"]
    return [
        [*tool, models[0], *common, "--save-outputs", "outputs.json"],
        [*tool, models[1], *common, "--load-outputs", "outputs.json"],
    ]


def aligndbg_commands(models: list[str], feeds: dict[str, Any]) -> list[list[str]]:
    import numpy as np

    np.savez("feeds.npz", **feeds)
    return [[sys.executable, "-m", "aligndbg", "diff", *models, "--input", "feeds.npz"]]


def sbs_commands(models: list[str], feeds: dict[str, Any], *more: str) -> list[list[str]]:
    import torch

    torch.save({name: torch.from_numpy(x) for name, x in feeds.items()}, "inputs.pt")
    tool = [sys.executable, "-m", "onnx_diagnostic", "sbs", *more, "-i", "inputs.pt"]
    return [[*tool, "-e", models[0], "-m", models[1], "-o", "found.xlsx"]]


IN_PROCESS: dict[str, Callable[..., Result]] = {
    "bare": bare,
    "plain, reference alone": lambda models, feeds: plain(models[0], feeds),
    "plain, candidate alone": lambda models, feeds: plain(models[1], feeds),
    "bare, reference alone": lambda models, feeds: bare(models[:1], feeds),
    "bare, candidate alone": lambda models, feeds: bare(models[1:], feeds),
    "diff --no-isolate --no-checks": lambda models, feeds: aligndbg_diff(models, feeds, isolate=False, checks=False),
    "diff": aligndbg_diff,
    "diff --max-memory 256M": lambda models, feeds: aligndbg_diff(models, feeds, max_memory=256 << 20),
    "diff --html": lambda models, feeds: aligndbg_diff(models, feeds, details=True),
    "Polygraphy, in process": polygraphy_in_process,
}


COMMANDS: dict[str, Callable[[list[str], dict[str, Any]], list[list[str]]]] = {
    "diff, the command": aligndbg_commands,
    "Polygraphy, commands": polygraphy_commands,
    "onnx-diagnostic sbs": sbs_commands,
    "onnx-diagnostic sbs -2": lambda models, feeds: sbs_commands(models, feeds, "-2"),
}


def load(feeds_file: Path) -> dict[str, Any]:
    import numpy as np

    return dict(np.load(feeds_file))


def main(tool: str, *models: str) -> int:
    said = sys.stdout
    sys.stdout = sys.stderr  # the tools talk
    result = IN_PROCESS[tool](list(models[:-1]), load(Path(models[-1])))
    print(json.dumps(result), file=said)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
