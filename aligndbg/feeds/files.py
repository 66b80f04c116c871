"""Inputs from files: .npz, .npy and image specs as arrays by input name."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligndbg.core.errors import FeedError, UsageError, nearest
from aligndbg.core.npy import damage, read_npy
from aligndbg.core.types import Array, TensorInfo
from aligndbg.feeds.check import check_feed
from aligndbg.feeds.images import IMAGE_SUFFIXES, ImageOptions, load_image

__all__ = ["load_inputs", "read_arrays"]


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
