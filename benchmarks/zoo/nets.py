"""The networks of the zoo by name: seeded, and as if trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.by_hand import BY_HAND
from zoo.of_packages import TIMM, TORCHVISION
from zoo.of_transformers import TRANSFORMERS
from zoo.small import SMALL, Made, Make

__all__ = ["NETS", "SMALL", "make"]

NETS: Mapping[str, Make] = {**SMALL, **BY_HAND, **TIMM, **TORCHVISION, **TRANSFORMERS}
WARMING = 6  # forward passes, of BATCH inputs each, that batch norms take their statistics from
BATCH = 4
# Standard deviations. Heads and gates that start next to zero have up to 2e-5, all others 6e-3 or more.
TINY, USUAL = 1e-3, 0.02


def make(name: str, seed: int = 0) -> Made:
    """The network in eval mode, and its inputs. Raises KeyError, and ImportError where its package is not installed."""
    torch.manual_seed(seed)
    module, inputs = NETS[name]()
    module.eval()
    with torch.no_grad():
        _spread(module)
        _warm(module, inputs)
    return module.eval(), inputs


def _spread(module: nn.Module) -> None:
    """No parameter is left constant, or next to zero: what is done to the rest would be hidden by it."""
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        if not parameter.dtype.is_floating_point or parameter.numel() < 2:
            continue
        value = parameter.flatten()[0].item()
        if (parameter != value).any():  # the deviation of a constant is not always 0: it is rounded
            if parameter.std() < TINY:
                parameter.mul_(USUAL / parameter.std())
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if value == 0:
            parameter.copy_(0.05 * noise)
        elif abs(value) < 0.01:
            parameter.copy_(0.3 + 0.05 * noise)
        else:
            parameter.copy_(value * (1 + 0.1 * noise))


def _warm(module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 0.3
    for seed in range(WARMING if norms else 0):
        torch.manual_seed(100 + seed)
        module(*(torch.cat([_like(v) for _ in range(BATCH)]) for v in inputs.values()))


def _like(value: Tensor) -> Tensor:
    """Other values of the same kind: noise for floats; integers are words and masks, and stay."""
    return torch.randn_like(value) if value.is_floating_point() else value
