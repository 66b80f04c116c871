"""`python tests/fuzz --count 1000`: the long run. Exit code 1 where something broke."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from harness import fuzz
from seeds import make_seeds


def main() -> int:
    p = argparse.ArgumentParser(prog="tests/fuzz", description="mutated files against the command line")
    p.add_argument("pairs", nargs="*", type=Path, help="model files, two by two; default: the repository's own")
    p.add_argument("--count", type=int, default=1000, help="mutated files (1000)")
    p.add_argument("--seconds", type=float, default=3600.0, help="stop after (3600)")
    p.add_argument("--first", type=int, default=0, help="number of the first mutation; the same number, the same file")
    p.add_argument("--only", default="", help="seed files whose name ends so")
    p.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for the files that broke something")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder), args.pairs)
        chosen = [seed for seed in seeds if seed.path.name.endswith(args.only)]
        tally = fuzz(chosen, args.count, args.seconds, args.first, args.keep)
    print(tally.text())
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
