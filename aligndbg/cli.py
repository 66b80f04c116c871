"""Argument parsing and exit codes, nothing else. Heavy packages are imported by the command that needs them."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from aligndbg._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aligndbg._diff import Diff
    from aligndbg._errors import AligndbgError
    from aligndbg.report.table import TableView

__all__ = ["main", "parser"]

EXIT = {"aligned": 0, "diverged": 1, "inconclusive": 3}
USAGE = 2

MODEL_HELP = """a path (a.onnx, b.tflite, m.pt2, trace.npz, trace.safetensors) or backend:target (torch:nets.py:yolo);
options as a query, such as a.onnx?graph_optimization=all or b.tflite?kernels=ref"""


TRUST_HELP = "let a model file run the code pickled in it"


class _Parser(argparse.ArgumentParser):
    """One line and a hint for a usage error, no abbreviated options, and `-1,1` is a value."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | kwargs)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"aligndbg: error: {message}\n  hint: see {self.prog} --help\n")


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
    judge.set_defaults(run=_judge)
    layers = commands.add_parser("layers", help="list the layers of a model in execution order")
    layers.add_argument("model", help=MODEL_HELP)
    layers.add_argument("--timeout", type=_positive, help="seconds the model's runtime may take")
    layers.add_argument("--trust", action="store_true", help=TRUST_HELP)
    layers.set_defaults(run=_layers)
    capture = commands.add_parser("capture", help="run a model and keep every tensor")
    capture.add_argument("model", help=MODEL_HELP)
    capture.add_argument("-o", "--output", required=True, help="trace.safetensors or trace.npz")
    _input_options(capture)
    capture.set_defaults(run=_capture)
    demo = commands.add_parser("demo", help="a bundled pair with a planted fault, end to end")
    demo.add_argument("--all", action="store_true", dest="all_rows", help="show every pair")
    demo.set_defaults(run=_demo)
    doctor = commands.add_parser("doctor", help="which backends work here, and how to get the others")
    doctor.set_defaults(run=_doctor)
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
    p.add_argument("--max-faults", type=_count, default=20, help="stop after this many (20)")
    p.add_argument(
        "--max-memory", type=_size, metavar="SIZE", help="tensors held in memory, such as 512M; the rest spills"
    )
    p.set_defaults(run=_diff)


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


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds, over 0")
    return value


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


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a share, 0 to 1")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number, 1 or more")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name from a model may be more than the terminal can write
        sys.stdout.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    from aligndbg._errors import AligndbgError

    with _stoppable() as received:
        try:
            return run(args)
        except AligndbgError as error:
            _complain(error)
            return USAGE
        except MemoryError:
            print("aligndbg: error: out of memory\n  hint: --max-memory, or a smaller input", file=sys.stderr)
            return USAGE
        except BrokenPipeError:  # the reader has gone, after the result was made
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            number = received[0] if received else signal.SIGINT
            print(
                f"aligndbg: interrupted ({number.name}); an output that was not complete is not there", file=sys.stderr
            )
            return 128 + number


@contextmanager
def _stoppable() -> Iterator[list[signal.Signals]]:
    """Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt, so that children and temporary files go; a second one kills.

    Yields the signals received. One that is ignored (nohup) stays so; in another thread than the main one nothing is
    changed.
    """
    received: list[signal.Signals] = []
    kinds = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {kind: signal.getsignal(kind) for kind in kinds}
    before = {kind: handler for kind, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def stop(number: int, _: Any) -> NoReturn:
        received.append(signal.Signals(number))
        for kind in before:
            signal.signal(kind, signal.SIG_DFL)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    try:
        for kind in before:
            signal.signal(kind, stop)
        yield received
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _complain(error: AligndbgError) -> None:
    """The error on stderr, one line a part: a name from a model can neither end a line nor move the cursor."""
    context, fact, hint = (_printable(text).replace("\n", "\\n") for text in (error.context, error.fact, error.hint))
    print(f"aligndbg: error: {f'{context}: ' if context else ''}{fact}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)


def _say(text: str) -> None:
    """One line on stdout; whether anyone reads it changes no result."""
    try:
        print(_printable(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _printable(text: str) -> str:
    """Names from a model may hold control characters; line breaks are ours."""
    return "".join(ch if ch.isprintable() or ch == "\n" else f"\\x{ord(ch):02x}" for ch in text)


def _pairs(specs: Sequence[str], option: str) -> dict[str, str] | None:
    """`ref=cand`, or a file of such lines."""
    from aligndbg._errors import UsageError

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


def _input_arguments(args: argparse.Namespace) -> dict[str, Any]:
    from aligndbg import ImageOptions

    return {
        "inputs": args.input,
        "seed": args.seed,
        "distribution": args.distribution,
        "val_range": args.val_range,
        "shapes": args.shape,
        "allow_nonfinite": args.allow_nonfinite,
        "timeout": args.timeout,
        "trust": args.trust,
        "image": ImageOptions(
            resize=args.resize,
            keep_aspect_ratio=args.keep_aspect_ratio,
            pad_value=args.pad_value,
            pixel_format=args.pixel_format,
            mean=args.mean,
            scale=args.scale,
            std=args.std,
            layout=args.input_layout,
        ),
    }


def _diff(args: argparse.Namespace) -> int:
    import aligndbg

    view = _checked_view(args)
    _check_outputs([args.save, *_files(args)], [args.reference, args.candidate])
    _check_folders([args.repro, args.model_explorer])
    arguments = _input_arguments(args)
    result = aligndbg.diff(
        args.reference,
        args.candidate,
        arguments.pop("inputs"),
        candidate_inputs=args.candidate_input,
        map=_pairs(args.map, "--map"),
        input_map=_pairs(args.input_map, "--input-map"),
        **_tolerance_arguments(args),
        max_memory=args.max_memory,
        checks=not args.no_checks,
        isolate=not args.no_isolate,
        samples=args.samples,
        dataset=args.dataset,
        workers=args.workers,
        scheduler=args.scheduler,
        max_faults=args.max_faults,
        repro=args.repro,
        details=bool(args.html or args.save),
        progress=not args.quiet,
        **arguments,
    )
    return _report(result, args, view, args.save)


def _tolerance_arguments(args: argparse.Namespace) -> dict[str, Any]:
    names = ("atol", "rtol", "min_cosine", "min_euclid", "min_sqnr", "max_lsb", "min_coverage")
    return {name: getattr(args, name) for name in names} | {"tolerances": args.tol}


def _checked_view(args: argparse.Namespace) -> TableView:
    """What can be refused before anything is run: unknown columns; a summary to write outside GitHub Actions."""
    import aligndbg
    from aligndbg._errors import UsageError

    if args.github and not os.environ.get("GITHUB_STEP_SUMMARY"):
        fact = "--github writes to the file that GITHUB_STEP_SUMMARY names, and it is not set"
        raise UsageError(fact, hint="GitHub Actions sets it for each step")
    return aligndbg.TableView(args.sort or "", tuple(args.only), tuple(args.columns))


def _report(result: Diff, args: argparse.Namespace, view: TableView, save: str | None = None) -> int:
    """Writes what was asked for, prints the result, and gives its exit code."""
    writes: tuple[Callable[[str], object], ...] = (result.save, result.to_json, result.to_csv, result.to_parquet)
    writes = (*writes, result.to_html, result.to_model_explorer)
    try:
        for path, write in zip((save, *_files(args), args.model_explorer), writes, strict=True):
            if path:
                write(path)
        if args.github:
            result.to_github()
    finally:  # a full disk does not take the result away
        result.print(all_rows=args.all_rows, view=view)
    return EXIT[result.verdict]


def _files(args: argparse.Namespace) -> tuple[str | None, ...]:
    """The output files, as they are written."""
    return args.json, args.csv, args.parquet, args.html


def _check_outputs(paths: Sequence[str | None], models: Sequence[str]) -> None:
    """Raises UsageError before a long run whose result could not be written, or would overwrite what it is made of."""
    from aligndbg._errors import UsageError

    given = [path for path in paths if path]
    for path in given:
        folder = os.path.dirname(os.path.realpath(path))
        if os.path.isdir(path) or not os.path.isdir(folder):
            fact = "it is a folder" if os.path.isdir(path) else f"there is no folder {folder}"
            raise UsageError(f"cannot write: {fact}", context=path, hint="give a file in a folder that exists")
        if not os.access(folder, os.W_OK) and not (os.path.exists(path) and os.access(path, os.W_OK)):
            raise UsageError(f"cannot write into {folder}", context=path, hint="give a folder you may write to")
        if any(os.path.exists(m) and os.path.exists(path) and os.path.samefile(m, path) for m in models):
            raise UsageError("it is one of the models", context=path, hint="write the output elsewhere")
    if len({os.path.realpath(path) for path in given}) < len(given):
        raise UsageError("two outputs have the same name", context=given[0], hint="give each its own file")


def _check_folders(folders: Sequence[str | None]) -> None:
    """Raises UsageError for a folder that cannot be made or written into."""
    from aligndbg._errors import UsageError

    for folder in filter(None, folders):
        above = os.path.realpath(folder)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not os.path.isdir(above) or not os.access(above, os.W_OK):
            raise UsageError(f"cannot write into {above}", context=folder, hint="give a folder you may write to")


def _judge(args: argparse.Namespace) -> int:
    import aligndbg

    view = _checked_view(args)
    _check_outputs(_files(args), [args.saved])
    _check_folders([args.model_explorer])
    return _report(aligndbg.judge(args.saved, **_tolerance_arguments(args)), args, view)


def _layers(args: argparse.Namespace) -> int:
    import aligndbg

    aligndbg.print_layers(args.model, timeout=args.timeout, trust=args.trust)
    return 0


def _capture(args: argparse.Namespace) -> int:
    import aligndbg

    _check_outputs([args.output], [args.model])
    arguments = _input_arguments(args)
    trace = aligndbg.capture(args.model, arguments.pop("inputs"), args.output, progress=True, **arguments)
    lost = f", {len(trace.missing)} could not be had" if trace.missing else ""
    _say(f"{args.output}: {len(trace.values)} tensors{lost}")
    effect = trace.info.options.get("observer_effect")
    if effect is not None:  # a backend whose taps may change what it computes
        _say(f"observer effect: {effect} (how far exposing the tensors moved the outputs)")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from importlib.resources import as_file, files

    import aligndbg

    with as_file(files("aligndbg") / "demo") as folder:
        reference, candidate = folder / "reference.onnx", folder / "candidate.tflite"
        result = aligndbg.diff(reference, candidate, details=False, progress=True)
    result.print(all_rows=args.all_rows)
    _say("The demo's candidate holds a planted fault: DIVERGED is what it should show.")
    return 0 if result.verdict == "diverged" else 1


def _doctor(args: argparse.Namespace) -> int:
    import aligndbg

    return 0 if aligndbg.doctor() else USAGE


if __name__ == "__main__":
    sys.exit(main())
