"""Compares every pair of a folder of real model pairs, and prints the Markdown table of docs/pairs.md.

    python benchmarks/pairs_table.py [FOLDER]      # default: shared/pairs beside the repository

Each folder is one network. Its ONNX files are compared with each other and with its TFLite files, on the input in
`x.npz` where there is one (it is laid out for ONNX), else on the seeded random one. TPU-MLIR's dumps are compared where
a folder `runtimes` lies beside. Exits with 1 if any row is not what the files are known to be.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime writes into the home folder

import aligndbg
from aligndbg import AligndbgError, Diff

EXIT = {"aligned": 0, "diverged": 1, "inconclusive": 3}
HEADINGS = (
    "reference",
    "candidate",
    "verdict",
    "exit",
    "compared",
    "unobservable",
    "one-sided",
    "unmatched",
    "accounted",
    "worst rel L2",
    "worst own",
    "seconds",
)


@dataclass(frozen=True)
class Case:
    reference: Path
    candidate: Path
    input: Path | None = None

    @property
    def quantized(self) -> bool:
        return _quantized(self.reference) or _quantized(self.candidate)


def _quantized(path: Path) -> bool:
    return any(word in path.stem for word in ("quant", "int8"))


def cases_of(folder: Path) -> Iterator[Case]:
    """Float against float first: ONNX with TFLite, ONNX with ONNX; then float with quantized."""
    onnx, tflite = (sorted(folder.glob(f"*.{suffix}")) for suffix in ("onnx", "tflite"))
    floats = [path for path in tflite if not _quantized(path)]
    grids = [path for path in tflite if _quantized(path)]
    feed = folder / "x.npz" if (folder / "x.npz").is_file() else None
    yield from (Case(r, c, feed) for r in onnx for c in floats if _same_network(r, c))
    yield from (Case(r, c, feed) for r, c in combinations(onnx, 2) if _same_network(r, c))
    yield from (Case(r, c, feed) for r in onnx for c in grids if _same_network(r, c))
    if not onnx:
        yield from (Case(r, c) for r in floats for c in grids if _same_network(r, c))


def _same_network(a: Path, b: Path) -> bool:
    """A folder with files of two networks (stages, say) tells them apart by number, or by how their names begin."""
    numbers = [{part for part in path.stem.split("_") if part in ("1", "2")} for path in (a, b)]
    if all(numbers):
        return numbers[0] == numbers[1]
    return a.suffix != b.suffix or a.suffix == ".onnx" or a.stem[:3] == b.stem[:3]


def dumps_of(runtimes: Path) -> Iterator[Case]:
    """What TPU-MLIR recorded of one net, in each precision, against its ONNX file."""
    folder, model = runtimes / "tpu_mlir", runtimes / "onnx" / "net.onnx"
    names = ["net_top_outputs.npz", *sorted(path.name for path in folder.glob("net_bm1684x_*_tpu_outputs.npz"))]
    for path in (folder / name for name in names):
        if path.is_file():
            yield Case(model, path, folder / "net_in_f32.npz")


def row_of(case: Case, root: Path) -> tuple[list[str], bool]:
    """The cells, and whether the row is as it should be: no fault, no error, and float pairs aligned."""
    names = [str(path.relative_to(root)) for path in (case.reference, case.candidate)]
    start = time.perf_counter()
    try:
        found = aligndbg.diff(case.reference, case.candidate, case.input)
    except AligndbgError as error:
        return [*names, f"error: {error.fact}", "2", *[""] * (len(HEADINGS) - 4)], False
    counts = found.coverage["reference"]
    total = counts.compared + counts.unobservable + counts.one_sided + counts.unmatched
    cells = [
        *names,
        str(found.verdict),
        str(EXIT[found.verdict]),
        *(str(n) for n in (counts.compared, counts.unobservable, counts.one_sided, counts.unmatched)),
        f"{1 - counts.unmatched / max(1, total):.1%}",
        _short(_worst(m.metrics.rel_l2 for m in found.pairs)),
        _own(found),
        f"{time.perf_counter() - start:.1f}",
    ]
    return cells, not found.faults and (case.quantized or found.verdict == "aligned")


def _own(found: Diff) -> str:
    isolated = [m.isolated for m in found.pairs if m.isolated is not None]
    if not isolated:
        return "-"
    steps = [own.lsb_max for own in isolated if own.lsb_max is not None]
    return f"{_short(_worst(steps))} LSB" if steps else _short(_worst(own.rel_l2 for own in isolated))


def _worst(values: Iterable[float]) -> float:
    return max((v for v in values if not math.isnan(v)), default=math.nan)


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}" if 0.1 <= value < 1000 else f"{value:.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[2] / "shared" / "pairs")
    parser.add_argument("--only", default="", help="the rows whose path holds this")
    options = parser.parse_args()
    root = options.folder.resolve()
    if not root.is_dir():
        parser.error(f"there is no folder {root}")
    cases = [case for folder in sorted(p for p in root.iterdir() if p.is_dir()) for case in cases_of(folder)]
    cases += dumps_of(root.parent / "runtimes")
    print("| " + " | ".join(HEADINGS) + " |")
    print("|---" * 3 + "|--:" * (len(HEADINGS) - 3) + "|")
    fine = True
    for case in cases:
        if options.only not in f"{case.reference} {case.candidate}":
            continue
        cells, expected = row_of(case, root.parent)
        fine &= expected
        print("| " + " | ".join(cells) + " |", flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
