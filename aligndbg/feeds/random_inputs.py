"""Seeded random inputs, and the shapes of inputs with dynamic dimensions. Knows numpy only."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from aligndbg.core.arrays import numpy_dtype
from aligndbg.core.errors import UsageError, nearest
from aligndbg.core.types import FLOAT_DTYPES, Array, TensorInfo
from aligndbg.feeds.layouts import fitting_permutations

__all__ = ["Range", "parse_ranges", "parse_shapes", "random_inputs", "resolve_shapes"]

Range = tuple[float, float]

MOST_ELEMENTS = 1 << 30  # of one input; a file that asks for more is damaged, and its size no reason to exhaust memory


def random_inputs(
    inputs: Sequence[TensorInfo],
    *,
    seed: int = 0,
    distribution: str = "uniform",
    val_range: Range | Mapping[str, Range] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    hints: Sequence[TensorInfo] = (),
    notes: list[str] | None = None,
) -> dict[str, Array]:
    """One array an input, the same for the same seed and name whatever the other inputs are. None is constant.

    Floats: uniform in [0, 1), which images and inputs of a square root or a logarithm both bear; `normal` is mean 0,
    std 1, or with a range its middle and a sixth of its width. Integers: 0 or 1 (a valid token, mask and segment
    alike), uint8 and int8 without quantization their whole range, a given range with both its ends. Quantized
    inputs: the real range of their quantization, quantized. `val_range` is one range or one by name ("" for the rest).
    `shapes`, `hints` and `notes` are those of `resolve_shapes`. Raises UsageError.
    """
    if distribution not in ("uniform", "normal"):
        raise UsageError(f"the distribution {distribution!r} is unknown", hint="use uniform or normal")
    if seed < 0:
        raise UsageError(f"the seed {seed} is negative", hint="use 0 or more")
    ranges = val_range if isinstance(val_range, Mapping) else {} if val_range is None else {"": val_range}
    _check_names(ranges, inputs, "--val-range")
    resolved = resolve_shapes(inputs, shapes, hints=hints, notes=notes)
    feeds: dict[str, Array] = {}
    for info in inputs:
        like = _counterpart(info, inputs, hints)
        info = info if info.dtype or like is None else replace(info, dtype=like.dtype)
        rng = np.random.default_rng([seed, zlib.crc32(info.name.encode())])
        feeds[info.name] = _draw(rng, info, resolved[info.name], distribution, ranges.get(info.name, ranges.get("")))
    return feeds


def _check_names(given: Mapping[str, object], inputs: Sequence[TensorInfo], option: str) -> None:
    names = [info.name for info in inputs]
    for name in given:
        if name and name not in names:
            raise UsageError(f"the model has no input {name!r}", context=option, hint=nearest(name, names))


def _draw(
    rng: np.random.Generator, info: TensorInfo, shape: tuple[int, ...], distribution: str, limits: Range | None
) -> Array:
    dtype = numpy_dtype(info.dtype or "float32", info.name)
    if dtype.name in FLOAT_DTYPES:
        return _varied(_floats(rng, shape, distribution, limits).astype(dtype), limits or (0.0, 1.0))
    if dtype.kind == "b":
        return _varied(rng.integers(0, 2, shape).astype(dtype), (0, 1))
    if dtype.kind not in "iu":
        raise UsageError(
            f"the input {info.name!r} is {info.dtype}, for which there are no random values", hint="give it by --input"
        )
    stored = np.iinfo(dtype)
    if info.quant is not None and limits is not None:
        values = _floats(rng, shape, distribution, limits)
        return _varied(info.quant.quantize(values, dtype), (stored.min, stored.max))
    byte_sized = dtype.itemsize == 1 or info.quant is not None
    low, high = limits or ((stored.min, stored.max) if byte_sized else (0, 1))
    first, last = int(np.ceil(low)), int(np.floor(high))
    if first < stored.min or last > stored.max or first > last:
        raise UsageError(f"the range {low:g},{high:g} holds no {info.dtype}", context=f"input {info.name!r}")
    drawn = rng.integers(first, last, shape, dtype=dtype, endpoint=True)
    return _varied(np.asarray(drawn), (first, last))


def _floats(rng: np.random.Generator, shape: tuple[int, ...], distribution: str, limits: Range | None) -> Array:
    if distribution == "uniform":
        low, high = limits or (0.0, 1.0)
        return rng.uniform(low, high, shape)
    if limits is None:
        return rng.standard_normal(shape)
    return rng.normal((limits[0] + limits[1]) / 2, (limits[1] - limits[0]) / 6, shape)


def _varied(array: Array, limits: Range) -> Array:
    """The array, with one element moved to another end of its range where chance made all of them equal or zero."""
    if not array.size:
        return array
    flat = np.ascontiguousarray(array).reshape(-1)
    if np.all(flat == flat[0]) and (array.size > 1 or not flat[0]):
        flat[0] = limits[1] if flat[0] != np.asarray(limits[1]).astype(flat.dtype) else limits[0]
    return flat.reshape(array.shape)


def resolve_shapes(
    inputs: Sequence[TensorInfo],
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    hints: Sequence[TensorInfo] = (),
    notes: list[str] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The concrete shape of every input.

    From `shapes`; a symbol they settle holds for the other inputs too; then from `hints`, the other model's inputs,
    where one of the same name, or the only one, fits; then 1 for the first of two or more dimensions, which is added to
    `notes`. Raises UsageError for a shape that contradicts the model, or a dimension that stays open,
    or a negative or absurd one.
    """
    given = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    _check_names(given, inputs, "--shape")
    symbols: dict[str, int] = {}
    for info in inputs:
        if info.name in given:
            _learn(info, given[info.name], symbols)
    resolved = {
        info.name: given.get(info.name) or _complete(info, symbols, _hint(info, inputs, hints), notes)
        for info in inputs
    }
    for name, shape in resolved.items():
        if any(size < 0 for size in shape) or math.prod(shape) > MOST_ELEMENTS:
            what = "x".join(map(str, shape))
            raise UsageError(f"the input {name!r} of shape {what} cannot be made", hint="is the model file damaged?")
    return resolved


def _learn(info: TensorInfo, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    if info.shape is None:
        return
    if len(shape) != len(info.shape):
        raise UsageError(
            f"--shape gives {len(shape)} dimensions, the input {info.name!r} has {len(info.shape)}",
            hint="give every dimension, the batch too",
        )
    for want, size in zip(info.shape, shape, strict=True):
        known = want if isinstance(want, int) else symbols.setdefault(want, size) if want else size
        if known != size:
            has = known if want == known else f"{want} = {known}"
            raise UsageError(
                f"--shape gives {size} where the input {info.name!r} has {has}",
                hint=f"its shape is {info.shape}",
            )


def _counterpart(info: TensorInfo, inputs: Sequence[TensorInfo], hints: Sequence[TensorInfo]) -> TensorInfo | None:
    """The other model's input of the same name, or the only one."""
    same = [hint for hint in hints if hint.name == info.name]
    if not same and len(hints) == len(inputs) == 1:
        same = list(hints)
    return same[0] if same else None


def _hint(info: TensorInfo, inputs: Sequence[TensorInfo], hints: Sequence[TensorInfo]) -> tuple[int, ...] | None:
    """A static shape that the other model suggests, brought into this input's axis order."""
    like = _counterpart(info, inputs, hints)
    shape = like.static_shape if like else None
    if shape is None:
        return None
    if info.shape is None:
        return shape
    fitting = fitting_permutations(shape, info.shape)
    if not fitting:
        return None
    back = np.argsort(fitting[0])
    return tuple(shape[axis] for axis in back)


def _complete(
    info: TensorInfo, symbols: Mapping[str, int], hint: tuple[int, ...] | None, notes: list[str] | None
) -> tuple[int, ...]:
    if info.shape is None:
        if hint is not None:
            return hint
        raise UsageError(f"the shape of the input {info.name!r} is unknown", hint=f"--shape {info.name}=1x3x224x224")
    sizes: list[int] = []
    for axis, want in enumerate(info.shape):
        if isinstance(want, int):
            sizes.append(want)
        elif want is not None and want in symbols:
            sizes.append(symbols[want])
        elif hint is not None:
            sizes.append(hint[axis])
        elif axis == 0 and len(info.shape) > 1:
            sizes.append(1)
            if notes is not None:
                notes.append(f"the first dimension ({want or 'dynamic'}) of the input {info.name!r} is taken as 1")
        else:
            example = "x".join(str(size) if isinstance(size, int) else "N" for size in info.shape)
            raise UsageError(
                f"dimension {axis} ({want or 'dynamic'}) of the input {info.name!r} is not fixed",
                hint=f"--shape {info.name}={example}, with numbers for N",
            )
    return tuple(sizes)


def parse_shapes(specs: Iterable[str], inputs: Sequence[TensorInfo]) -> dict[str, tuple[int, ...]]:
    """`name=1x3x224x224` or `name=1,3,224,224`; the name may be left out for a single input. Raises UsageError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        name, text = _named(spec, inputs, "--shape")
        try:
            sizes = tuple(int(part) for part in text.replace("x", ",").split(",") if part.strip())
        except ValueError:
            sizes = ()
        if not sizes or min(sizes) < 0:
            raise UsageError(f"{text!r} is not a shape", context=f"--shape {spec}", hint="write NAME=1x3x224x224")
        shapes[name] = sizes
    return shapes


def parse_ranges(specs: Iterable[str], inputs: Sequence[TensorInfo]) -> dict[str, Range]:
    """`lo,hi` for every input ("" is its key) or `name=lo,hi`. Raises UsageError."""
    ranges: dict[str, Range] = {}
    for spec in specs:
        name, text = ("", spec) if "=" not in spec else _named(spec, inputs, "--val-range")
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError:
            low, high = np.nan, np.nan
        if not (np.isfinite([low, high]).all() and low < high):
            raise UsageError(
                f"{text!r} is not a range", context=f"--val-range {spec}", hint="write LO,HI or NAME=LO,HI"
            )
        ranges[name] = (low, high)
    return ranges


def _named(spec: str, inputs: Sequence[TensorInfo], option: str) -> tuple[str, str]:
    name, equals, text = spec.rpartition("=")
    names = [info.name for info in inputs]
    if not equals and len(names) == 1:
        return names[0], text
    if name not in names:
        fact = f"the model has no input {name!r}" if equals else "which input this is for is not said"
        raise UsageError(fact, context=f"{option} {spec}", hint=nearest(name, names))
    return name, text
