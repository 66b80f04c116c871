"""The command line that repeats a call of `diff`: arrays are saved beside it, live objects have none."""

from __future__ import annotations

import os
import shlex
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligndbg.api import layers
from aligndbg.core.arrays import as_array

__all__ = ["command"]

_VALUES = (
    "atol",
    "rtol",
    "min_cosine",
    "min_euclid",
    "min_sqnr",
    "max_lsb",
    "min_coverage",
    "seed",
    "distribution",
    "max_memory",
    "timeout",
    "samples",
    "dataset",
    "workers",
    "scheduler",
    "max_faults",
    "explain_time",
    "probe",
)
_REPEATED = {"tolerances": "--tol", "val_range": "--val-range", "shapes": "--shape"}
_MAPS = {"map": "--map", "input_map": "--input-map"}
_IMAGE_VALUES = ("pad_value", "pixel_format")
_IMAGE_LISTS = ("resize", "mean", "scale", "std")


def command(reference: Any, candidate: Any, inputs: Any, options: Mapping[str, Any], folder: Path | None) -> str:
    """`aligndbg diff ...` for these arguments of `diff`, quoted for a POSIX shell; arrays are saved in `folder`.

    "" where there is no such command: a model that is a live object, or arrays and no folder to save them in.
    """
    if not all(isinstance(model, str | os.PathLike) for model in (reference, candidate)):
        return ""
    words = ["aligndbg", "diff", os.fspath(reference), os.fspath(candidate)]
    for option, model, given in (
        ("--input", reference, inputs),
        ("--candidate-input", candidate, options.get("candidate_inputs")),
    ):
        specs = _specs(model, given, folder, option)
        if specs is None:
            return ""
        words += [word for spec in specs for word in (option, spec)]
    return shlex.join([*words, *_flags(options)])


def _specs(model: Any, given: Any, folder: Path | None, option: str) -> list[str] | None:
    """What follows `option`: file specs as they are, the path of saved arrays, nothing for None; None if it cannot."""
    if given is None:
        return []
    if isinstance(given, str | Path):
        return [str(given)]
    if isinstance(given, list | tuple) and given and all(isinstance(each, str | Path) for each in given):
        return [str(each) for each in given]
    if folder is None:
        return None
    if isinstance(given, Mapping):
        arrays = {str(name): as_array(value) for name, value in given.items()}
    else:
        values = given if isinstance(given, list | tuple) else (given,)
        arrays = dict(zip(layers(model).inputs, map(as_array, values), strict=False))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{option.removeprefix('--')}.npz"
    with zipfile.ZipFile(path, "w") as archive:  # numpy.savez takes no input named "file"
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return [str(path)]


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    for name in _VALUES:
        if options.get(name) is not None:
            yield from (f"--{name.replace('_', '-')}", str(options[name]))
    for name, flag in _REPEATED.items():
        for spec in options.get(name) or ():
            yield from (flag, spec)
    for name, flag in _MAPS.items():
        for left, right in (options.get(name) or {}).items():
            yield from (flag, f"{left}={right}")
    for name, flag, plain in (
        ("allow_nonfinite", "--allow-nonfinite", False),
        ("checks", "--no-checks", True),
        ("isolate", "--no-isolate", True),
        ("trust", "--trust", False),
    ):
        if options.get(name, plain) is not plain:
            yield flag
    if options.get("image") is not None:
        yield from _image_flags(options["image"])


def _image_flags(image: Any) -> Iterator[str]:
    """The options of an ImageOptions."""
    for name in _IMAGE_VALUES:
        yield from (f"--{name.replace('_', '-')}", str(getattr(image, name)))
    for name in _IMAGE_LISTS:
        values: Sequence[float] | None = getattr(image, name)
        if values:
            yield from (f"--{name}", ",".join(map(str, values)))
    if image.keep_aspect_ratio:
        yield "--keep-aspect-ratio"
    if image.layout:
        yield from ("--input-layout", image.layout)
