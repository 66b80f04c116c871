"""What aligndbg costs beside the tools nearest to it and beside both models' bare runs, measured in turns in one run.

    python benchmarks/make_models.py MODELS         (once; onnx and tensorflow, each in its environment)
    python benchmarks/performance.py MODELS [--only resnet50,vit_b16] [--repeat 3] [--json FILE] [--markdown FILE]
    python benchmarks/make_3gb.py MODELS/large      (and then --only large)

Every measurement is a process of its own, children included: wall and CPU seconds, and the peak of the memory that the
process and its children hold (proportional set size, sampled; Linux). `work` is wall seconds without imports and
without the start of worker processes: what it takes to open a tiny pair is taken off. The base, `bare`, is plain ONNX
Runtime with every value marked as an output, and plain LiteRT with all tensors preserved, loading included.

Polygraphy runs as its own how-to does it: the first model's outputs to a file, then the second model against that.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime writes into the home folder
ROOT = Path(__file__).resolve().parents[1]
PAIRS = {
    "ONNX / TFLite": ("reference.onnx", "candidate.tflite"),
    "ONNX / ONNX, same names": ("reference.onnx", "same_names.onnx"),
    "ONNX / ONNX, other names": ("reference.onnx", "separate.onnx"),
}
SAMPLE_SECONDS = 0.02
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


def plain(path: str, feeds: dict[str, Any]) -> Result:
    """One inference of one model as its users run it: nothing exposed, the runtime's own defaults."""
    start = time.perf_counter()
    if path.endswith(".onnx"):
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


def bare(models: list[str], feeds: dict[str, Any]) -> Result:
    for package in ("onnx", "onnxruntime", "ai_edge_litert.interpreter"):
        importlib.import_module(package)
    start = time.perf_counter()
    for path in models:
        (run_onnx if path.endswith(".onnx") else run_tflite)(path, feeds)
    return {"work": time.perf_counter() - start}


def aligndbg_diff(models: list[str], feeds: dict[str, Any], **settings: Any) -> Result:
    import aligndbg
    from aligndbg._session import diff_once  # noqa: F401 - what a diff imports is not part of its work

    def opened(paths: list[str]) -> tuple[float, list[Any]]:
        start = time.perf_counter()
        backends = [aligndbg.open_model(path) for path in paths]
        for backend in backends:
            backend.graph()
        return time.perf_counter() - start, backends

    tiny, backends = opened([str(ROOT / "fixtures" / f"cnn{Path(path).suffix}") for path in models])
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


def tools(models: list[str], only: str) -> list[str]:
    """What can be measured on this pair, of those that are asked for."""
    others = all(path.endswith(".onnx") for path in models) and importlib.util.find_spec("polygraphy")
    names = [name for name in IN_PROCESS if others or not name.startswith("Polygraphy")]
    names += ["Polygraphy, commands"] if others else []
    asked = [name.strip() for name in only.split(";")] if only else names
    return [name for name in names if name in asked or name == "bare"]


def measure(tool: str, models: list[str], feeds_file: Path) -> Result:
    """One measurement: the tool in processes of its own, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        if tool in IN_PROCESS:
            commands = [[sys.executable, __file__, "--child", tool, *models, str(feeds_file)]]
        else:
            here = Path.cwd()
            os.chdir(folder)
            commands = polygraphy_commands(models, load(feeds_file))
            os.chdir(here)
        total: Result = {"wall": 0.0, "cpu": 0.0, "peak": 0}
        for command in commands:
            last = run_process(command, folder)
            for name in ("wall", "cpu"):
                total[name] += last[name]
            total["peak"] = max(total["peak"], last["peak"])
        return total | (json.loads(last["said"]) if tool in IN_PROCESS else {})


def run_process(command: list[str], folder: str) -> Result:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with open(os.path.join(folder, "said"), "w+") as said, open(os.path.join(folder, "errors"), "w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=errors, env=environment)
        with peak_memory(process.pid) as peak:
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (said, errors):
            file.seek(0)
        text = said.read()
        differs = process.returncode == 1 and "Accuracy Summary" in text  # Polygraphy's word for it
        if process.returncode and not differs:
            raise SystemExit(f"{command}: exit code {process.returncode}\n{text[-1000:]}{errors.read()[-2000:]}")
        return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": peak[0], "said": text}


@contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """Bytes that the process and its descendants held at most, sampled: shared pages count once."""
    import psutil

    peak, over = [0], threading.Event()

    def sample() -> None:
        root = psutil.Process(pid)
        while not over.wait(SAMPLE_SECONDS):
            try:
                family = [root, *root.children(recursive=True)]
                peak[0] = max(peak[0], sum(one.memory_full_info().pss for one in family))
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue  # one of them has just ended

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def load(feeds_file: Path) -> dict[str, Any]:
    import numpy as np

    return dict(np.load(feeds_file))


def measure_pair(models: list[str], feeds_file: Path, repeat: int, only: str) -> dict[str, Result]:
    """Medians by tool, each measured `repeat` times in turns."""
    for path in models:
        for file in (path, Path(path).with_suffix(".bin")):  # every measurement finds the files in the page cache
            if Path(file).exists():
                with open(file, "rb") as data:
                    while data.read(1 << 24):
                        pass
    runs: dict[str, list[Result]] = {tool: [] for tool in tools(models, only)}
    for _ in range(repeat):
        for tool, found in runs.items():
            found.append(measure(tool, models, feeds_file))
    return {tool: summary(found) for tool, found in runs.items()}


def summary(found: list[Result]) -> Result:
    numbers = {name: statistics.median(r[name] for r in found) for name in ("wall", "cpu", "peak")}
    if "work" in found[0]:
        numbers["work"] = statistics.median(r["work"] for r in found)
    return found[-1] | numbers


def table(title: str, results: dict[str, Result]) -> str:
    """One pair as Markdown; ratios are to the bare runs of the same run."""
    base = results["bare"]
    lines = [
        f"### {title}",
        "",
        "| | work s | x bare | process s | CPU s | peak MB | found |",
        "|---|---|---|---|---|---|---|",
    ]
    for tool, r in results.items():
        work = f"{r['work']:.2f} | {r['work'] / base['work']:.2f}" if "work" in r else " | "
        cells = f"{r['wall']:.2f} | {r['cpu']:.2f} | {r['peak'] / 1e6:.0f} | {r.get('found', '')}"
        lines.append(f"| {tool} | {work} | {cells} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    names = ("numpy", "onnxruntime", "ai-edge-litert", "polygraphy")
    packages = [f"{name} {version(name)}" for name in names if importlib.util.find_spec(name.replace("-", "_"))]
    return f"{datetime.date.today()}, Python {platform.python_version()}, {os.cpu_count()} cores; {', '.join(packages)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the folder that make_models.py filled")
    parser.add_argument("--only", default="resnet50,vit_b16,bert_base", help="networks, separated by commas")
    parser.add_argument("--pairs", default="", help="only pairs whose title contains this")
    parser.add_argument("--tools", default="", help="only these rows, separated by semicolons")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each (3)")
    parser.add_argument("--json", type=Path, help="write every number here")
    parser.add_argument("--markdown", type=Path, help="write the tables here, too")
    options = parser.parse_args()
    tables, everything = [f"{machine()}; medians of {options.repeat}.\n"], {}
    print(tables[0])
    for network in options.only.split(","):
        for title, files in PAIRS.items():
            folder = (options.models / network).resolve()
            if options.pairs not in title or not all((folder / file).exists() for file in files):
                continue
            models = [str(folder / file) for file in files]
            results = measure_pair(models, folder / "x.npz", options.repeat, options.tools)
            everything[f"{network}, {title}"] = results
            tables.append(table(f"{network}, {title}", results))
            print(tables[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))
    if options.markdown:
        options.markdown.write_text("\n".join(tables))
    return 0


def child(tool: str, *models: str) -> int:
    said = sys.stdout
    sys.stdout = sys.stderr  # the tools talk
    result = IN_PROCESS[tool](list(models[:-1]), load(Path(models[-1])))
    print(json.dumps(result), file=said)
    return 0


if __name__ == "__main__":
    sys.exit(child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main())
