"""Do two states of the code say the same? Writes the JSON of ten diffs, and compares two folders of them.

    PYTHONPATH=OLD python benchmarks/same_results.py write old [--pairs FOLDER]
    PYTHONPATH=NEW python benchmarks/same_results.py write new [--pairs FOLDER]
    python benchmarks/same_results.py compare old new

Seconds and bytes are left out; everything else must be equal, to the last digit. Exits with 1 where it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime writes into the home folder

HERE = Path(__file__).resolve().parent.parent
BUNDLED = (
    ("cnn.onnx", "cnn.tflite"),
    ("cnn.onnx", "cnn_opset_b.onnx"),
    ("cnn.onnx", "cnn_int8.tflite"),
    ("cnn.onnx", "cnn_weight_fault.tflite"),
    ("attention.onnx", "attention.tflite"),
    ("lstm.onnx", "lstm.tflite"),
)
SHARED = (
    ("unet/model_ts.onnx", "unet/o2t_dynamo_full_integer_quant.tflite"),
    ("yolo/model_dynamo.onnx", "yolo/litert_nchw.tflite"),
    ("mobilenetv3_small/model_ts.onnx", "mobilenetv3_small/o2t_full_integer_quant.tflite"),
    ("dtln/model_1.onnx", "dtln/model_1.tflite"),
)
MEASURED_ANEW = ("timing", "memory")


def write(folder: Path, shared: Path) -> None:
    """One JSON file for each pair."""
    import aligndbg

    folder.mkdir(parents=True, exist_ok=True)
    models = [(HERE / "fixtures", pair) for pair in BUNDLED] + [(shared, pair) for pair in SHARED]
    for root, (reference, candidate) in models:
        if not (root / reference).exists():
            print(f"{reference} is not there: left out", file=sys.stderr)
            continue
        found = aligndbg.diff(root / reference, root / candidate, details=False)
        name = f"{reference}--{candidate}".replace("/", "_")
        (folder / f"{name}.json").write_text(found.to_json())
        print(f"{name}: {found.verdict}, {len(found.pairs)} pairs, {len(found.faults)} faults", flush=True)


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Every place where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new} - set(MEASURED_ANEW)):
            yield from differences(old.get(key), new.get(key), f"{where}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for k, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{where}[{k}]")
    elif old != new:
        yield f"{where}: {old!r} -> {new!r}"


def compare(old: Path, new: Path) -> int:
    names = sorted({p.name for folder in (old, new) for p in folder.glob("*.json")})
    wrong = 0
    for name in names:
        if not ((old / name).exists() and (new / name).exists()):
            found = ["only one of the two folders has it"]
        else:
            found = list(differences(*(json.loads((folder / name).read_text()) for folder in (old, new))))
        wrong += bool(found)
        print(f"{name}: {'equal' if not found else f'{len(found)} differences'}", *found[:5], sep="\n    ")
    return int(bool(wrong) or not names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("folder", type=Path)
    writing.add_argument("--pairs", type=Path, default=HERE.parent / "shared" / "pairs")
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    args = parser.parse_args()
    if args.command == "write":
        write(args.folder, args.pairs)
        return 0
    return compare(args.old, args.new)


if __name__ == "__main__":
    sys.exit(main())
