"""The good files that are mutated, and the commands that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import aligndbg
from aligndbg.trace.reader import read_trace
from harness import Seed

__all__ = ["make_seeds"]

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
PAIRS = (
    ("attention.onnx", "attention.tflite"),
    ("cnn.onnx", "cnn_int8.tflite"),
    ("lstm.onnx", "lstm.tflite"),
    ("cnn_opset_b.onnx", "cnn_fp16.tflite"),
)


def make_seeds(folder: Path, pairs: list[Path] | None = None) -> list[Seed]:
    """Models as either side of a diff, traces of them, inputs and images; files that are made go to `folder`."""
    named = list(zip(pairs[::2], pairs[1::2], strict=True)) if pairs else []
    sides = named or [(FIXTURES / one, FIXTURES / other) for one, other in PAIRS]
    seeds = []
    for reference, candidate in sides:
        seeds.append(Seed(candidate, ("diff", str(reference), "{}", "--json", "{out}/d.json")))
        seeds.append(Seed(reference, ("diff", "{}", str(candidate), "--html", "{out}/d.html", "--all")))
    one, other = sides[0]
    seeds.append(Seed(one, ("layers", "{}")))
    seeds.append(Seed(other, ("capture", "{}", "-o", "{out}/t.npz")))
    saved = folder / "diff.saved"
    aligndbg.diff(one, other, isolate=False, checks=False, details=False).save(saved)
    seeds.append(Seed(saved, ("judge", "{}", "--atol", "1e-3", "--json", "{out}/d.json")))
    seeds.append(Seed(saved, ("judge", "{}", "--min-cosine", "0.9", "--html", "{out}/d.html", "--all")))
    for suffix in (".npz", ".safetensors"):
        trace = folder / f"trace{suffix}"
        aligndbg.capture(one, output=trace)
        foreign = folder / f"foreign{suffix}"
        _write_foreign(trace, foreign)
        seeds.append(Seed(trace, ("diff", "{}", str(other), "--csv", "{out}/d.csv")))
        seeds.append(Seed(trace, ("diff", str(other), "{}", "--json", "{out}/d.json", "--all")))
        seeds.append(Seed(foreign, ("diff", str(trace), "{}", "--all")))
        seeds.append(Seed(trace, ("layers", "{}")))
    return [*seeds, *_inputs(folder)]


def _write_foreign(trace: Path, path: Path) -> None:
    """The same values in a file that is not ours."""
    values = {name: np.array(value) for name, value in read_trace(trace).values.items()}
    if path.suffix == ".npz":
        np.savez(path, **values)
        return
    from safetensors.numpy import save_file

    save_file(values, path)


def _inputs(folder: Path) -> list[Seed]:
    model = FIXTURES / "cnn.onnx"
    graph = aligndbg.layers(model)
    name = graph.inputs[0]
    shape = tuple(size if isinstance(size, int) else 1 for size in graph.tensors[name].shape)
    x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    np.savez(folder / "input.npz", **{name: x})
    np.save(folder / "input.npy", x)
    pixels = np.random.default_rng(0).integers(0, 255, (*shape[2:], shape[1]), np.uint8)
    for suffix in (".png", ".jpg", ".bmp", ".webp"):
        Image.fromarray(pixels).save(folder / f"input{suffix}")
    return [
        Seed(path, ("capture", str(model), "-o", "{out}/t.safetensors", "--input", "{}"))
        for path in sorted(folder.glob("input.*"))
    ]
