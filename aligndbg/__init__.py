"""aligndbg: where two builds of one network disagree, and why.

The public face; every name is imported on first use, so that `import aligndbg` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aligndbg._version import __version__

if TYPE_CHECKING:
    from aligndbg._api import capture, diff, doctor, layers, open_model, print_layers
    from aligndbg._assert import assert_aligned
    from aligndbg._diff import Diff, DivergedError
    from aligndbg._errors import AligndbgError
    from aligndbg._rejudge import judge
    from aligndbg._types import Status, Verdict
    from aligndbg.backends.memory import MemoryBackend, MemoryNode
    from aligndbg.feeds import ImageOptions
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
    "assert_aligned": "aligndbg._assert",
    "capture": "aligndbg._api",
    "diff": "aligndbg._api",
    "doctor": "aligndbg._api",
    "judge": "aligndbg._rejudge",
    "layers": "aligndbg._api",
    "print_layers": "aligndbg._api",
    "open_model": "aligndbg._api",
    "Diff": "aligndbg._diff",
    "DivergedError": "aligndbg._diff",
    "AligndbgError": "aligndbg._errors",
    "ImageOptions": "aligndbg.feeds",
    "MemoryBackend": "aligndbg.backends.memory",
    "MemoryNode": "aligndbg.backends.memory",
    "Status": "aligndbg._types",
    "TableView": "aligndbg.report.table",
    "Verdict": "aligndbg._types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aligndbg' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
