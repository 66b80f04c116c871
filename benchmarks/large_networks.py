"""The networks that performance is measured on, over the operations of fixtures/networks.py. Needs numpy only.

Sizes are those of ResNet-50, ViT-B/16 and BERT-base; weights are random, normalization comes where it does there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))
fixtures = importlib.import_module("networks")

Array = np.ndarray[Any, np.dtype[Any]]
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
VOCABULARY, TOKENS = 30522, 128
LONG = 2048  # tokens of the long transformer


class Network(NamedTuple):
    """`shape` is the input's without its batch axis, channels first; `tokens` where it is token ids."""

    build: Callable[[Any, Any], Any]
    shape: tuple[int, ...]
    tokens: bool = False

    def sample(self, seed: int = 0) -> Array:
        state = np.random.RandomState(seed)
        if self.tokens:
            return state.randint(0, VOCABULARY, (1, *self.shape)).astype(np.int32)
        return state.uniform(-1, 1, (1, *self.shape)).astype(np.float32)


def resnet50(ops: Any, x: Any) -> Any:
    x = ops.max_pool(ops.conv(x, "stem", (3, 64), 7, stride=2, act="relu", pad="symmetric"), "pool")
    channels = 64
    for i, (width, blocks) in enumerate(STAGES):
        for j in range(blocks):
            name, stride = f"layer{i}.{j}", 2 if i and not j else 1
            skip = ops.conv(x, f"{name}.shortcut", (channels, 4 * width), 1, stride, pad="symmetric") if not j else x
            y = ops.conv(x, f"{name}.conv1", (channels, width), 1, act="relu")
            y = ops.conv(y, f"{name}.conv2", (width, width), 3, stride, act="relu", pad="symmetric")
            y = ops.conv(y, f"{name}.conv3", (width, 4 * width), 1)
            x = ops.relu(ops.add(skip, y, f"{name}.add"), name)
            channels = 4 * width
    return ops.dense(ops.global_average(x, "average"), "classifier", (channels, 1000))


def encoder(ops: Any, x: Any, layers: int, size: int, heads: int) -> Any:
    """Transformer blocks, normalization first."""
    for i in range(layers):
        name = f"block{i}"
        mixed = ops.attention(ops.layer_norm(x, f"{name}.norm1", size), f"{name}.attention", size, heads)
        x = ops.add(x, mixed, f"{name}.residual1")
        y = ops.dense(ops.layer_norm(x, f"{name}.norm2", size), f"{name}.up", (size, 4 * size))
        y = ops.dense(ops.gelu(y, f"{name}.gelu"), f"{name}.down", (4 * size, size))
        x = ops.add(x, y, f"{name}.residual2")
    return x


def vit_b16(ops: Any, x: Any) -> Any:
    x = ops.sequence(ops.conv(x, "patches", (3, 768), 16, 16), "sequence", 768)
    x = ops.position(x, "position", (196, 768))
    x = ops.layer_norm(encoder(ops, x, 12, 768, 12), "norm", 768)
    return ops.dense(x, "head", (768, 1000))


def bert_base(ops: Any, x: Any) -> Any:
    x = ops.position(ops.embed(x, "words", (VOCABULARY, 768)), "position", (TOKENS, 768))
    x = encoder(ops, ops.layer_norm(x, "norm", 768), 12, 768, 12)
    return ops.dense(x, "pooler", (768, 768))


def long_transformer(ops: Any, x: Any) -> Any:
    """Two blocks of BERT-base on LONG tokens: activations, not weights, are what is large."""
    return encoder(ops, ops.layer_norm(x, "norm", 768), 2, 768, 12)


NETWORKS = {
    "resnet50": Network(resnet50, (3, 224, 224)),
    "vit_b16": Network(vit_b16, (3, 224, 224)),
    "bert_base": Network(bert_base, (TOKENS,), tokens=True),
    "long_transformer": Network(long_transformer, (LONG, 768)),
}
