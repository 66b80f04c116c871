"""aligndbg: where two builds of one network disagree, and why.

The public face; every name is imported on first use, so that `import aligndbg` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aligndbg.core.version import __version__

if TYPE_CHECKING:
    from aligndbg.api import capture, diff, doctor, layers, print_layers
    from aligndbg.assertion.assert_aligned import assert_aligned
    from aligndbg.backends.memory import MemoryBackend, MemoryNode
    from aligndbg.backends.open import open_model
    from aligndbg.core.errors import AligndbgError
    from aligndbg.core.types import Status, Verdict
    from aligndbg.diff_result import Diff, DivergedError
    from aligndbg.feeds.images import ImageOptions
    from aligndbg.pipeline.rejudge import judge
    from aligndbg.report.table import TableView

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

_HOMES = {
    "assert_aligned": "aligndbg.assertion.assert_aligned",
    "capture": "aligndbg.api",
    "diff": "aligndbg.api",
    "doctor": "aligndbg.api",
    "judge": "aligndbg.pipeline.rejudge",
    "layers": "aligndbg.api",
    "print_layers": "aligndbg.api",
    "open_model": "aligndbg.backends.open",
    "Diff": "aligndbg.diff_result",
    "DivergedError": "aligndbg.diff_result",
    "AligndbgError": "aligndbg.core.errors",
    "ImageOptions": "aligndbg.feeds.images",
    "MemoryBackend": "aligndbg.backends.memory",
    "MemoryNode": "aligndbg.backends.memory",
    "Status": "aligndbg.core.types",
    "TableView": "aligndbg.report.table",
    "Verdict": "aligndbg.core.types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aligndbg' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
