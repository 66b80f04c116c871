"""Which TensorRT is here: the module, its version, its log, and its types in numpy's words."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from aligndbg.core.errors import MissingDependencyError, ModelError, UsageError

__all__ = ["UNREADABLE", "Library", "dtype_name", "find_library", "make_log", "numpy_dtype", "unreadable"]


MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
LOWEST = {"tensorrt": (10, 0), "rtx": (1, 4)}
FROM_NVIDIA = 'TensorRT 10.0 or later, from NVIDIA, with "aligndbg[tensorrt]"'
INSTALL = {"rtx": 'pip install "aligndbg[tensorrt-rtx]"', "tensorrt": f"install {FROM_NVIDIA}"}
INSTALL["auto"] = f"{INSTALL['rtx']}; or {FROM_NVIDIA}"
# TensorRT's word -> numpy's or ml_dtypes'
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "E8M0": "float8_e8m0fnu",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
UNREADABLE = {word: f"{word} values are packed, two in a byte, and not read" for word in ("INT4", "FP4")}


class Library(NamedTuple):
    """`kind` is "tensorrt" or "rtx"."""

    trt: Any
    kind: str
    version: tuple[int, ...]

    @property
    def text(self) -> str:
        return f"{MODULES[self.kind]} {self.trt.__version__}"

    @property
    def strong_only(self) -> bool:
        """Networks are strongly typed, whatever is asked for: RTX from the start, TensorRT since 11."""
        return self.kind == "rtx" or self.version >= (11,)


def find_library(wanted: str = "auto") -> Library:
    """The library that is asked for, or the first of TensorRT and TensorRT-RTX that is installed.

    Raises UsageError for an unknown word, MissingDependencyError where there is none or only too old a one.
    """
    if wanted != "auto" and wanted not in MODULES:
        raise UsageError(f"library={wanted!r} is not known", hint=f"one of auto, {', '.join(MODULES)}")
    refused = []
    for kind in MODULES if wanted == "auto" else (wanted,):
        if find_spec(MODULES[kind]) is None:
            refused.append(f"{MODULES[kind]} is not installed")
            continue
        found = _imported(kind)
        if isinstance(found, Library):
            return found
        refused.append(found)
    raise MissingDependencyError("; ".join(refused), hint=INSTALL[wanted])


def _imported(kind: str) -> Library | str:
    """The library, or why it is not used."""
    name = MODULES[kind]
    try:
        trt = importlib.import_module(name)
    except Exception as error:  # a missing libnvinfer.so is an ImportError, or what its loader makes of it
        return f"{name} does not import: {' '.join(str(error).split())}"
    if not hasattr(trt, "Builder"):  # the PyPI package tensorrt-stubs, or a bare folder of that name
        return f"{name} is an empty namespace (type stubs?), not the library"
    version = tuple(int(part) for part in trt.__version__.split(".")[:4] if part.isdecimal())
    if version < LOWEST[kind]:
        lowest = ".".join(map(str, LOWEST[kind]))
        return f"{name} {trt.__version__} is too old: its API is another one; {lowest} or later is supported"
    return Library(trt, kind, version)


def make_log(library: Library) -> Any:
    """A logger that keeps TensorRT's errors and prints nothing. `take()` gives them as one line, and forgets them."""
    trt = library.trt

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(" ".join(message.split()))

        def take(self) -> str:
            text, self.errors = "; ".join(dict.fromkeys(self.errors)), []
            return text if len(text) <= 600 else text[:597] + "..."

    return Log()


def dtype_name(dtype: Any) -> str:
    """trt.DataType -> numpy's or ml_dtypes' name; "" for one that cannot be read (see UNREADABLE)."""
    return DTYPES.get(dtype.name, "")


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """trt.DataType -> the dtype. Raises ModelError for one that numpy and ml_dtypes do not hold as TensorRT does."""
    name = dtype_name(dtype)
    if not name:
        raise ModelError(UNREADABLE.get(dtype.name, f"values of type {dtype.name} are not read"))
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name, name))
    return found


def unreadable(dtypes: Mapping[str, Any]) -> dict[str, str]:
    """Of tensors by name, those whose values cannot be read, each with the reason."""
    return {
        name: UNREADABLE.get(dtype.name, f"of type {dtype.name}, which is not read")
        for name, dtype in dtypes.items()
        if not dtype_name(dtype)
    }
