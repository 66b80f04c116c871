"""One function a command: from parsed arguments to an exit code. Heavy packages are imported inside."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aligndbg.cli.arguments import USAGE
from aligndbg.cli.output import say

if TYPE_CHECKING:
    from aligndbg.api import Diff, TableView

__all__ = ["COMMANDS", "capture", "demo", "doctor", "judge", "layers"]

EXIT = {"aligned": 0, "diverged": 1, "inconclusive": 3}


def _pairs(specs: Sequence[str], option: str) -> dict[str, str] | None:
    """`ref=cand`, or a file of such lines."""
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


def _input_arguments(args: argparse.Namespace) -> dict[str, Any]:
    from aligndbg.api import ImageOptions

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


def diff(args: argparse.Namespace) -> int:
    from aligndbg import api

    view = _checked_view(args)
    _check_outputs([args.save, *_files(args)], [args.reference, args.candidate])
    _check_folders([args.repro, args.model_explorer])
    arguments = _input_arguments(args)
    result = api.diff(
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
    from aligndbg import api
    from aligndbg.core.errors import UsageError

    if args.github and not os.environ.get("GITHUB_STEP_SUMMARY"):
        fact = "--github writes to the file that GITHUB_STEP_SUMMARY names, and it is not set"
        raise UsageError(fact, hint="GitHub Actions sets it for each step")
    return api.TableView(args.sort or "", tuple(args.only), tuple(args.columns))


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
    from aligndbg.core.errors import UsageError

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
    from aligndbg.core.errors import UsageError

    for folder in filter(None, folders):
        above = os.path.realpath(folder)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not os.path.isdir(above) or not os.access(above, os.W_OK):
            raise UsageError(f"cannot write into {above}", context=folder, hint="give a folder you may write to")


def judge(args: argparse.Namespace) -> int:
    from aligndbg import api

    view = _checked_view(args)
    _check_outputs(_files(args), [args.saved])
    _check_folders([args.model_explorer])
    return _report(api.judge(args.saved, **_tolerance_arguments(args)), args, view)


def layers(args: argparse.Namespace) -> int:
    from aligndbg import api

    api.print_layers(args.model, timeout=args.timeout, trust=args.trust)
    return 0


def capture(args: argparse.Namespace) -> int:
    from aligndbg import api

    _check_outputs([args.output], [args.model])
    arguments = _input_arguments(args)
    trace = api.capture(args.model, arguments.pop("inputs"), args.output, progress=True, **arguments)
    lost = f", {len(trace.missing)} could not be had" if trace.missing else ""
    say(f"{args.output}: {len(trace.values)} tensors{lost}")
    effect = trace.info.options.get("observer_effect")
    if effect is not None:  # a backend whose taps may change what it computes
        say(f"observer effect: {effect} (how far exposing the tensors moved the outputs)")
    return 0


def demo(args: argparse.Namespace) -> int:
    from importlib.resources import as_file, files

    from aligndbg import api

    with as_file(files("aligndbg") / "demo") as folder:
        reference, candidate = folder / "reference.onnx", folder / "candidate.tflite"
        result = api.diff(reference, candidate, details=False, progress=True)
    result.print(all_rows=args.all_rows)
    say("The demo's candidate holds a planted fault: DIVERGED is what it should show.")
    return 0 if result.verdict == "diverged" else 1


def doctor(args: argparse.Namespace) -> int:
    from aligndbg import api

    return 0 if api.doctor() else USAGE


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "diff": diff,
    "judge": judge,
    "layers": layers,
    "capture": capture,
    "demo": demo,
    "doctor": doctor,
}
