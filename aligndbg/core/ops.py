"""The vocabulary of operators, in ONNX words: which move values, which hold weights, which are akin."""

from __future__ import annotations

from functools import lru_cache

from aligndbg.core.moves import PASSIVE_OPS
from aligndbg.core.types import Node

__all__ = [
    "FAMILIES",
    "FINISHING",
    "KINDRED",
    "SIGNED",
    "WEIGHT_OPS",
    "ops_agree",
    "output_index",
]

# Of integers: ops whose rounding or meaning is another one for negative numbers (canonical, and torch's own names).
SIGNED = frozenset({"Div", "Mod", "BitShift", "floor_divide", "remainder", "fmod", "trunc_divide"})

SAME_RESULT = 0.9  # `ops_agree` of ops that give one result under two names, or none but another type or layout
KINDRED = 0.4  # of ops that are something to each other
WEIGHT_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# A converter that has no such op writes out its steps, weighted ops first.

# Ops that converters fuse into the op before them.
FINISHING = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Tanh", "Sigmoid", "HardSwish", "HardSigmoid", "Elu", "Gelu"}
    | {"Add", "Mul", "BatchNormalization"}
)
# Ops that take each other's place by a mistake: a pair of them is a fault rather than no pair.
FAMILIES = (
    frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"}),
    frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "Elu", "Gelu"}),
    frozenset({"Add", "Sub", "Mul", "Div"}),
)


def ops_agree(rn: Node, cn: Node) -> float:
    """1 where both outputs hold the result of the same op, less where only a kindred or the main op agrees."""
    return 1.0 if rn.tail == cn.tail else _unlike_agree((rn.tail, rn.canonical), (cn.tail, cn.canonical))


@lru_cache(maxsize=4096)
def _unlike_agree(one: tuple[str, str], other: tuple[str, str]) -> float:
    tails = frozenset((one[0], other[0]))
    if tails in _KIN or tails in _WRITTEN_OUT:
        return SAME_RESULT
    if one[1] in PASSIVE_OPS and other[1] in PASSIVE_OPS:
        return SAME_RESULT
    if frozenset((one[1], other[1])) in _WRITTEN_OUT or any(tails <= family for family in FAMILIES):
        return 0.6
    main = frozenset((one[1], other[1]))
    return KINDRED if len(main) == 1 or main in _KIN else 0.0


# The same result under two names; which one a converter writes says nothing.
_KIN = frozenset(
    frozenset(p)
    for p in (
        ("Gemm", "MatMul"),
        ("Add", "Gemm"),
        ("Add", "MatMul"),
        ("Relu", "Clip"),
        ("GlobalAveragePool", "ReduceMean"),
        ("AveragePool", "ReduceMean"),
        ("GlobalAveragePool", "AveragePool"),
        ("Upsample", "Resize"),
        ("Slice", "Split"),
        ("Gather", "Slice"),
        ("Gather", "Split"),
        ("BatchNormalization", "Conv"),
        ("BatchNormalization", "Gemm"),
        ("Add", "Conv"),
        ("HardSigmoid", "Clip"),
    )
)


# One op against the last of those it is written out as.
_WRITTEN_OUT = frozenset(
    frozenset(p)
    for p in (
        ("HardSwish", "Mul"),
        ("Swish", "Mul"),
        ("Gelu", "Mul"),
        ("LayerNormalization", "Add"),
        ("InstanceNormalization", "Add"),
        ("InstanceNormalization", "Mul"),
        ("GroupNormalization", "Add"),
        ("Softmax", "Div"),
        ("Attention", "MatMul"),
        ("LSTM", "Mul"),  # the hidden state
        ("LSTM", "Add"),  # the cell state
        ("GRU", "Add"),
        ("RNN", "Tanh"),
    )
)


def output_index(node: Node, name: str) -> int:
    return node.outputs.index(name)
