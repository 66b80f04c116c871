"""What aligndbg costs beside the tools nearest to it and beside both models' bare runs, measured in turns in one run.

    python benchmarks/make_models.py MODELS         (once; onnx, tensorflow and torch, each in its environment)
    python benchmarks/performance.py MODELS [--only resnet50,vit_b16] [--repeat 3] [--json FILE] [--markdown FILE]
    python benchmarks/make_3gb.py MODELS/large      (and then --only large)

Every measurement is a process of its own, children included: wall and CPU seconds, and the peak of the memory that the
process and its children hold (proportional set size, sampled; Linux). `work` is wall seconds without imports and
without the start of worker processes: what it takes to open a tiny pair is taken off. The base, `bare`, is plain ONNX
Runtime with every value marked as an output, and plain LiteRT with all tensors preserved, loading included.

Polygraphy runs as its own how-to does it: the first model's outputs to a file, then the second model against that.
onnx-diagnostic's `sbs` compares a torch.export program with its ONNX export, tensors of equal names, `-2` with every
node also run on torch's values (pip install onnx-diagnostic "transformers<5" scipy optree openpyxl, beside torch).
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
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from performance_tools import COMMANDS, IN_PROCESS, ROOT, load

PAIRS = {
    "ONNX / TFLite": ("reference.onnx", "candidate.tflite", "x.npz"),
    "ONNX / ONNX, same names": ("reference.onnx", "same_names.onnx", "x.npz"),
    "ONNX / ONNX, other names": ("reference.onnx", "separate.onnx", "x.npz"),
    "torch.export / its ONNX export": ("program.pt2", "exported.onnx", "program.npz"),
}
SAMPLE_SECONDS = 0.02
Result = dict[str, Any]
OTHERS = {"Polygraphy": ("polygraphy", (".onnx", ".onnx")), "onnx-diagnostic": ("onnx_diagnostic", (".pt2", ".onnx"))}


def tools(models: list[str], only: str) -> list[str]:
    """What can be measured on this pair, of those that are asked for."""
    formats = tuple(Path(path).suffix for path in models)
    left_out = tuple(
        name for name, (package, takes) in OTHERS.items() if takes != formats or not importlib.util.find_spec(package)
    )
    names = [name for name in (*IN_PROCESS, *COMMANDS) if not name.startswith(left_out)]
    asked = [name.strip() for name in only.split(";")] if only else names
    return [name for name in names if name in asked or name == "bare"]


def measure(tool: str, models: list[str], feeds_file: Path) -> Result:
    """One measurement: the tool in processes of its own, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        if tool in IN_PROCESS:
            script = str(ROOT / "benchmarks" / "performance_tools.py")
            commands = [[sys.executable, script, tool, *models, str(feeds_file)]]
        else:
            here = Path.cwd()
            os.chdir(folder)
            commands = COMMANDS[tool](models, load(feeds_file))
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
    names = ("numpy", "onnxruntime", "ai-edge-litert", "torch", "polygraphy", "onnx-diagnostic")
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
            *models, feeds = [str(folder / file) for file in files]
            results = measure_pair(models, Path(feeds), options.repeat, options.tools)
            everything[f"{network}, {title}"] = results
            tables.append(table(f"{network}, {title}", results))
            print(tables[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))
    if options.markdown:
        options.markdown.write_text("\n".join(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
