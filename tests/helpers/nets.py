"""Two ONNX files of one small network, with one operator that may differ; used by the tests of causes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]
CHANNELS, SIZE = 6, 12


class Net:
    """A chain: stem convolution, what `middle` adds, a last convolution; the same weights for the same names."""

    def __init__(self, seed: int = 0, opset: int = 18) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.seed, self.opset = seed, opset

    def weight(self, name: str, *shape: int, low: float = -0.5, high: float = 0.5) -> str:
        rng = np.random.default_rng([self.seed, *name.encode()])
        self.weights[name] = rng.uniform(low, high, shape).astype(np.float32)
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.weights[name] = np.asarray(value, dtype)
        return name

    def op(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"n_{output}", **attributes))
        return output

    def conv(
        self, x: str, name: str, out: int, into: int, kernel: int = 3, bias: bool = True, **attributes: Any
    ) -> str:
        inputs = [x, self.weight(f"{name}.w", out, into, kernel, kernel)]
        if bias:
            inputs.append(self.weight(f"{name}.b", out))
        padding = {} if "auto_pad" in attributes else {"pads": [kernel // 2] * 4}
        return self.op("Conv", inputs, name, **(padding | attributes))

    def save(self, path: Path, output: str, shape: Sequence[int] = (1, 3, SIZE, SIZE)) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(v, k) for k, v in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        onnx.save(model, str(path))
        return path


Middle = Callable[[Net, str], str]


def chain(middle: Middle, path: Path, seed: int = 0) -> Path:
    """x -> stem (CHANNELS, SIZE, SIZE) -> middle -> a gentle last operator."""
    net = Net(seed)
    x = net.conv("x", "stem", CHANNELS, 3)
    y = middle(net, x)
    return net.save(path, net.op("Mul", [y, net.constant("last", 0.5)], "y"))
