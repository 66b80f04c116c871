"""The model's own input, prepared in another way: BGR for RGB, another normalization, axes exchanged, flipped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from aligndbg.core.types import Array
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypothesis import Hypothesis

__all__ = ["InputPreparation"]


MOST_CHANNELS = 4
EXCHANGED = "exchange the two inputs (--input-map says which is which), or rename them in the converted model"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# What preparation does to pixels: (name, factor, term); per channel where a tuple.
SCALINGS: tuple[tuple[str, float, float], ...] = (
    ("x / 255", 1 / 255, 0.0),
    ("x * 255", 255.0, 0.0),
    ("x / 127.5 - 1", 1 / 127.5, -1.0),
    ("(x + 1) * 127.5", 127.5, 127.5),
    ("2 x - 1", 2.0, -1.0),
    ("(x + 1) / 2", 0.5, 0.5),
    ("x / 128 - 1", 1 / 128, -1.0),
    ("x - 0.5", 1.0, -0.5),
    ("x / 256", 1 / 256, 0.0),
)


class InputPreparation(Hypothesis):
    """The region reads the model's input: the same region on that input prepared otherwise."""

    name = "inputs"

    def applies(self, case: Case) -> bool:
        return any(True for _ in _fed(case))

    def trials(self, case: Case) -> Iterator[Trial]:
        for side, name, value in _fed(case):
            half = case.half(side)
            yield from _exchanged(case, side, name, value)
            for kind, words, made, cost in changes(value):
                if kind == "layout" and half.value.ndim != case.other(side).value.ndim:
                    continue
                yield Trial(
                    kind,
                    side,
                    half.program,  # type: ignore[arg-type]  # _fed gives only sides that have one
                    f"the two sides agree when the {side}'s input {name!r} is {words}",
                    f"with the input so in the {side}",
                    cost,
                    {"input": name, "preparation": words, "on": side},
                    feeds={**half.feeds, name: np.ascontiguousarray(made.astype(value.dtype))},
                )


def _fed(case: Case) -> Iterator[tuple[str, str, Array]]:
    """(side, model input, what it was fed), for float inputs of regions that can be run."""
    for side, _ in case.programs(plain=False):
        half = case.half(side)
        for name, value in half.feeds.items():
            if name in half.own.graph.inputs and value.dtype.kind == "f" and value.ndim >= 2:
                yield side, name, value


def _exchanged(case: Case, side: str, name: str, value: Array) -> Iterator[Trial]:
    """Fed what another input of its shape is fed: names that were exchanged on the way."""
    half = case.half(side)
    for other in half.own.graph.inputs:
        given = half.own.feeds.get(other)
        if other == name or given is None or given.shape != value.shape or given.dtype != value.dtype:
            continue
        feeds = {**half.feeds, name: given}
        if other in feeds:
            feeds[other] = value
        yield Trial(
            "operand_order",
            side,
            half.program,  # type: ignore[arg-type]
            f"the inputs {name!r} and {other!r} are exchanged: the two sides agree when the {side}'s {name!r} is fed "
            f"what its {other!r} is",
            f"exchanged in the {side}",
            costs.INPUTS_EXCHANGED,
            {"exchanged": sorted((name, other)), "on": side, "change": EXCHANGED},
            feeds=feeds,
        )


def changes(x: Array) -> Iterator[tuple[str, str, Array, float]]:
    """(kind, words, changed input, cost) for everything that preparation gets wrong."""
    for axis in sorted(range(1, x.ndim), key=lambda a: (x.shape[a] != 3, a)):
        if 2 <= x.shape[axis] <= MOST_CHANNELS:
            for order in itertools.islice(itertools.permutations(range(x.shape[axis])), 1, None):
                words = f"taken with its channels (axis {axis}) in the order {list(order)}"
                yield "input_channel_order", words, np.take(x, order, axis), costs.INPUT_CHANNELS
    for name, factor, term in SCALINGS:
        yield "input_normalization", f"replaced by {name}", x * factor + term, costs.INPUT_SCALED
    yield from _by_channel(x)
    for axis in range(1, x.ndim):
        if x.shape[axis] > MOST_CHANNELS:
            yield "flip", f"reversed along axis {axis}", np.flip(x, axis), costs.INPUT_MOVED
    for perm in itertools.permutations(range(x.ndim)):
        if perm != tuple(range(x.ndim)) and tuple(x.shape[p] for p in perm) == x.shape and x.ndim <= 5:
            yield "layout", f"transposed by {list(perm)}", x.transpose(perm), costs.INPUT_MOVED
    for perm in ((0, 2, 3, 1), (0, 3, 1, 2)) if x.ndim == 4 else ():
        there = np.ascontiguousarray(x.transpose(perm)).reshape(x.shape)
        yield "layout", f"read as memory in the order {list(perm)} of its axes", there, costs.INPUT_READ_AS


def _by_channel(x: Array) -> Iterator[tuple[str, str, Array, float]]:
    mean, std = (np.array(v, np.float64) for v in IMAGENET)
    for axis in [a for a in range(1, x.ndim) if x.shape[a] == 3]:
        shape = [3 if a == axis else 1 for a in range(x.ndim)]
        m, s = mean.reshape(shape), std.reshape(shape)
        yield "input_normalization", "normalized by ImageNet's mean and std", (x - m) / s, costs.INPUT_SCALED
        words = "divided by 255, then normalized by ImageNet's"
        yield "input_normalization", words, (x / 255 - m) / s, costs.INPUT_SCALED_TWICE
        yield "input_normalization", "un-normalized from ImageNet's mean and std", x * s + m, costs.INPUT_SCALED
