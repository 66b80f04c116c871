"""torchvision, also where its compiled operators do not load (a wheel for CUDA beside a torch without it).

No network of the zoo uses those operators (`nms`, `roi_align`, ...), but the package registers shapes for them when it
is imported, and fails there. Import this before torchvision, or before what imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["torchvision"]


def _leniently(register: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.library.register_fake` that passes over operators which do not exist."""

    def given(name: str, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
            try:
                return register(name, *args, **kwargs)(function)
            except RuntimeError:
                return function

        return decorate

    return given


try:
    import torchvision
except RuntimeError:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    strict = torch.library.register_fake
    torch.library.register_fake = _leniently(strict)
    try:
        import torchvision
    finally:
        torch.library.register_fake = strict
