"""The samples that a diff is run on: seeds, the files of a folder, or the rows of an .npz."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from aligndbg.core.errors import UsageError, nearest
from aligndbg.core.types import Array, Graph
from aligndbg.feeds.files import read_arrays
from aligndbg.feeds.images import IMAGE_SUFFIXES
from aligndbg.feeds.plan import InputOptions

__all__ = ["Sample", "list_samples", "options_of", "rows_of"]

FILES = (".npz", ".npy", *IMAGE_SUFFIXES)


@dataclass(frozen=True)
class Sample:
    """One input: number `index`, from `source` (a file), or its row `row`, or without one random from `seed`."""

    index: int
    name: str
    seed: int = 0
    source: str = ""
    row: int | None = None


def list_samples(dataset: str | os.PathLike[str] | None, count: int | None, seed: int) -> list[Sample]:
    """`count` seeds from `seed` on, or of a dataset the first `count` (None: all), in the order of its names or rows.

    A folder holds one file a sample (.npz with arrays by input name, .npy, images); an .npz holds for each input an
    array whose first axis are the samples. Raises UsageError.
    """
    if dataset is None:
        return [Sample(k, f"seed {seed + k}", seed + k) for k in range(count or 1)]
    path = Path(os.path.abspath(dataset))
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        for file in files:
            if file.suffix.lower() not in FILES or not file.is_file():
                hint = f"one file a sample: {', '.join(FILES)}"
                raise UsageError(f"{file.name!r} is not a sample", context=str(path), hint=hint)
        found = [Sample(k, file.name, source=str(file)) for k, file in enumerate(files)]
    elif path.suffix.lower() == ".npz" and path.is_file():
        rows = {array.shape[0] if array.ndim else 0 for array in _arrays(str(path)).values()}
        if len(rows) != 1:
            fact = f"its arrays have {', '.join(map(str, sorted(rows)))} rows" if rows else "it holds no array"
            raise UsageError(fact, context=str(path), hint="one array an input, its first axis the samples")
        found = [Sample(k, f"row {k}", source=str(path), row=k) for k in range(rows.pop())]
    else:
        raise UsageError(
            "not a dataset", context=str(path), hint="give a folder of samples, or an .npz of stacked ones"
        )
    if count is not None and count > len(found):
        raise UsageError(f"it holds {len(found)} samples, not {count}", context=str(path), hint="ask for fewer")
    if not found:
        raise UsageError("it holds no sample", context=str(path), hint=f"one file a sample: {', '.join(FILES)}")
    return found[:count]


def rows_of(samples: Sequence[Sample]) -> Mapping[str, Array] | None:
    """The arrays, by input name, whose rows the samples are; None where they are not rows."""
    return None if samples[0].row is None else _arrays(samples[0].source)


def options_of(sample: Sample, options: InputOptions, graph: Graph, other: Graph) -> InputOptions:
    """The options that feed this sample to the reference.

    Its graph says how many axes an input has; where it does not (a torch module has no shapes before it runs), the
    candidate's, `other`.
    """
    if not sample.source:
        return replace(options, seed=sample.seed)
    if sample.row is None:
        return replace(options, inputs=[sample.source])
    return replace(options, inputs=_row(sample, graph, other))


def _row(sample: Sample, graph: Graph, other: Graph) -> dict[str, Any]:
    """Row k of each array: without the first axis, or with it as a batch of one, as the input has axes.

    Where neither model says how many, as a batch of one.
    """
    inputs = {}
    for name, array in _arrays(sample.source).items():
        if name not in graph.inputs:
            raise UsageError(
                f"the model has no input {name!r}", context=sample.source, hint=nearest(name, graph.inputs)
            )
        shape = _shape(graph, name) or _shape(other, other.inputs[0] if len(other.inputs) == 1 else name)
        rank = array.ndim if shape is None else len(shape)
        assert sample.row is not None
        batch = slice(sample.row, sample.row + 1)
        inputs[name] = np.array(array[batch] if array.ndim == rank else array[sample.row])
    return inputs


def _shape(graph: Graph, name: str) -> tuple[int | str | None, ...] | None:
    return graph.tensors[name].shape if name in graph.tensors else None


@lru_cache(maxsize=1)
def _arrays(path: str) -> dict[str, Array]:
    return read_arrays(Path(path))
