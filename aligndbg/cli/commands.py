"""One function a command: from parsed arguments to an exit code. Heavy packages are imported inside."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aligndbg.cli.arguments import USAGE, named_pairs
from aligndbg.cli.output import check_files, check_folders, say

if TYPE_CHECKING:
    from aligndbg.api import Diff, TableView

__all__ = ["COMMANDS"]

EXIT = {"aligned": 0, "diverged": 1, "inconclusive": 3}


def diff(args: argparse.Namespace) -> int:
    from aligndbg import api

    view = _checked_view(args)
    check_files([args.save, *_files(args)], [args.reference, args.candidate])
    check_folders([args.repro, args.model_explorer])
    arguments = _input_arguments(args)
    result = api.diff(
        args.reference,
        args.candidate,
        arguments.pop("inputs"),
        candidate_inputs=args.candidate_input,
        map=named_pairs(args.map, "--map"),
        input_map=named_pairs(args.input_map, "--input-map"),
        **_tolerance_arguments(args),
        max_memory=args.max_memory,
        checks=not args.no_checks,
        isolate=not args.no_isolate,
        probe=args.probe,
        samples=args.samples,
        dataset=args.dataset,
        workers=args.workers,
        scheduler=args.scheduler,
        max_faults=args.max_faults,
        explain_time=args.explain_time,
        repro=args.repro,
        details=bool(args.html or args.save),
        progress=not args.quiet,
        **arguments,
    )
    return _report(result, args, view, args.save)


def judge(args: argparse.Namespace) -> int:
    from aligndbg import api

    view = _checked_view(args)
    check_files(_files(args), [args.saved])
    check_folders([args.model_explorer])
    return _report(api.judge(args.saved, **_tolerance_arguments(args)), args, view)


def layers(args: argparse.Namespace) -> int:
    from aligndbg import api

    api.print_layers(args.model, timeout=args.timeout, trust=args.trust)
    return 0


def capture(args: argparse.Namespace) -> int:
    from aligndbg import api

    check_files([args.output], [args.model])
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
