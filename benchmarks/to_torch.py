"""Builds the networks of large_networks.py as torch modules, with the weights of the other builders. Needs torch."""

from __future__ import annotations

from typing import Any

import torch
from large_networks import Network, fixtures
from torch.nn import functional as F


class Module(torch.nn.Module):
    """A network whose parameters are made by its first forward()."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.ops = Ops()
        with torch.inference_mode():
            self(torch.from_numpy(network.sample()))
        self.held = torch.nn.ParameterDict(
            {name: torch.nn.Parameter(t, requires_grad=False) for name, t in self.ops.parameters.items()}
        )
        self.ops.parameters = self.held

    def forward(self, x: Any) -> Any:
        return self.network.build(self.ops, x)


class Ops:
    def __init__(self) -> None:
        self.weights = fixtures.Weights()
        self.parameters: Any = {}

    def _parameter(self, name: str, array: Any) -> Any:
        key = name.replace(".", "_")
        if key not in self.parameters:
            self.parameters[key] = torch.from_numpy(array())
        return self.parameters[key]

    def _weight(self, name: str, shape: tuple[int, ...]) -> Any:
        return self._parameter(f"{name}.kernel", lambda: self.weights.kernel(name, shape))

    def _bias(self, name: str, size: int) -> Any:
        return self._parameter(f"{name}.bias", lambda: self.weights.bias(name, size))

    def _norm(self, name: str, key: str, size: int) -> Any:
        return self._parameter(f"{name}.{key}", lambda: self.weights.norm(name, size)[key])

    def conv(
        self,
        x: Any,
        name: str,
        channels: tuple[int, int],
        kernel: int,
        stride: int = 1,
        act: str = "",
        pad: str = "same",
    ) -> Any:
        """Padding as PyTorch's, which is TensorFlow's too wherever these networks ask for that."""
        weight = self._weight(name, (channels[1], channels[0], kernel, kernel))
        y = F.conv2d(x, weight, stride=stride, padding=0 if stride == kernel else kernel // 2)
        mean, variance, gamma, beta = (
            self._norm(name, key, channels[1]) for key in ("mean", "variance", "gamma", "beta")
        )
        y = F.batch_norm(y, mean, variance, gamma, beta, eps=fixtures.NORM_EPSILON)
        return F.relu(y) if act == "relu" else y

    def relu(self, x: Any, name: str) -> Any:
        return F.relu(x)

    def add(self, a: Any, b: Any, name: str) -> Any:
        return a + b

    def max_pool(self, x: Any, name: str) -> Any:
        return F.max_pool2d(x, 2)

    def global_average(self, x: Any, name: str) -> Any:
        return x.mean((2, 3))

    def dense(self, x: Any, name: str, features: tuple[int, int]) -> Any:
        return F.linear(x, self._weight(name, features[::-1]), self._bias(name, features[1]))

    def layer_norm(self, x: Any, name: str, size: int) -> Any:
        gamma, beta = (self._norm(name, key, size) for key in ("gamma", "beta"))
        return F.layer_norm(x, (size,), gamma, beta, eps=fixtures.NORM_EPSILON)

    def gelu(self, x: Any, name: str) -> Any:
        return F.gelu(x)

    def attention(self, x: Any, name: str, size: int, heads: int) -> Any:
        query, key, value = (
            self.dense(x, f"{name}.{part}", (size, size)).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = F.softmax(query @ key.transpose(2, 3) * (size // heads) ** -0.5, dim=-1)
        return self.dense((scores @ value).transpose(1, 2).flatten(2), f"{name}.out", (size, size))

    def sequence(self, x: Any, name: str, size: int) -> Any:
        return x.flatten(2).transpose(1, 2)

    def position(self, x: Any, name: str, shape: tuple[int, int]) -> Any:
        return x + self._parameter(name, lambda: self.weights.uniform(name, (1, *shape), -1, 1))

    def embed(self, x: Any, name: str, shape: tuple[int, int]) -> Any:
        return F.embedding(x, self._parameter(name, lambda: self.weights.uniform(name, shape, -1, 1)))
