"""Snapshots of an accepted result: what must not get worse, for models that are known to differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aligndbg.api import Diff
from aligndbg.core.errors import UsageError
from aligndbg.core.files import write_text
from aligndbg.core.jsonable import plain_value
from aligndbg.core.types import Status, Verdict

__all__ = ["read_baseline", "snapshot", "worse", "write_baseline"]

SCHEMA = "aligndbg.baseline/1"
GROWTH = 2.0  # errors over tolerance may move this much: other kernels, other threads, another runtime version
_VERDICTS = [str(v) for v in (Verdict.ALIGNED, Verdict.INCONCLUSIVE, Verdict.DIVERGED)]
_STATUSES = [str(s) for s in (Status.PASS, Status.DRIFT, Status.UNKNOWN, Status.FAULT)]


def snapshot(diff: Diff) -> dict[str, Any]:
    """What is kept of a result: verdict, faults, and each pair's status and errors to three digits."""
    document = {
        "schema": SCHEMA,
        "verdict": diff.verdict,
        "faults": [
            {"reference": f.reference, "candidate": f.candidate, "error": _short(f.isolated_error)} for f in diff.faults
        ],
        "pairs": {
            m.pair.reference: {
                "candidate": m.pair.candidate,
                "status": m.status,
                "error": _short(m.metrics.rel_l2),
                "own_error": None if m.isolated is None else _short(m.isolated.rel_l2),
            }
            for m in diff.pairs
            if m.pair not in diff.matching.again
        },
    }
    plain = plain_value(document)
    assert isinstance(plain, dict)
    return plain


def write_baseline(path: Path, kept: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(kept, indent=1, allow_nan=False) + "\n")


def read_baseline(path: Path) -> dict[str, Any] | None:
    """The snapshot in a file; None where there is no file. Raises UsageError for a file that is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"the baseline cannot be read: {error}", context=str(path), hint="write it anew") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UsageError(f"this is no baseline of schema {SCHEMA}", context=str(path), hint="write it anew")
    return found


def worse(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    """Each way in which `now` is worse than the snapshot `before`, a line each.

    A graver verdict or status, a new fault, a tensor no longer compared, an error over tolerance more than GROWTH
    times what it was. What got better is no finding.
    """
    if _VERDICTS.index(now["verdict"]) > _VERDICTS.index(before["verdict"]):
        yield f"the verdict was {before['verdict']}, it is {now['verdict']}"
    known = {(f["reference"], f["candidate"]): f["error"] for f in before["faults"]}
    for fault in now["faults"]:
        place = (fault["reference"], fault["candidate"])
        where = fault["reference"] or fault["candidate"]
        if place not in known:
            yield f"a new fault at {where}, own error {fault['error']}"
        elif _grown(fault["error"], known[place]):
            yield f"the fault at {where} grew from {known[place]} to {fault['error']}"
    for name, old in before["pairs"].items():
        new = now["pairs"].get(name)
        if new is None:
            yield f"{name} is no longer compared"
        elif _STATUSES.index(new["status"]) > _STATUSES.index(old["status"]):
            yield f"{name} was {old['status']}, it is {new['status']} (error {old['error']}, now {new['error']})"
        elif new["status"] != "pass" and _grown(new["error"], old["error"]):
            yield f"the error of {name} grew from {old['error']} to {new['error']}"


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _grown(now: float | str, before: float | str) -> bool:
    """Whether an error (a number, or "nan" or "inf") is more than GROWTH times what it was; nan is above all."""
    ranks = [float("inf") if float(v) != float(v) else float(v) for v in (now, before)]
    return ranks[0] > GROWTH * ranks[1]
