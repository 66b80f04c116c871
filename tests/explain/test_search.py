"""Every kind of cause, found on small networks with the fault on either side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg import Verdict
from aligndbg.backends.onnx.backend import OnnxBackend
from aligndbg.core.types import Cause
from aligndbg.diff_result import Diff
from nets import CHANNELS, SIZE, Middle, Net, chain

C = CHANNELS
Array = np.ndarray[Any, np.dtype[Any]]


def image() -> Array:
    return np.random.default_rng(3).uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32)


def compared(reference: Path, candidate: Path) -> Diff:
    """In this process: a worker for each of a hundred small files would take most of the time."""
    return aligndbg.diff(*(OnnxBackend(str(p), {}) for p in (reference, candidate)), image(), checks=False)


def cause_of(reference: Path, candidate: Path) -> Cause:
    found = compared(reference, candidate)
    assert found.verdict is Verdict.DIVERGED
    assert len(found.faults) == 1, [(f.reference, f.candidate, f.cause) for f in found.faults]
    assert found.faults[0].cause is not None
    return found.faults[0].cause


# --- the operators that differ ------------------------------------------------------------------------------------


def conv(name: str = "middle", **attributes: Any) -> Middle:
    return lambda net, x: net.conv(x, name, C, C, **attributes)


def op(word: str, **attributes: Any) -> Middle:
    return lambda net, x: net.op(word, [x], "middle", **attributes)


def edited(change: Any, **attributes: Any) -> Middle:
    """The middle convolution with `change(weights)` made to its file."""

    def build(net: Net, x: str) -> str:
        out = net.conv(x, "middle", C, C, **attributes)
        change(net.weights)
        return out

    return build


def scale_channel(weights: dict[str, Array]) -> None:
    weights["middle.w"][2] *= 1.7


def scale_all(weights: dict[str, Array]) -> None:
    weights["middle.w"] *= 1.25


def shift_bias(weights: dict[str, Array]) -> None:
    weights["middle.b"][4] += 0.4


def to_half(weights: dict[str, Array]) -> None:
    weights["middle.w"] = weights["middle.w"].astype(np.float16).astype(np.float32)


def shuffle_outputs(weights: dict[str, Array]) -> None:
    weights["middle.w"] = weights["middle.w"][[1, 0, 2, 5, 4, 3]]
    weights["middle.b"] = weights["middle.b"] * 0


def zero_bias(weights: dict[str, Array]) -> None:
    weights["middle.b"] = weights["middle.b"] * 0


def norm(**attributes: Any) -> Middle:
    def build(net: Net, x: str) -> str:
        inputs = [
            x,
            *(net.weight(f"bn.{p}", C) for p in ("scale", "shift", "mean")),
            net.weight("bn.var", C, low=0.001, high=0.02),
        ]
        return net.op("BatchNormalization", inputs, "middle", **attributes)

    return build


def folded(conv_bias: bool) -> Middle:
    """A convolution into whose weights a batch normalization is folded, with or without the convolution's bias."""

    def build(net: Net, x: str) -> str:
        norm_first(net, x)
        del net.nodes[-2:]
        w, names = net.weights, ("bn.scale", "bn.shift", "bn.mean", "bn.var")
        scale, shift, mean, var = (w[n] for n in names)
        factor = scale / np.sqrt(var + 1e-5)
        bias = shift + ((w["pre.b"] if conv_bias else 0) - mean) * factor
        net.constant("folded.w", w["pre.w"] * factor.reshape(-1, 1, 1, 1))
        net.constant("folded.b", bias)
        for name in (*names, "pre.w", "pre.b"):
            del w[name]
        return net.op("Conv", [x, "folded.w", "folded.b"], "middle", pads=[1, 1, 1, 1])

    return build


def norm_first(net: Net, x: str) -> str:
    before = net.conv(x, "pre", C, C)
    inputs = [
        before,
        *(net.weight(f"bn.{p}", C) for p in ("scale", "shift", "mean")),
        net.weight("bn.var", C, low=0.5, high=1.5),
    ]
    return net.op("BatchNormalization", inputs, "middle")


def resize(**attributes: Any) -> Middle:
    def build(net: Net, x: str) -> str:
        sizes = net.constant("sizes", [1, C, 2 * SIZE, 2 * SIZE], np.int64)
        return net.op("Resize", [x, "", "", sizes], "middle", **attributes)

    return build


def two(word: str, order: tuple[int, int], **attributes: Any) -> Middle:
    """An operator of two operands, each of them computed."""

    def build(net: Net, x: str) -> str:
        parts = [net.conv(x, "left", C, C, kernel=1), net.conv(x, "right", C, C, kernel=1)]
        return net.op(word, [parts[k] for k in order], "middle", **attributes)

    return build


def gather(order: list[int]) -> Middle:
    return lambda net, x: net.op("Gather", [x, net.constant("order", order, np.int64)], "middle", axis=1)


def strided(starts: list[int]) -> Middle:
    def build(net: Net, x: str) -> str:
        values = (starts, [2**31, 2**31], [2, 3], [2, 2])
        names = [net.constant(n, v, np.int64) for n, v in zip(("starts", "ends", "axes", "steps"), values, strict=True)]
        return net.op("Slice", [x, *names], "middle")

    return build


def reversed_rows(net: Net, x: str) -> str:
    names = [net.constant(n, [v], np.int64) for n, v in (("s", -1), ("e", -(2**31)), ("a", 2), ("t", -1))]
    return net.op("Slice", [x, *names], "middle")


def reshaped(permutation: list[int] | None) -> Middle:
    """view(1, C, H*W) of a permuted tensor, with the copy or without."""

    def build(net: Net, x: str) -> str:
        y = net.op("Transpose", [x], "moved", perm=permutation) if permutation else x
        return net.op("Reshape", [y, net.constant("shape", [1, C, SIZE * SIZE], np.int64)], "middle")

    return build


def gelu(tanh: bool) -> Middle:
    def build(net: Net, x: str) -> str:
        scaled = net.op("Mul", [x, net.constant("two", 2.0)], "scaled")
        half, one = net.constant("half", 0.5), net.constant("one", 1.0)
        if tanh:
            cube = net.op("Pow", [scaled, net.constant("three", 3.0)], "cube")
            inside = net.op("Add", [scaled, net.op("Mul", [cube, net.constant("c", 0.044715)], "c3")], "inside")
            curve = net.op("Tanh", [net.op("Mul", [inside, net.constant("k", math.sqrt(2 / math.pi))], "ki")], "curve")
        else:
            curve = net.op("Erf", [net.op("Mul", [scaled, net.constant("k", math.sqrt(0.5))], "ki")], "curve")
        return net.op("Mul", [net.op("Mul", [scaled, half], "h"), net.op("Add", [curve, one], "s")], "middle")

    return build


def half_precision(net: Net, x: str) -> str:
    net.op("Cast", [net.conv(x, "middle0", C, C)], "h", to=10)
    return net.op("Cast", ["h"], "middle", to=1)


def single(net: Net, x: str) -> str:
    return net.op("Identity", [net.conv(x, "middle0", C, C)], "middle")


def large(cast: bool) -> Middle:
    def build(net: Net, x: str) -> str:
        y = net.op("Mul", [x, net.constant("large", 6e4)], "grown")
        if not cast:
            return net.op("Identity", [y], "middle")
        return net.op("Cast", [net.op("Cast", [y], "h", to=10)], "middle", to=1)

    return build


def root(absolute: bool) -> Middle:
    """A square root, of negative values unless their sign is taken off first."""
    return lambda net, x: net.op("Sqrt", [net.op("Abs", [x], "size") if absolute else x], "middle")


def one_nan(weights: dict[str, Array]) -> None:
    weights["middle.w"][2, 0, 0, 0] = np.nan


def dequantized(scale: float, zero: int = 0) -> Middle:
    """Quantized in steps of 0.02 from 0, and read back with another scale or zero point."""

    def build(net: Net, x: str) -> str:
        stored = net.op("QuantizeLinear", [x, net.constant("s", 0.02), net.constant("z", 0, np.int8)], "stored")
        back = [net.constant("back_s", scale), net.constant("back_z", zero, np.int8)]
        return net.op("DequantizeLinear", [stored, *back], "middle")

    return build


def depth_to_space(mode: str) -> Middle:
    return lambda net, x: net.op("DepthToSpace", [net.conv(x, "up", 2 * C, C)], "middle", blocksize=2, mode=mode)


SAME = [0, 0, 1, 1]
STRIDED = {"strides": [2, 2]}
ORDERS = ([0, 1, 2, 3, 4, 5], [3, 1, 4, 0, 5, 2])
CASES: list[tuple[str, str, Middle, Middle]] = [
    ("padding", "padding", conv(pads=SAME, **STRIDED), conv(pads=[1, 1, 1, 1], **STRIDED)),
    ("auto_pad", "padding", conv(auto_pad="SAME_UPPER", **STRIDED), conv(pads=[1, 1, 1, 1], **STRIDED)),
    ("dilation", "attribute", conv(), conv(dilations=[2, 2], pads=[2, 2, 2, 2])),
    ("stride_offset", "stride_offset", strided([0, 0]), strided([1, 1])),
    (
        "count_include_pad",
        "pool_mode",
        op("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        op("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    ),
    ("pool", "pool_mode", op("MaxPool", kernel_shape=[2, 2]), op("AveragePool", kernel_shape=[2, 2])),
    (
        "half_pixel",
        "resize_mode",
        resize(mode="linear"),
        resize(mode="linear", coordinate_transformation_mode="align_corners"),
    ),
    ("nearest", "resize_mode", resize(mode="nearest"), resize(mode="nearest", nearest_mode="ceil")),
    ("cubic", "resize_mode", resize(mode="cubic"), resize(mode="cubic", cubic_coeff_a=-0.5)),
    ("weight", "weight", conv(), edited(scale_channel)),
    ("scale", "scale", conv(), edited(scale_all)),
    ("bias", "bias", conv(), edited(shift_bias)),
    ("missing_bias", "missing_bias", conv(), conv(bias=False)),
    ("zero_bias", "missing_bias", conv(), edited(zero_bias)),
    ("folded_without_bias", "missing_bias", norm_first, folded(conv_bias=False)),
    ("weights_fp16", "precision", conv(), edited(to_half)),
    ("result_fp16", "precision", single, half_precision),
    ("overflow", "overflow", large(False), large(True)),
    ("epsilon", "epsilon", norm(epsilon=1e-3), norm(epsilon=1e-5)),
    ("odd_epsilon", "epsilon", norm(epsilon=1e-5), norm(epsilon=0.0123)),
    ("axis", "axis", op("Softmax", axis=1), op("Softmax", axis=3)),
    ("relu6", "activation", op("Relu"), op("Sigmoid")),
    ("slope", "activation", op("LeakyRelu", alpha=0.1), op("LeakyRelu", alpha=0.27)),
    ("gelu", "approximation", gelu(tanh=False), gelu(tanh=True)),
    ("subtraction", "operand_order", two("Sub", (0, 1)), two("Sub", (1, 0))),
    ("concat", "operand_order", two("Concat", (0, 1), axis=1), two("Concat", (1, 0), axis=1)),
    ("contiguous", "layout", reshaped(None), reshaped([0, 1, 3, 2])),
    ("elu", "attribute", op("Elu", alpha=1.0), op("Elu", alpha=0.5)),
    ("lrn", "attribute", op("LRN", size=3, alpha=0.5), op("LRN", size=5, alpha=0.5)),
    ("depth_to_space", "attribute", depth_to_space("DCR"), depth_to_space("CRD")),
    ("nan_begins", "nonfinite", root(absolute=True), root(absolute=False)),
    ("nan_weight", "nonfinite", conv(), edited(one_nan)),
    ("quantizer_scale", "quantization_scale", dequantized(0.02), dequantized(0.03)),
    ("zero_point", "quantization_scale", dequantized(0.02), dequantized(0.02, 9)),
    ("flip", "flip", op("Identity"), reversed_rows),
    ("channels", "channel_order", gather(ORDERS[0]), gather(ORDERS[1])),
]
ONE_WAY = [
    ("missing", "missing_activation", op("Relu"), op("Identity")),
    ("extra", "extra_activation", op("Identity"), op("Relu")),
    ("missing_tanh", "missing_activation", op("Tanh"), op("Identity")),
]


@pytest.mark.parametrize("swapped", [False, True], ids=["candidate", "reference"])
@pytest.mark.parametrize(("name", "kind", "good", "bad"), CASES, ids=[c[0] for c in CASES])
def test_the_kind_is_found_on_either_side(
    tmp_path: Path, name: str, kind: str, good: Middle, bad: Middle, swapped: bool
) -> None:
    paths = chain(good, tmp_path / "good.onnx"), chain(bad, tmp_path / "bad.onnx")
    cause = cause_of(*(paths[::-1] if swapped else paths))
    assert cause.kind == kind, cause.summary
    assert cause.before is not None
    assert cause.after is not None
    assert cause.after <= 0.2 * cause.before
    assert "candidate" in cause.summary or "reference" in cause.summary


@pytest.mark.parametrize(("name", "kind", "first", "second"), ONE_WAY, ids=[c[0] for c in ONE_WAY])
def test_what_one_side_lacks_the_other_has_too_much(
    tmp_path: Path, name: str, kind: str, first: Middle, second: Middle
) -> None:
    cause = cause_of(chain(first, tmp_path / "a.onnx"), chain(second, tmp_path / "b.onnx"))
    assert cause.kind == kind, cause.summary


@pytest.mark.parametrize("middle", [c[2] for c in CASES], ids=[c[0] for c in CASES])
def test_a_clean_pair_has_no_cause(tmp_path: Path, middle: Middle) -> None:
    found = compared(chain(middle, tmp_path / "a.onnx"), chain(middle, tmp_path / "b.onnx"))
    assert found.faults == ()
    assert found.causes == ()


def test_what_is_told_with_a_cause(tmp_path: Path) -> None:
    case = next(c for c in CASES if c[0] == "padding")
    cause = cause_of(chain(case[2], tmp_path / "a.onnx"), chain(case[3], tmp_path / "b.onnx"))
    assert "pads (1,1), the reference's (0,1)" in cause.summary
    assert cause.details["candidate"] == {"pads": [1, 1, 1, 1]}
    assert cause.details["where"]["candidate"]["tensor"] == "middle"
    assert [o["name"] for o in cause.details["where"]["reference"]["operators"]] == ["n_middle"]
    different = [row for row in cause.details["attributes"] if not row["same"]]
    assert [(row["attribute"], row["reference"], row["candidate"]) for row in different] == [
        ("pads", [0, 0, 1, 1], [1, 1, 1, 1])
    ]
    assert cause.details["change"]


def test_nothing_is_claimed_that_does_not_reduce_the_error(tmp_path: Path) -> None:
    """Two things wrong in one operator: neither alone makes the error vanish."""

    def both(net: Net, x: str) -> str:
        y = net.op("Sin", [x], "s")
        return net.op("Mul", [y, net.op("Cos", [net.op("Exp", [x], "e")], "c")], "middle")

    def neither(net: Net, x: str) -> str:
        return net.op("Mul", [net.op("Cosh", [x], "s"), net.op("Sinh", [net.op("Exp", [x], "e")], "c")], "middle")

    found = compared(chain(both, tmp_path / "a.onnx"), chain(neither, tmp_path / "b.onnx"))
    assert found.verdict is Verdict.DIVERGED
    for fault in found.faults:
        assert fault.cause is not None
        if fault.cause.kind == "unexplained":
            assert fault.cause.after is None
            assert fault.cause.details["tried"]
        else:
            assert fault.cause.after is not None
            assert fault.cause.after <= 0.2 * (fault.cause.before or 0)


@pytest.mark.parametrize("name", ["padding", "epsilon", "cubic", "axis", "count_include_pad", "missing_bias", "flip"])
def test_a_recorded_candidate_is_explained_from_the_reference_alone(tmp_path: Path, name: str) -> None:
    case = next(c for c in CASES if c[0] == name)
    reference, candidate = chain(case[2], tmp_path / "a.onnx"), chain(case[3], tmp_path / "b.onnx")
    trace = tmp_path / "b.safetensors"
    aligndbg.capture(OnnxBackend(str(candidate), {}), image(), trace)
    found = aligndbg.diff(OnnxBackend(str(reference), {}), trace, checks=False)
    causes = [f.cause.kind for f in found.faults if f.cause is not None]
    assert causes == [case[1]], [f.cause for f in found.faults]


@pytest.mark.parametrize("swapped", [False, True], ids=["candidate", "reference"])
def test_where_nan_begins_is_said_with_its_side(tmp_path: Path, swapped: bool) -> None:
    paths = chain(root(absolute=True), tmp_path / "a.onnx"), chain(root(absolute=False), tmp_path / "b.onnx")
    cause = cause_of(*(paths[::-1] if swapped else paths))
    assert cause.details["on"] == ("reference" if swapped else "candidate")
    assert cause.details["inputs_finite"] is True
    assert cause.details["nan"] > 0
    assert cause.details["inf"] == 0
    assert "they begin here" in cause.summary


@pytest.mark.parametrize("factor", [0.6, 1.3])
@pytest.mark.parametrize("layer", [3, 6])
def test_a_scale_of_int8_weights_that_does_not_fit(tmp_path: Path, fixtures: Path, layer: int, factor: float) -> None:
    """The weights' stored integers stay; only the number that they are multiplied by is another."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    packed = bytearray((fixtures / "cnn_int8.tflite").read_bytes())
    model = schema.ModelT.InitFromPackedBuf(packed, 0)
    graph = model.subgraphs[0]
    quantization = graph.tensors[graph.operators[layer].inputs[1]].quantization
    quantization.scale = (np.asarray(quantization.scale) * factor).astype(np.float32)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "scaled.tflite"
    path.write_bytes(bytes(builder.Output()))
    fed = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 40)).astype(np.float32)
    (fault,) = aligndbg.diff(fixtures / "cnn.onnx", path, fed, checks=False).faults
    assert fault.isolated_unit == "lsb"
    assert fault.cause is not None
    assert fault.cause.kind == "quantization_scale", fault.cause.summary
    told = fault.cause.details.get("factor", fault.cause.details.get("ratio"))  # of the values, or of the weights
    assert told == pytest.approx(factor, rel=0.03)


# --- an activation that one side has more, right after a paired tensor ----------------------------------------------


def relu_before(extra: bool, scale: float = 1.0) -> Middle:
    def build(net: Net, x: str) -> str:
        y = net.op("Relu", [x], "extra") if extra else x
        y = net.conv(y, "mid", C, C)
        net.weights["mid.w"] *= np.float32(scale)
        return net.conv(net.op("Tanh", [y], "tanh"), "tail", C, C)

    return build


@pytest.mark.parametrize("on_reference", [False, True])
def test_an_activation_too_many_before_a_convolution_is_explained_by_the_run_it_was_measured_in(
    tmp_path: Path, on_reference: bool
) -> None:
    paths = [chain(relu_before(extra), tmp_path / f"{extra}.onnx") for extra in (on_reference, not on_reference)]
    found = compared(*paths)
    assert [{f.reference, f.candidate} for f in found.faults] == [{"stem", "extra"}]
    (fault,) = found.faults
    assert fault.cause is not None
    assert fault.cause.kind == ("missing_activation" if on_reference else "extra_activation")
    assert fault.cause.before == pytest.approx(fault.isolated_error, rel=1e-3)
    assert fault.cause.after == pytest.approx(0.0, abs=1e-5)


def test_a_fault_behind_an_activation_too_many_is_explained_by_the_run_past_it(tmp_path: Path) -> None:
    paths = [chain(relu_before(False), tmp_path / "a.onnx"), chain(relu_before(True, 1.3), tmp_path / "b.onnx")]
    activation, scaled = compared(*paths).faults
    assert (activation.reference, activation.candidate) == ("stem", "extra")
    assert activation.cause is not None
    assert activation.cause.before == pytest.approx(activation.isolated_error, rel=1e-3)
    assert activation.cause.kind != "scale", "that is of the convolution behind it"
    assert (scaled.reference, scaled.candidate) == ("mid", "mid")
    assert scaled.cause is not None
    assert scaled.cause.kind == "scale"
    assert scaled.cause.before == pytest.approx(scaled.isolated_error, rel=1e-3)
