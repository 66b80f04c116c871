"""Mutates files and gives them to the command line: it must neither die, nor hang, nor show a traceback, nor litter."""

from __future__ import annotations

import gzip
import json
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

from archive_mutations import mutate_npy, mutate_npz
from byte_mutations import mutate_bytes
from json_mutations import mutate_json, mutate_safetensors
from model_mutations import mutate_onnx, mutate_tflite

__all__ = ["Seed", "Tally", "fuzz"]

LIMIT = 10.0  # seconds: --timeout of each command
GRACE = 20.0  # seconds of our own beyond the limits of both models
MEMORY = 6 << 30  # bytes of address space for each process: a model that wants more must get an error
LAST_WORDS = 12  # lines of a traceback that are shown
ENDS = {0: "done", 1: "diverged", 2: "refused", 3: "inconclusive"}

Mutation = Callable[[bytes, Random], bytes]


def _json_file(data: bytes, rng: Random) -> bytes:
    return json.dumps(mutate_json(json.loads(data), rng)).encode("utf-8", "surrogatepass")


def _inside_gzip(data: bytes, rng: Random) -> bytes:
    return gzip.compress(mutate_bytes(gzip.decompress(data), rng), compresslevel=1)


STRUCTURE: dict[str, Mutation] = {
    ".onnx": mutate_onnx,
    ".tflite": mutate_tflite,
    ".npz": mutate_npz,
    ".npy": mutate_npy,
    ".safetensors": mutate_safetensors,
    ".json": _json_file,
    ".saved": _inside_gzip,
}


@dataclass(frozen=True)
class Seed:
    """A good file, and the command line that reads it: `{}` stands for the mutated file, `{out}` for a folder."""

    path: Path
    command: tuple[str, ...]


@dataclass
class Tally:
    """How the commands ended; `failures` are the mutated files that broke something, and how."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unexpected: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        kinds = sorted({kind for kind, _ in self.ends})
        ways = sorted({way for _, way in self.ends})
        lines = [f"{sum(self.ends.values())} mutated files"]
        lines += [
            f"  {kind}: " + ", ".join(f"{self.ends[kind, w]} {w}" for w in ways if self.ends[kind, w]) for kind in kinds
        ]
        if self.seconds:
            ordered = sorted(self.seconds)
            lines.append(f"  seconds: median {ordered[len(ordered) // 2]:.2f}, longest {ordered[-1]:.1f}")
        lines += [f"  error without a name of its own, {n} times: {what}" for what, n in self.unexpected.most_common()]
        return "\n".join([*lines, f"{len(self.failures)} failures", *self.failures])


class Victim:
    """The process that runs the command lines; a new one is started when it is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self, command: Sequence[str], limit: float) -> dict[str, Any]:
        """The answer; `end` is "answered", "died" or "hung"."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(json.dumps(list(command)) + "\n")
        process.stdin.flush()
        try:
            line = self._answers.get(timeout=limit)
        except queue.Empty:
            self.stop()
            return {"end": "hung", "seconds": limit}
        if not line:
            code = process.wait()
            self.stop()
            return {"end": f"died ({code})", "seconds": 0.0, "err": _end((self._folder / "stderr").read_text())}
        return {"end": "answered", **json.loads(line)}

    def children(self) -> list[str]:
        """What still runs below it, besides workers that are on their way out."""
        assert self._process is not None
        _, alive = psutil.wait_procs(psutil.Process(self._process.pid).children(recursive=True), timeout=3)
        return [str(process) for process in alive]

    @property
    def alive(self) -> bool:
        return self._process is not None

    def _start(self) -> None:
        self._answers = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("victim.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(self._folder / "stderr", "w"),  # noqa: SIM115 - the process owns it
            text=True,
            env={**os.environ, "TMPDIR": str(self._folder / "tmp")},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        )
        threading.Thread(target=self._listen, args=(self._process.stdout, self._answers), daemon=True).start()

    @staticmethod
    def _listen(stream: Any, answers: queue.SimpleQueue[str]) -> None:
        for line in stream:
            answers.put(line)
        answers.put("")

    def stop(self) -> None:
        if self._process is not None:
            below = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            self._process.wait()
            for process in psutil.wait_procs(below, timeout=5)[1]:  # they leave by themselves, with their files
                process.kill()
            self._process = None


def fuzz(seeds: Sequence[Seed], count: int, seconds: float, first: int = 0, keep: Path | None = None) -> Tally:
    """Gives `count` mutated files to their commands, or as many as fit into `seconds`; the failing ones go to `keep`.

    The same number gives the same file: mutation n of seed file n modulo their number.
    """
    tally = Tally()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        victim = Victim(folder)
        try:
            for number in range(first, first + count):
                if time.monotonic() > end:
                    break
                _one(victim, seeds[number % len(seeds)], number, folder, tally, keep)
        finally:
            victim.stop()
    return tally


def _one(victim: Victim, seed: Seed, number: int, folder: Path, tally: Tally, keep: Path | None) -> None:
    rng = Random(number)
    data, suffix = seed.path.read_bytes(), seed.path.suffix
    structural = suffix in STRUCTURE and rng.random() < 0.6
    mutated = (STRUCTURE[suffix] if structural else mutate_bytes)(data, rng)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    path = folder / f"mutated{suffix}"
    path.write_bytes(mutated)
    command = [part.replace("{out}", str(out)).replace("{}", str(path)) for part in seed.command]
    if command[0] != "judge":  # which runs no model
        command += ["--timeout", str(LIMIT)]
    answer = victim.run(command, 2 * LIMIT + GRACE)
    kind = f"{suffix} {'structure' if structural else 'bytes'}"
    troubles = list(_troubles(victim, answer, folder))
    tally.ends[kind, "FAILED" if troubles else ENDS[answer["code"]]] += 1
    tally.seconds.append(answer["seconds"])
    for line in answer.get("err", "").splitlines():
        if ": unexpected " in line:
            tally.unexpected[f"{suffix} {line.partition(': unexpected ')[2]}"[:200]] += 1
    if troubles:
        kept = ""
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{number}{suffix}").write_bytes(mutated)
            kept = f" (kept as {keep / f'{number}{suffix}'})"
        tally.failures.append(f"#{number} {' '.join(seed.command)}{kept}: " + "; ".join(troubles))
    for path in sorted(folder.glob("out/*")):
        path.unlink()


def _end(text: str) -> str:
    return "\n".join(line for line in text.splitlines()[-LAST_WORDS:] if "^^^" not in line)


def _troubles(victim: Victim, answer: dict[str, Any], folder: Path) -> Iterator[str]:
    if answer["end"] != "answered":
        yield f"{answer['end']} {answer.get('err', '')}"
        return
    if answer["code"] not in ENDS:
        yield f"exit code {answer['code']}\n{_end(answer['err'])}"
    elif "Traceback" in answer["err"]:
        yield f"a traceback on stderr\n{_end(answer['err'])}"
    if answer["code"] == 2 and not answer["err"].startswith("aligndbg: error: "):
        yield f"refused without an error: {answer['err'][-200:]}"
    if said := [ch for ch in answer["out"] + answer["err"] if not ch.isprintable() and ch != "\n"]:
        yield f"characters that a terminal acts upon: {set(said)}"
    if left := victim.children():
        yield f"processes left: {left}"
    if left := [str(path) for path in (*folder.glob("tmp/*"), *folder.glob("out/*part"), *folder.glob("out/.*"))]:
        yield f"files left: {left}"
