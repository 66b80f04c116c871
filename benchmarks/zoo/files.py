"""What lies in a folder of the zoo: a folder each net with its builds in it, and rows of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FLOAT", "HALF", "INT8", "PAIRS", "RECORD", "Case", "append", "cases", "file_of", "rows"]

RECORD = "build.json"  # written when all else of a net is
# reference~candidate; the second row of each is of Keras (keras_builds.py).
FLOAT = ("dyn~ts", "dyn~sim", "dyn~slim", "dyn~ort", "ts~ort", "dyn~pt2")
FLOAT += ("keras~lite", "saved~lite", "native~lite", "saved~keras", "frozen~native", "frozen~keras", "frozen~lite")
HALF = ("ts~fp16", "dyn~fp16b")
HALF += ("lite~lite_fp16", "saved~lite_fp16")
INT8 = ("dyn~qdq",)
INT8 += ("lite~lite_dynamic", "lite~lite_int8", "keras~lite_int8", "lite~lite_int16")
INT8 += ("saved~lite_dynamic", "saved~lite_int8", "saved~lite_int16")
PAIRS = (*FLOAT, *HALF, *INT8)


def file_of(folder: Path, build: str) -> Path:
    own = {"pt2": "m.pt2", "saved": "saved", "native": "native.keras", "frozen": "frozen.pb"}
    return folder / own.get(build, f"{build}.tflite" if build.startswith("lite") else f"{build}.onnx")


@dataclass(frozen=True)
class Case:
    """One net in two builds."""

    folder: Path
    net: str
    pair: str

    @property
    def files(self) -> tuple[Path, Path]:
        reference, candidate = self.pair.split("~")
        return file_of(self.folder / self.net, reference), file_of(self.folder / self.net, candidate)

    @property
    def inputs(self) -> Path:
        return self.folder / self.net / "in.npz"


def cases(folder: Path, nets: Sequence[str] = (), pairs: Sequence[str] = PAIRS) -> Iterator[Case]:
    """Every pair of the nets in `folder` (of `nets` only, if any) whose files are there."""
    for record in sorted(folder.glob(f"*/{RECORD}")):
        for pair in pairs if not nets or record.parent.name in nets else ():
            case = Case(folder, record.parent.name, pair)
            if all(path.exists() for path in case.files):
                yield case


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
