"""Torch modules of the size people convert: what capturing every tensor costs, and whether their exports are followed.

    python benchmarks/torch_models.py [--only TEXT] [--repeat N] [--no-diff]

ResNet-50, ViT-B/16 and BERT-base from `transformers` (pip install transformers), with random weights, in float32. Time
is the median CPU time of N runs over that of a plain forward in inference mode, at one thread (wall time depends on who
else is on the machine); memory is the process's peak over that of a plain forward, each measured from a reset of the
high-water mark (Linux). `record` is the first run, which learns the graph; `replay` yields every tensor. Then each
module is compared with its two ONNX exports. Exits with 1 where one is not aligned, or less than 99 % of the module's
float tensors are accounted for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import torch

import aligndbg
from aligndbg.backends.torch.backend import TorchBackend

Feeds = dict[str, np.ndarray[Any, Any]]
COVERED = 0.99


class Plain(torch.nn.Module):
    """The pooled output alone, of a model that gives a dataclass."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Image(Plain):
    def forward(self, pixel_values: Any) -> Any:
        return self.inner(pixel_values=pixel_values)[1]


class Text(Plain):
    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)[1]


def models() -> dict[str, Callable[[], tuple[torch.nn.Module, Feeds]]]:
    import transformers as t

    rng = np.random.default_rng(0)
    pixels = {"pixel_values": rng.standard_normal((1, 3, 224, 224)).astype(np.float32)}
    mask = np.ones((1, 64), np.int64)
    mask[:, 50:] = 0
    words = {"input_ids": rng.integers(0, 30000, (1, 64)), "attention_mask": mask}
    return {
        "resnet50": lambda: (Image(t.ResNetModel(t.ResNetConfig())).eval(), pixels),
        "vit_b16": lambda: (Image(t.ViTModel(t.ViTConfig())).eval(), pixels),
        "bert_base": lambda: (Text(t.BertModel(t.BertConfig())).eval(), words),
    }


def peak(run: Callable[[], Any]) -> float:
    """The process's highest resident size while it runs, MB."""
    Path("/proc/self/clear_refs").write_text("5")
    run()
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def median_seconds(run: Callable[[], Any], repeat: int) -> float:
    taken = []
    for _ in range(repeat):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def cost(name: str, model: torch.nn.Module, feeds: Feeds, repeat: int) -> None:
    tensors = {key: torch.from_numpy(array) for key, array in feeds.items()}

    def plain() -> None:
        with torch.inference_mode():
            model(**tensors)

    def record() -> None:
        for _ in TorchBackend(model, {}).run(feeds, ()):
            pass

    backend = TorchBackend(model, {})
    list(backend.run(feeds, ()))
    fetch = backend.graph().tappable()

    def replay() -> None:
        for _ in backend.run(feeds, fetch):
            pass

    plain()
    base, high = median_seconds(plain, repeat), peak(plain)
    for label, run in (("record", record), ("replay", replay)):
        seconds, memory = median_seconds(run, repeat) / base, peak(run) / high
        print(
            f"{name:10} {label:7} {seconds:5.2f} x a plain forward ({base:.2f} s of CPU), peak memory {memory:.2f} x",
            flush=True,
        )


def follow(name: str, model: torch.nn.Module, feeds: Feeds) -> bool:
    """Compares the module with both exports of it; False where one is not followed."""
    fine = True
    for dynamo in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/m.onnx"
            args = tuple(torch.from_numpy(array) for array in feeds.values())
            torch.onnx.export(model, args, path, dynamo=dynamo, input_names=list(feeds), verbose=False)
            start = time.perf_counter()
            found = aligndbg.diff(model, path, feeds)
            taken = time.perf_counter() - start
        c = found.coverage["reference"]
        total = c.compared + c.unobservable + c.one_sided + c.unmatched
        share = 1 - c.unmatched / total
        fine &= found.verdict == "aligned" and share >= COVERED
        exporter = "dynamo" if dynamo else "torchscript"
        print(
            f"{name:10} {exporter:11} {found.verdict}: {c.compared} compared, {c.unobservable} unobservable, "
            f"{c.one_sided} one-sided, {c.unmatched} unmatched; {share:.1%} accounted for; {taken:.1f} s",
            flush=True,
        )
        for fault in found.faults[:3]:
            print(f"           fault {fault.reference} / {fault.candidate}: {fault.isolated_error:.2g}")
        for lost in [u for u in found.matching.unmatched_reference if u.kind == "unmatched"][:3]:
            print(f"           unmatched {lost.name} ({lost.op}): {lost.reason}")
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-diff", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fine = True
    for name, build in models().items():
        if options.only in name:
            torch.manual_seed(0)
            model, feeds = build()
            cost(name, model, feeds, options.repeat)
            fine &= options.no_diff or follow(name, model, feeds)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
