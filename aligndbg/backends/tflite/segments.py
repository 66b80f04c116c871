"""Segments of a TFLite model: where it may be cut, and how large its tensors are."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aligndbg.backends.segments import Segment, cut
from aligndbg.backends.tflite.edit import Cut
from aligndbg.backends.tflite.file import READABLE, Op
from aligndbg.backends.tflite.graph import Analysis
from aligndbg.core.types import Array

__all__ = ["Step", "cut_model", "sizes_on", "steps"]


_SQUARES, _REDUCTIONS = frozenset({"MUL", "SQUARE"}), frozenset({"MEAN", "SUM"})


def cut_model(
    analysis: Analysis, wanted: Sequence[int], sizes: Mapping[int, int], limit: int, overrides: Mapping[Cut, Array]
) -> list[Segment[int]]:
    """Segments of the `wanted` operators, whose nodes are their indices; see `aligndbg.backends.segments.cut`.

    A model that keeps state is not cut. Nor is a square cut from its reduction: XNNPACK computes the two in one.
    """
    model = analysis.model
    ops = [model.ops[k] for k in wanted]
    if analysis.keeps_state:
        return [Segment(tuple(wanted))]
    squares = {i for op in ops if op.word in _SQUARES for i in op.outputs}
    reduced = {i for op in ops if op.word in _REDUCTIONS for i in op.reads}

    def passable(i: int) -> bool:
        return model.infos[i].dtype in READABLE and i not in squares & reduced

    def read(op: Op, i: int) -> Hashable:
        """What reads an override reads none of the model's own values."""
        return next((("override", cut) for cut in ((i, op.index), i) if cut in overrides), i)

    found: list[Segment[Any]] = cut(
        [tuple(read(op, i) for i in op.reads) for op in ops],
        [op.outputs for op in ops],
        {**sizes, **{("override", key): array.nbytes for key, array in overrides.items()}},
        limit,
        analysis.derived.keys(),
        passable,
    )
    return [segment._replace(nodes=tuple(ops[k].index for k in segment.nodes)) for segment in found]


def sizes_on(analysis: Analysis, feeds: Mapping[int, Array]) -> dict[int, int]:
    """Bytes of each tensor; of a stored one twice, as kernels pack it.

    Where the shape is dynamic, the file's own is taken and scaled as the inputs are.
    """
    model = analysis.model
    planned = sum(_bytes(model.file_shape(i), model.infos[i].dtype) for i in feeds)
    scale = max(1.0, sum(array.nbytes for array in feeds.values()) / max(planned, 1))
    out = {}
    for i, info in enumerate(model.infos):
        if model.is_stored(i):
            data = model.data(model.main.tensors[i].buffer)
            out[i] = 0 if data is None else 2 * data.size
        elif info.static_shape is not None:
            out[i] = _bytes(info.static_shape, info.dtype)
        else:
            out[i] = int(scale * _bytes(model.file_shape(i), info.dtype))
    return out


def _bytes(shape: tuple[int, ...] | list[int], dtype: str) -> int:
    return math.prod(shape) * (np.dtype(dtype).itemsize if dtype in READABLE else 1)


class Step(NamedTuple):
    """A segment as it is run: `taps` of the whole are its own `wanted`, `shown` are its outputs, `later` is read after.

    `reads` are tensors that its operators read, whoever computes them.
    """

    segment: Segment[int]
    wanted: tuple[int, ...]
    shown: tuple[int, ...]
    reads: frozenset[Cut]
    later: frozenset[Cut]


def steps(analysis: Analysis, segments: Sequence[Segment[int]], taps: Collection[int]) -> list[Step]:
    """The segments in order; those that nothing is wanted of are left out. A single one shows all model outputs."""
    model, out, later = analysis.model, list[Step](), frozenset[Cut]()
    for segment in reversed(segments):
        ops = [model.ops[k] for k in segment.nodes]
        made = {i for op in ops for i in op.outputs}
        wanted = tuple(i for i in taps if i in made)
        own = [i for i in analysis.shown if i in made or len(ops) == len(analysis.runnable)]
        reads = frozenset(cut for op in ops for i in op.reads for cut in (i, (i, op.index)))
        if own or wanted or segment.leaves:
            out.append(Step(segment, wanted, tuple(dict.fromkeys((*own, *wanted, *segment.leaves))), reads, later))
        later |= reads
    return out[::-1]
