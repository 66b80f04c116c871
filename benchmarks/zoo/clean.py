"""Diffs the builds of each net with each other, unplanted: every fault there is false unless it is the converter's.

A row of JSON a diff, appended to a file; what is in there already is not diffed again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime writes into the home folder

import aligndbg
from zoo.files import INT8, Case, append, rows

__all__ = ["CONVERTERS", "clean", "diffed", "is_false"]

LIMIT = 400  # seconds that one diff may take

# What is said of a clean pair and is the converter's or the runtime's own fault, shown by hand: by (net, pair) the
# candidate's operators that may be named there.
_MASKED = ("albert", "bert", "bloom", "clip", "deberta", "distilbert", "electra")
_MASKED += ("gemma2", "gpt2", "llama", "qwen2", "small_encoder")
CONVERTERS: dict[tuple[str, str], set[str]] = {
    # Calibrated with the mask in it, the scores' grid has steps of 1e6 to 1e36: nothing of a score is left.
    **{(net, "dyn~qdq"): {"Add", "Where"} for net in _MASKED},
    # The mask is -inf: the calibrated scale is inf, and what is dequantized NaN.
    ("translator", "dyn~qdq"): {"Add"},
    # LiteRT's int16 SOFTMAX: up to 18 steps off with 10 classes, 195 with 100, 1,870 with 1,000, in both kernel sets.
    ("keras_efficientnetv2", "lite~lite_int16"): {"DEQUANTIZE"},
    # One bias shared by gates whose inputs have other scales: it is in the steps of one of them.
    ("keras_unrolled", "lite~lite_int16"): {"FULLY_CONNECTED"},
}


def clean(todo: Sequence[Case], path: Path) -> Iterator[dict[str, Any]]:
    """A row for each case that `path` has none of; each is appended there as it comes."""
    done = {(row["net"], row["pair"]) for row in rows(path)}
    for case in todo:
        if (case.net, case.pair) not in done:
            row = diffed(case)
            append(path, row)
            yield row


def is_false(row: dict[str, Any]) -> bool:
    """A fault where there is none, a diff that failed, or a float pair that is not aligned."""
    known = CONVERTERS.get((row["net"], row["pair"]), set())
    if row.get("faults") and all(fault["operators"][1] in known for fault in row["faults"]):
        return False
    return bool(row.get("faults") or row.get("error") or (row["pair"] not in INT8 and row["verdict"] != "aligned"))


def diffed(case: Case) -> dict[str, Any]:
    row: dict[str, Any] = {"net": case.net, "pair": case.pair}
    row["command"] = "aligndbg diff " + " ".join(map(str, case.files)) + f" --input {case.inputs}"
    start = time.perf_counter()
    try:
        with _limited(LIMIT):
            row |= _told(aligndbg.diff(*case.files, case.inputs))
    except (aligndbg.AligndbgError, TimeoutError) as error:
        row |= {"verdict": "", "error": " ".join(str(error).split())[:300]}
    return {**row, "seconds": round(time.perf_counter() - start, 2)}


def _told(found: aligndbg.Diff) -> dict[str, Any]:
    counts = found.coverage["reference"]
    total = counts.compared + counts.unobservable + counts.one_sided + counts.unmatched
    return {
        "verdict": str(found.verdict),
        "tensors": total,
        "compared": counts.compared,
        "accounted": round(1 - counts.unmatched / max(1, total), 4),
        "faults": [_fault(fault) for fault in found.faults],
        "isolation_runs": found.checks.get("isolation_runs"),
        "experiments": found.checks.get("experiments"),
        "warnings": list(found.warnings),
    }


def _fault(fault: Any) -> dict[str, Any]:
    return {
        "at": [fault.reference, fault.candidate],
        "operators": [fault.reference_op, fault.candidate_op],
        "region": [len(fault.region_reference.nodes), len(fault.region_candidate.nodes)],
        "cause": fault.cause.kind if fault.cause else None,
        "summary": fault.cause.summary if fault.cause else None,
        "error": f"{fault.isolated_error:.3g} {fault.isolated_unit}",
    }


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the block after so long, where the system has alarms."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
