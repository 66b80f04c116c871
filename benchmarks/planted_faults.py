"""Plants faults into the models of a folder of pairs, and counts which of them `aligndbg.diff` finds.

    python benchmarks/planted_faults.py --pairs FOLDER --trials 20
    python benchmarks/planted_faults.py                         # over the bundled fixtures

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime writes into the home folder

import numpy as np
from plants import NotHere
from plants.bench import Bench, Finding, PairOfModels, Trial
from plants.causes import confusion, is_right, table
from plants.pairs import BUNDLED, SHARED

import aligndbg


def trials(bench: Bench, pairs: Sequence[PairOfModels], args: argparse.Namespace) -> Iterator[Trial | None]:
    """`args.trials` trials, spread evenly over the pairs and drawn from `args.seed` alone; None for a failed diff."""
    shuffled = np.random.default_rng(args.seed).permutation(len(pairs))
    # A pair's trials follow each other: its clean run is made once.
    for k, at in enumerate(sorted(shuffled[k % len(pairs)] for k in range(args.trials))):
        pair = pairs[at]
        seed = args.seed * 100_000 + k
        if args.trial is not None and seed != args.trial:
            continue
        sides = ["candidate"] if pair.int8 else ["reference", "candidate"] if args.side == "both" else [args.side]
        side = sides[np.random.default_rng(seed).integers(len(sides))]
        try:
            yield bench.trial(pair, side, args.faults, args.kinds, seed)
        except NotHere as error:
            print(f"  {seed} {pair} [{side}] nothing planted: {error}", flush=True)
        except aligndbg.AligndbgError as error:
            print(f"  {seed} {pair} [{side}] FAILED {error}", flush=True)
            yield None


def _print_trial(t: Trial) -> None:
    print(f"  {t.seed} {t.pair} [{t.side}] {t.seconds:.1f} s {t.verdict}")
    for f in t.findings:
        print(f"    {f.how:7}{f.strength:7}{f.plant}; the nearest pair moves by {f.visible:.2g}")
        if f.how in ("region", "wide", "absent"):
            print(f"           by {f.fault}")
        if f.located:
            mark = "right" if is_right(f.plant, t.side, f.cause) else "CAUSE"
            print(f"           {mark} {f.cause}: {f.summary}")
    for text in t.invented:
        print(f"    INVENTED {text}")
    sys.stdout.flush()


def summary(done: Sequence[Trial], failed: int, clean_faults: int, clean_runs: int) -> dict[str, Any]:
    every = [f for t in done for f in t.findings]
    solid = [f for f in every if f.strength == "solid"]
    weak = [f for f in every if f.strength == "weak"]
    pairing = [t.pairing for t in done if t.pairing is not None]
    runs = [t.runs for t in done if t.runs is not None]
    return {
        "trials": len(done),
        "failed": failed,
        "planted": len(solid),
        "located": sum(f.located for f in solid),
        "how": dict(Counter(f.how for f in solid)),
        "weak_planted": len(weak),
        "weak_located": sum(f.located for f in weak),
        "masked": sum(f.strength == "masked" for f in every),
        "hidden": sum(f.strength == "hidden" for f in every),
        "invented": sum(len(t.invented) for t in done),
        "pairing_mean": statistics.fmean(pairing) if pairing else None,
        "pairing_min": min(pairing, default=None),
        "runs_median": statistics.median(runs) if runs else None,
        "seconds_median": statistics.median(t.seconds for t in done) if done else None,
        "clean_diffs": clean_runs,
        "clean_faults": clean_faults,
        "by_kind": _by_kind(solid),
        "explaining_share_max": max((t.explaining / t.seconds for t in done), default=None),
        "explaining_seconds_max": max((t.explaining for t in done), default=None),
        "causes": confusion(done),
    }


def _by_kind(findings: Sequence[Finding]) -> dict[str, str]:
    planted = Counter(f.plant.site.kind for f in findings)
    located = Counter(f.plant.site.kind for f in findings if f.located)
    return {kind: f"{located[kind]}/{planted[kind]}" for kind in sorted(planted)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--pairs", type=Path, help="folder of model pairs; the bundled fixtures without it")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--faults", type=int, default=1, help="how many to plant in each trial")
    parser.add_argument("--kinds", type=lambda s: s.split(","), default=[], help="a,b,c; all without it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trial", type=int, help="only the trial of this number, all else the same")
    parser.add_argument("--side", choices=["reference", "candidate", "both"], default="both")
    parser.add_argument("--only", default="", help="pairs whose name contains this")
    parser.add_argument("--int8", action="store_true", help="the int8 pairs, not the float ones")
    parser.add_argument("--clean", type=int, default=0, help="also diff each pair unplanted on this many inputs")
    parser.add_argument("--keep", type=Path, help="folder for the planted files")
    parser.add_argument("--json", type=Path, help="write everything there")
    args = parser.parse_args(argv)
    args.shared = args.pairs is not None
    args.pairs = args.pairs or here / "fixtures"
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    known = SHARED if args.shared else BUNDLED
    pairs = [p for p in known if p.int8 == args.int8 and args.only in str(p)]
    pairs = [p for p in pairs if (args.pairs / p.reference).exists() and (args.pairs / p.candidate).exists()]
    if importlib.util.find_spec("torch") is None:
        pairs = [p for p in pairs if ".pt2" not in str(p)]
    if not pairs:
        print(f"no pair of models in {args.pairs}", file=sys.stderr)
        return 2
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.pairs, args.keep)
    print(f"seed {args.seed}, {args.trials} trials of {args.faults} over {len(pairs)} pairs", flush=True)
    clean_faults = 0
    for pair in pairs if args.clean else ():
        for seed in range(args.clean):
            found = bench.clean(pair, seed).faults
            clean_faults += len(found)
            print(f"  clean {pair} input {seed}: {len(found)} faults", *found, sep="\n    ", flush=True)
    done, failed = [], 0
    for t in trials(bench, pairs, args):
        if t is None:
            failed += 1
        else:
            _print_trial(t)
            done.append(t)
    totals = summary(done, failed, clean_faults, args.clean * len(pairs))
    for key, value in totals.items():
        if key != "causes":
            print(f"{key}: {value}")
    print(table(totals["causes"]))
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, **totals, "detail": [asdict(t) for t in done]}, indent=1))
    missed = totals["planted"] - totals["located"]
    return int(bool(missed or totals["invented"] or clean_faults or failed or (args.trials and not done)))


if __name__ == "__main__":
    sys.exit(main())
