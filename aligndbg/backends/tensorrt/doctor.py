"""What TensorRT needs besides Python: a library, cuda-bindings, a driver and a GPU. One line each."""

from __future__ import annotations

import ctypes
import sys
from importlib import metadata
from importlib.util import find_spec

from aligndbg.backends.tensorrt.library import find_library
from aligndbg.backends.tensorrt.session import ELSEWHERE, device_trouble
from aligndbg.core.errors import AligndbgError

__all__ = ["probe"]


DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def probe() -> None:
    """Prints for each need `ok` or `no`, a tab, and what there is or how to get it."""
    for works, text in (_library(), _bindings(), _driver(), _gpu()):
        print(f"{'ok' if works else 'no'}\t{text}")


def _library() -> tuple[bool, str]:
    try:
        return True, f"library: {find_library().text}"
    except AligndbgError as error:
        return False, f"library: {error.fact}; {error.hint}"


def _bindings() -> tuple[bool, str]:
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return False, 'cuda-bindings: not installed; pip install "aligndbg[tensorrt]"'
    return True, f"cuda-bindings: {metadata.version('cuda-bindings')}"


def _driver() -> tuple[bool, str]:
    """Asked of the driver's own library, so that it is known without cuda-bindings too."""
    version = ctypes.c_int()
    try:
        ctypes.CDLL(DRIVER).cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return False, "driver: no NVIDIA driver; without one models are parsed and listed, not run"
    return True, f"driver: serves CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def _gpu() -> tuple[bool, str]:
    trouble = device_trouble()
    return not trouble, f"GPU: {trouble or 'found'}{'; ' + ELSEWHERE if trouble else ''}"
