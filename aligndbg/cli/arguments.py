"""The command line: commands, options, and what their values may be."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from aligndbg.core.version import __version__

__all__ = ["USAGE", "named_pairs", "parser"]

USAGE = 2  # the exit code of a usage error

MODEL_HELP = """a path (a.onnx, b.tflite, m.pt2, m.keras, a SavedModel folder, trace.npz) or backend:target
(torch:nets.py:yolo); options as a query, such as a.onnx?graph_optimization=all or b.tflite?kernels=ref"""
TRUST_HELP = "let a model file run the code pickled in it"

T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    """One line and a hint for a usage error, no abbreviated options, and `-1,1` is a value."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | kwargs)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"aligndbg: error: {message}\n  hint: see {self.prog} --help\n")


def _number(kind: Callable[[str], T], fits: Callable[[T], bool], wanted: str) -> Callable[[str], T]:
    def parse(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text!r}: give {wanted}")
        return value

    return parse


_positive = _number(float, lambda value: value > 0, "seconds, over 0")
_share = _number(float, lambda value: 0 <= value <= 1, "a share, 0 to 1")
_count = _number(int, lambda value: value >= 1, "a number, 1 or more")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(t) for t in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers separated by commas") from None


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r}: give words separated by commas")
    return words


def _two(text: str) -> tuple[int, int]:
    try:
        height, width = (int(t) for t in text.replace("x", ",").split(","))
    except ValueError:
        height = width = 0
    if height < 1 or width < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give H,W")
    return height, width


def _size(text: str) -> int:
    units = {"K": 10, "M": 20, "G": 30}
    body = text.upper().removesuffix("B").removesuffix("I")
    try:
        size = int(float(body[:-1]) * (1 << units[body[-1]])) if body[-1:] in units else int(body)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write bytes, or 512M, or 2G")
    return size


def parser() -> argparse.ArgumentParser:
    """The whole command line; the documentation is generated from it."""
    top = _Parser(
        prog="aligndbg",
        description="Two builds of the same network disagree: where, and why?",
        epilog="exit codes: 0 aligned, 1 diverged, 2 usage error, bad file or missing dependency, 3 inconclusive",
    )
    top.add_argument("--version", action="version", version=f"aligndbg {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _diff_parser(commands.add_parser("diff", help="compare two models layer by layer"))
    judge = commands.add_parser("judge", help="judge a saved diff by other tolerances; nothing is run")
    judge.add_argument("saved", help="what `aligndbg diff --save` wrote; with no tolerance, its own stay")
    _tolerance_options(judge, None)
    _output_options(judge)
    layers = commands.add_parser("layers", help="list the layers of a model in execution order")
    layers.add_argument("model", help=MODEL_HELP)
    layers.add_argument("--timeout", type=_positive, help="seconds the model's runtime may take")
    layers.add_argument("--trust", action="store_true", help=TRUST_HELP)
    capture = commands.add_parser("capture", help="run a model and keep every tensor")
    capture.add_argument("model", help=MODEL_HELP)
    capture.add_argument("-o", "--output", required=True, help="trace.safetensors or trace.npz")
    _input_options(capture)
    demo = commands.add_parser("demo", help="a bundled pair with a planted fault, end to end")
    demo.add_argument("--all", action="store_true", dest="all_rows", help="show every pair")
    commands.add_parser("doctor", help="which backends work here, and how to get the others")
    return top


def _diff_parser(p: argparse.ArgumentParser) -> None:
    p.add_argument("reference", help=MODEL_HELP)
    p.add_argument("candidate", help="the build to judge, likewise")
    _input_options(p)
    p.add_argument("--candidate-input", action="append", metavar="SPEC", help="feed the candidate this, as it is")
    p.add_argument("--map", action="append", default=[], metavar="REF=CAND", help="pair these tensors, whatever else")
    p.add_argument("--input-map", action="append", default=[], metavar="REF=CAND", help="pair these inputs")
    _tolerance_options(p, 0.5)
    out = _output_options(p)
    out.add_argument("--save", metavar="FILE", help="the whole result, for `aligndbg judge`")
    out.add_argument(
        "--repro", metavar="DIR", help="the first faults' operators and tensors, with a script to run them"
    )
    out.add_argument("--quiet", action="store_true", help="no progress on stderr")
    p.add_argument("--no-checks", action="store_true", help="skip the determinism and observer checks")
    many = p.add_argument_group("many samples: the worst of each layer, and how they spread")
    many.add_argument("--samples", type=_count, metavar="N", help="seeded inputs, or the first of the dataset")
    many.add_argument(
        "--dataset", metavar="DIR|NPZ", help="one file a sample, or arrays with samples on their first axis"
    )
    many.add_argument("--workers", type=_count, default=1, metavar="N", help="processes that share the samples (1)")
    many.add_argument("--scheduler", metavar="ADDRESS", help="a Dask cluster shares them: tcp://host:8786")
    p.add_argument("--no-isolate", action="store_true", help="accumulated errors only: no second run of either side")
    p.add_argument(
        "--probe", type=_count, default=0, metavar="N", help="test each region on N random inputs of its own, too"
    )
    p.add_argument("--max-faults", type=_count, default=20, help="stop after this many (20)")
    p.add_argument(
        "--explain-time",
        type=_positive,
        metavar="SECONDS",
        help="of work on causes (1.8, or a share of the diff)",
    )
    p.add_argument(
        "--max-memory", type=_size, metavar="SIZE", help="tensors held in memory, such as 512M; the rest spills"
    )


def _tolerance_options(p: argparse.ArgumentParser, coverage: float | None) -> None:
    limits = p.add_argument_group("tolerances (default: from the noise floor of the dtypes)")
    for name, text in (
        ("atol", "absolute; with --rtol: |r - c| <= atol + rtol |r| everywhere"),
        ("rtol", "relative"),
        ("min-cosine", "cosine similarity"),
        ("min-euclid", "Euclidean similarity, as TPU-MLIR has it"),
        ("min-sqnr", "signal to noise, dB"),
        ("max-lsb", "quantization steps"),
    ):
        limits.add_argument(f"--{name}", type=float, help=text)
    limits.add_argument(
        "--tol",
        action="append",
        default=[],
        metavar="RULE",
        help="op=Conv:atol=1e-3 or name=/head/*:min_cosine=0.9; later rules win",
    )
    limits.add_argument(
        "--min-coverage", type=_share, default=coverage, help="share to compare, else inconclusive (0.5)"
    )


def _output_options(p: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    out = p.add_argument_group("output")
    out.add_argument("--json", metavar="FILE", help="the whole result")
    out.add_argument("--csv", metavar="FILE", help="one row a pair")
    out.add_argument("--parquet", metavar="FILE", help="as --csv; needs pyarrow")
    out.add_argument("--html", metavar="FILE", help="one self-contained page")
    out.add_argument("--model-explorer", metavar="DIR", help="both graphs and the errors on them, for Model Explorer")
    out.add_argument("--github", action="store_true", help="a summary for the job page of GitHub Actions")
    out.add_argument("--all", action="store_true", dest="all_rows", help="show every pair and what was not compared")
    out.add_argument(
        "--sort", metavar="COLUMN", help="order of the table: rel_l2, isolated_rel_l2, cosine, ...; worst first"
    )
    out.add_argument(
        "--only",
        type=_words,
        action="extend",
        default=[],
        metavar="WORDS",
        help="rows to show: pass, drift, fault, unknown, outputs, or globs of tensors and operators, by commas",
    )
    out.add_argument(
        "--columns", type=_words, default=[], metavar="NAMES", help="of the table: status,reference,op,bar,rel_l2,..."
    )
    return out


def _input_options(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("input (default: seeded random)")
    g.add_argument("--input", action="append", metavar="SPEC", help="x.npz, name=x.npy, x.npy or an image; may repeat")
    g.add_argument("--seed", type=int, default=0, help="of the random input (0)")
    g.add_argument("--distribution", choices=("uniform", "normal"), default="uniform", help="of its values (uniform)")
    g.add_argument("--val-range", action="append", default=[], metavar="[NAME=]LO,HI", help="of its values")
    g.add_argument("--shape", action="append", default=[], metavar="[NAME=]1x3x224x224", help="for dynamic dimensions")
    g.add_argument("--allow-nonfinite", action="store_true", help="accept NaN and Inf in a feed")
    g.add_argument("--timeout", type=_positive, help="seconds a model's runtime may take in all, for each sample")
    g.add_argument("--trust", action="store_true", help=TRUST_HELP)
    i = p.add_argument_group("images: (x - mean) * scale, or / std, with x in 0..255")
    i.add_argument("--resize", type=_two, metavar="H,W", help="to this size (the model's own)")
    i.add_argument("--keep-aspect-ratio", action="store_true", help="fit it inside, and pad around it")
    i.add_argument("--pad-value", type=float, default=0.0, help="around it, 0..255 (0)")
    i.add_argument("--pixel-format", choices=("rgb", "bgr"), default="rgb", help="the order the model takes (rgb)")
    for name in ("mean", "scale", "std"):
        i.add_argument(
            f"--{name}", type=_numbers, default=(), metavar="A[,B,C]", help="one for all channels, or one each"
        )
    i.add_argument("--input-layout", choices=("nchw", "nhwc"), default="", help="where its shape leaves it open")


def named_pairs(specs: Sequence[str], option: str) -> dict[str, str] | None:
    """Reference name -> candidate name, from `ref=cand` or files of such lines. Raises UsageError."""
    from aligndbg.core.errors import UsageError

    out: dict[str, str] = {}
    for spec in specs:
        lines = [spec]
        if "=" not in spec or os.path.isfile(spec):
            try:
                with open(spec, encoding="utf-8") as stream:
                    lines = [line.strip() for line in stream if line.strip() and not line.startswith("#")]
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "not a text file"
                hint = "write reference=candidate, or a file of such lines"
                raise UsageError(f"{option} {spec!r}: {why}", hint=hint) from None
        for line in lines:
            left, equals, right = line.partition("=")
            if not equals or not left or not right:
                raise UsageError(f"{option} {line!r} is not reference=candidate", hint="both are tensor names")
            if out.setdefault(left.strip(), right.strip()) != right.strip():
                raise UsageError(f"{option} gives {left.strip()!r} twice", hint="one counterpart for each tensor")
    return out or None
