"""aligndbg: where two builds of one network disagree, and why.

The public face; every name is imported on first use, so that `import aligndbg` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aligndbg.core.version import __version__

if TYPE_CHECKING:
    from aligndbg.api import (
        AligndbgError,
        Diff,
        DivergedError,
        ImageOptions,
        MemoryBackend,
        MemoryNode,
        Status,
        TableView,
        Verdict,
        capture,
        diff,
        doctor,
        judge,
        layers,
        open_model,
        print_layers,
    )
    from aligndbg.assertion.assert_aligned import assert_aligned

__all__ = [
    "AligndbgError",
    "Diff",
    "DivergedError",
    "ImageOptions",
    "MemoryBackend",
    "MemoryNode",
    "Status",
    "TableView",
    "Verdict",
    "__version__",
    "assert_aligned",
    "capture",
    "diff",
    "doctor",
    "judge",
    "layers",
    "open_model",
    "print_layers",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'aligndbg' has no attribute {name!r}")
    from importlib import import_module

    home = "aligndbg.assertion.assert_aligned" if name == "assert_aligned" else "aligndbg.api"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
