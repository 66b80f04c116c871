"""Inputs: from files, at random, checked against the model, and translated for the other side. Knows numpy only."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligndbg._blocks import is_float_dtype
from aligndbg._errors import FeedError, UsageError, nearest
from aligndbg._feed_check import FeedFinding, logical_difference
from aligndbg._feed_plans import FeedLink, FeedPlan, numpy_dtype, translate
from aligndbg._images import IMAGE_SUFFIXES, ImageOptions, load_image
from aligndbg._npy import damage, read_npy
from aligndbg._random_feeds import Range, random_inputs, resolve_shapes
from aligndbg._types import Array, TensorInfo

__all__ = [
    "IMAGE_SUFFIXES",
    "FeedFinding",
    "FeedLink",
    "FeedPlan",
    "ImageOptions",
    "check_feed",
    "load_inputs",
    "logical_difference",
    "parse_ranges",
    "parse_shapes",
    "random_inputs",
    "read_arrays",
    "resolve_shapes",
    "translate",
]


def load_inputs(
    specs: Sequence[str],
    inputs: Sequence[TensorInfo],
    image: ImageOptions | None = None,
    allow_nonfinite: bool = False,
    notes: list[str] | None = None,
) -> dict[str, Array]:
    """Arrays by input name from `x.npz`, `name=x.npy`, `x.npy` and images, each checked by `check_feed`.

    A spec without a name goes to the one input that no other spec names. What had to be converted is added to `notes`.
    Raises UsageError for an unknown or missing name or file, FeedError for a value that the model cannot take.
    """
    if not specs:
        raise UsageError("no input is given", hint="--input x.npz, --input NAME=x.npy, or leave it out for random ones")
    infos = {info.name: info for info in inputs}
    loaded: dict[str, tuple[Array, str]] = {}
    unnamed: list[Path] = []
    for spec in specs:
        name, path = _split_spec(spec, infos)
        if name:
            _put(loaded, name, _load_one(path, infos[name], image or ImageOptions()), path)
        elif path.suffix.lower() == ".npz":
            for key, array in _load_npz(path, infos).items():
                _put(loaded, key, array, path)
        else:
            unnamed.append(path)
    for path in unnamed:
        name = _only_remaining(path, infos, loaded, len(unnamed))
        _put(loaded, name, _load_one(path, infos[name], image or ImageOptions()), path)
    missing = [name for name in infos if name not in loaded]
    if missing:
        raise UsageError(
            f"no value is given for the input{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}",
            hint=f"add --input {missing[0]}=x.npy",
        )
    feeds: dict[str, Array] = {}
    for name, info in infos.items():
        array, origin = loaded[name]
        try:
            feeds[name], note = check_feed(info, array, allow_nonfinite)
        except FeedError as error:
            raise error.with_context(origin) from None
        if note and notes is not None:
            notes.append(note)
    return feeds


def _split_spec(spec: str, infos: Mapping[str, TensorInfo]) -> tuple[str, Path]:
    """(input name or "", file). A file's own name may hold "=", and so may an input's."""
    if Path(spec).is_file():
        return "", Path(spec)
    known = [name for name in infos if spec.startswith(f"{name}=")]
    if known:
        name = max(known, key=len)
        path = Path(spec[len(name) + 1 :])
    elif "=" in spec:
        name = spec.partition("=")[0]
        raise UsageError(f"the model has no input {name!r}", context=f"--input {spec}", hint=nearest(name, infos))
    else:
        name, path = "", Path(spec)
    if not path.is_file():
        raise UsageError("there is no such file", context=str(path), hint="--input takes a file, or NAME=file")
    return name, path


def _put(loaded: dict[str, tuple[Array, str]], name: str, array: Array, path: Path) -> None:
    if name in loaded:
        raise UsageError(f"the input {name!r} is given twice", context=str(path), hint="give it once")
    loaded[name] = (array, str(path))


def _only_remaining(path: Path, infos: Mapping[str, TensorInfo], loaded: Mapping[str, Any], waiting: int) -> str:
    free = [name for name in infos if name not in loaded]
    if len(free) == 1 and waiting == 1:
        return free[0]
    if not free:
        raise UsageError("every input has a value already", context=str(path), hint="leave this one out")
    raise UsageError(
        f"which input this is for cannot be told: {', '.join(map(repr, free))} have no value",
        context=str(path),
        hint=f"write --input {free[0]}={path}",
    )


def _load_one(path: Path, info: TensorInfo, image: ImageOptions) -> Array:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        loaded = _read_numpy(path)
        assert isinstance(loaded, np.ndarray)
        return loaded
    if suffix == ".npz":
        arrays = read_arrays(path)
        if len(arrays) == 1:
            return next(iter(arrays.values()))
        if info.name in arrays:
            return arrays[info.name]
        raise UsageError(
            f"it has {len(arrays)} arrays and none is named {info.name!r}",
            context=str(path),
            hint=nearest(info.name, arrays),
        )
    if suffix in IMAGE_SUFFIXES:
        return load_image(path, info, image)
    raise UsageError(
        f"the kind of input file {suffix or 'without a suffix'} is unknown",
        context=str(path),
        hint=f"known: .npz, .npy, {', '.join(IMAGE_SUFFIXES)}",
    )


def _load_npz(path: Path, infos: Mapping[str, TensorInfo]) -> dict[str, Array]:
    arrays = read_arrays(path)
    if len(arrays) == 1 and len(infos) == 1:
        return {next(iter(infos)): next(iter(arrays.values()))}
    for name in arrays:
        if name not in infos:
            raise UsageError(f"the model has no input {name!r}", context=str(path), hint=nearest(name, infos))
    return arrays


def read_arrays(path: Path) -> dict[str, Array]:
    """Every array of an .npz, by name. Raises FeedError."""
    loaded = _read_numpy(path)
    assert isinstance(loaded, dict)
    return loaded


def _read_numpy(path: Path) -> Array | dict[str, Array]:
    """An .npy's array, or every array of an .npz. Pickled objects are refused."""
    try:
        with damage("is damaged"):
            packed = zipfile.is_zipfile(path)
        if packed != (path.suffix.lower() == ".npz"):
            raise ValueError(f"is an .{'npz' if packed else 'npy'} file")
        if not packed:
            with open(path, "rb") as file:
                return read_npy(file, path.stat().st_size)
        return _read_members(path)
    except OSError as error:
        raise FeedError(f"it cannot be read: {error.strerror or error}", context=str(path)) from error
    except ValueError as error:
        raise FeedError(f"it cannot be read: it {error}", context=str(path), hint="save it with numpy.savez") from error


def _read_members(path: Path) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    with damage("is damaged"):
        archive = zipfile.ZipFile(path)
    with archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"holds {name!r} twice")
            try:
                with damage("is damaged"):
                    file = archive.open(member)
                with file:
                    arrays[name] = read_npy(file, member.file_size)
            except ValueError as error:
                raise ValueError(f"holds {name!r}, which {error}") from error
    return arrays


def check_feed(info: TensorInfo, array: Array, allow_nonfinite: bool = False) -> tuple[Array, str]:
    """The array as the input takes it (contiguous, its dtype) and a note of what was converted, or "".

    float64 is rounded to float32; other casts must be exact and of the same kind. Raises FeedError for another rank,
    dimension or kind, and for NaN or Inf.
    """
    _check_shape(info, array)
    cast, note = _cast(info, np.asarray(array))
    if is_float_dtype(cast.dtype) and not allow_nonfinite:
        bad = ~np.isfinite(cast.astype(np.float32) if cast.dtype.kind == "V" else cast)
        if bad.any():
            where = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
            raise FeedError(
                f"the input {info.name!r} has {np.count_nonzero(bad)} NaN or Inf, the first at {where}",
                hint="--allow-nonfinite feeds it as it is",
            )
    return np.ascontiguousarray(cast).reshape(cast.shape), note


def _check_shape(info: TensorInfo, array: Array) -> None:
    if info.shape is None:
        return
    fits = len(info.shape) == array.ndim and all(
        not isinstance(want, int) or want == have for want, have in zip(info.shape, array.shape, strict=True)
    )
    if not fits:
        raise FeedError(
            f"the input {info.name!r} is {_shape_text(info.shape)}, the array is {_shape_text(array.shape)}",
            hint="the array must be in the model's own layout",
        )


def _cast(info: TensorInfo, array: Array) -> tuple[Array, str]:
    if not info.dtype or array.dtype.name == info.dtype:
        return array, ""
    want = numpy_dtype(info.dtype, info.name)
    if array.dtype.kind == "V" and array.dtype.names is None and array.dtype.itemsize == want.itemsize:
        return array.view(want), ""  # numpy's files keep the bits of bfloat16 and fp8, not their name
    kinds = {_kind(array.dtype), _kind(want)}
    with np.errstate(all="ignore"):
        cast = array.astype(want) if len(kinds) == 1 and "other" not in kinds else None
        exact = cast is not None and bool(np.array_equal(cast.astype(array.dtype), array, equal_nan=kinds == {"float"}))
    note = f"the input {info.name!r} was given as {array.dtype} and is fed as {info.dtype}"
    if cast is not None and exact:
        return cast, note
    if cast is not None and (array.dtype.name, info.dtype) == ("float64", "float32"):
        if np.array_equal(np.isfinite(cast), np.isfinite(array)):
            return cast, f"{note}, rounded"
        raise FeedError(f"the input {info.name!r} has values beyond float32", hint="scale them, or feed float32")
    hint = f"convert it to {info.dtype}"
    if info.quant is not None and is_float_dtype(array.dtype):
        hint += f": round(x / {info.quant.scale.flat[0]:g}) + {info.quant.zero_point.flat[0]}"
    raise FeedError(f"the input {info.name!r} takes {info.dtype}, the array is {array.dtype}", hint=hint)


def _kind(dtype: np.dtype[Any]) -> str:
    if is_float_dtype(dtype):
        return "float"
    return "int" if dtype.kind in "iu" else "other"


def _shape_text(shape: Iterable[int | str | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "a scalar"


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
