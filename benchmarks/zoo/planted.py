"""Plants faults into the float builds of the zoo, and grades what is found of them (see ../README.md).

A row of JSON a trial, appended to a file; what is in there already is not run again. A trial is settled by its pair and
its number alone, whatever else lies in the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from plants import NotHere
from plants.bench import Bench, Finding, PairOfModels, Trial
from plants.causes import is_right

import aligndbg
from zoo.files import Case, append, rows

__all__ = ["drawn", "grade", "planted", "run"]


def drawn(todo: Sequence[Case], seed: int, trials: int) -> list[tuple[Case, int]]:
    """Cases with the number of a trial in each, spread evenly over the nets, then over the pairs of a net."""
    rng = np.random.default_rng(seed)
    nets: dict[str, list[Case]] = {}
    for case in todo:
        nets.setdefault(case.net, []).append(case)
    each = [[cases[k] for k in rng.permutation(len(cases))] for cases in nets.values()]
    order = rng.permutation(len(each))
    taken = [each[order[k % len(each)]] for k in range(trials if each else 0)]
    picked = [cases[(k // len(each)) % len(cases)] for k, cases in enumerate(taken)]
    return [(case, seed * 100_000 + k) for k, case in enumerate(picked)]


def planted(
    draws: Sequence[tuple[Case, int]], faults: int, path: Path | None, keep: Path | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each draw that `path` has none of, appended there as it comes. `keep`: a folder for planted files."""
    done = {(row["net"], row["pair"], row["trial"], row["faults"]) for row in (rows(path) if path else ())}
    for case, number in draws:
        if (case.net, case.pair, number, faults) not in done:
            row = run(Bench(case.folder, keep), case, number, faults)
            if path:
                append(path, row)
            yield row


def run(bench: Bench, case: Case, number: int, faults: int) -> dict[str, Any]:
    reference, candidate = (f"{case.net}/{path.name}" for path in case.files)
    pair = PairOfModels(reference, candidate, f"{case.net}/{case.inputs.name}")
    side = ("reference", "candidate")[np.random.default_rng(number).integers(2)]
    row: dict[str, Any] = {"net": case.net, "pair": case.pair, "trial": number, "faults": faults, "side": side}
    command = f"python -m benchmarks.zoo planted {case.folder} {case.net} --pair {case.pair} --trial {number}"
    row["command"] = f"{command} --faults {faults}"
    try:
        return row | _told(bench.trial(pair, side, faults, [], number))
    except NotHere as error:
        return row | {"nothing": str(error)}
    except aligndbg.AligndbgError as error:
        return row | {"error": " ".join(str(error).split())[:300]}


def _told(trial: Trial) -> dict[str, Any]:
    near = {finding.beside for finding in trial.findings}
    return {
        "verdict": trial.verdict,
        "pairing": trial.pairing,
        "isolation_runs": trial.runs,
        "experiments": trial.experiments,
        "plants": [_plant(finding, trial.side) for finding in trial.findings],
        "invented": [text for text in trial.invented if text not in near],
        "seconds": round(trial.seconds, 2),
    }


def _plant(finding: Finding, side: str) -> dict[str, Any]:
    right = is_right(finding.plant, side, finding.cause)
    unexplained = finding.cause in ("", "unexplained")
    return {
        "kind": finding.plant.site.kind,
        "plant": str(finding.plant),
        "strength": finding.strength,
        "grade": grade(finding),
        "by": finding.fault or finding.beside,
        "cause": "" if not finding.located else "right" if right else "unexplained" if unexplained else "wrong",
        "said": f"{finding.cause}: {finding.summary}" if finding.cause else "",
        "not_run": finding.not_run if finding.located else None,
    }


def grade(finding: Finding) -> str:
    """exact | region (of few operators) | near (one operator beside, or in a wide region) | missed."""
    if finding.how in ("exact", "fused"):
        return "exact"
    if finding.located:
        return "region"
    return "near" if finding.how in ("wide", "absent") or finding.beside else "missed"
