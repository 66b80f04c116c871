"""python -m benchmarks.zoo build|clean|planted|tables ... (see ../README.md)"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime writes into the home folder
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `zoo` and `plants` lie there

from zoo.files import FLOAT, PAIRS, RECORD, cases, rows


def build(args: argparse.Namespace) -> int:
    if args.keras:
        from zoo.keras_builds import build
        from zoo.keras_nets import KERAS as known
    else:
        import torch

        from zoo.builds import build
        from zoo.nets import NETS as known

        torch.set_num_threads(1)
    unknown = set(args.names) - set(known)
    if unknown:
        print(f"no such net: {', '.join(sorted(unknown))}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    for name in args.names or known:
        if (args.out / name / RECORD).exists() and not args.names:
            continue
        try:
            record = build(name, args.out / name)
        except ImportError as error:
            print(f"{name}: not made, {error}", flush=True)
            continue
        print(name, flush=True)
        for key, said in record.items():
            print(f"  {key:12}", ", ".join(f"{k} {v}" for k, v in said.items()), flush=True)
    return 0


def clean(args: argparse.Namespace) -> int:
    from zoo.clean import clean, is_false
    from zoo.tables import clean_table, false_list

    path = args.rows or args.folder / "clean.jsonl"
    todo = list(cases(args.folder, args.names, args.pair or PAIRS))
    for row in clean(todo, path):
        said = row.get("error") or f"{row['verdict']} {row['accounted']:.1%}"
        mark = " FALSE" if is_false(row) else ""
        print(f"{row['net']} {row['pair']}: {said}, {row['seconds']} s{mark}", flush=True)
    asked = {(case.net, case.pair) for case in todo}
    told = [row for row in rows(path) if (row["net"], row["pair"]) in asked]
    print(clean_table(told), false_list(told), sep="\n\n")
    return int(any(map(is_false, told)))


def planted(args: argparse.Namespace) -> int:
    from zoo.planted import drawn, planted
    from zoo.tables import causes_table, planted_list, planted_table, trial_text

    path = args.rows or args.folder / "planted.jsonl"
    todo = list(cases(args.folder, args.names, args.pair or FLOAT))
    if args.trial is not None:  # once more, to look at it: nothing is written but to --keep
        print(*map(trial_text, planted([(case, args.trial) for case in todo], args.faults, None, args.keep)), sep="\n")
        return 0
    draws = drawn(todo, args.seed, args.trials)
    for row in planted(draws, args.faults, path, args.keep):
        print(trial_text(row), flush=True)
    asked = {(case.net, case.pair, number) for case, number in draws}
    told = [r for r in rows(path) if r["faults"] == args.faults and (r["net"], r["pair"], r["trial"]) in asked]
    print(planted_table(told), causes_table(told), planted_list(told), sep="\n\n")
    return int(bool(planted_list(told)))


def tables(args: argparse.Namespace) -> int:
    from zoo import tables as t

    unplanted, spoilt = rows(args.folder / "clean.jsonl"), rows(args.folder / "planted.jsonl")
    print(t.clean_table(unplanted), t.false_list(unplanted), sep="\n\n")
    print("", t.planted_table(spoilt), t.causes_table(spoilt), t.planted_list(spoilt), sep="\n\n")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description="Networks in the builds people make.")
    verbs = parser.add_subparsers(required=True)
    made = verbs.add_parser("build", help="make the files; nets that are there are left alone unless they are named")
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("names", nargs="*", metavar="NAME")
    made.add_argument("--keras", action="store_true", help="the nets of Keras, which need TensorFlow")
    made.set_defaults(run=build)
    for run, text in ((clean, "diff what is clean"), (planted, "plant faults and grade what is found")):
        verb = verbs.add_parser(run.__name__, help=text)
        verb.add_argument("folder", type=Path)
        verb.add_argument("names", nargs="*", metavar="NAME")
        verb.add_argument("--pair", action="append", choices=PAIRS)
        verb.add_argument("--rows", type=Path, help="the JSON lines to go on with, not those in the folder")
        verb.set_defaults(run=run)
    verb.add_argument("--seed", type=int, default=1)
    verb.add_argument("--trials", type=int, default=60)
    verb.add_argument("--faults", type=int, default=1, help="how many to plant in each trial")
    verb.add_argument("--trial", type=int, help="only the trial of this number, in each pair that is asked for")
    verb.add_argument("--keep", type=Path, help="an existing folder for the planted files")
    verb = verbs.add_parser("tables", help="print the tables of all rows in a folder")
    verb.add_argument("folder", type=Path)
    verb.set_defaults(run=tables)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
