"""What a quantized file stores: Q/DQ halves that do not fit, weights on too coarse a grid, integer biases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg import Verdict
from aligndbg.core.types import Fault
from aligndbg.diff_result import Diff
from causes import compared
from nets import Net

STEP = 0.02
Build = Callable[[Net, str], str]


def tail(net: Net, x: str) -> str:
    return net.conv(net.op("Relu", [net.conv(x, "c2", 6, 6)], "r2"), "c3", 4, 6)


def built(path: Path, middle: Build) -> Path:
    net = Net()
    return net.save(path, tail(net, middle(net, net.op("Tanh", [net.conv("x", "c1", 6, 3)], "t"))))


def plain(net: Net, x: str) -> str:
    return net.op("Identity", [x], "m")


def on_a_grid(written: tuple[float, int], read: tuple[float, int], dtype: Any = np.uint8, moved: bool = False) -> Build:
    def build(net: Net, x: str) -> str:
        grids = {"w": written, "r": read}
        parts = [
            net.constant(f"{k}{n}", g[at], kind)
            for n, g in grids.items()
            for at, (k, kind) in enumerate((("s", np.float32), ("z", dtype)))
        ]
        stored = net.op("QuantizeLinear", [x, *parts[:2]], "q")
        if moved:
            stored = net.op("Transpose", [stored], "turned", perm=[0, 1, 3, 2])
            stored = net.op("Transpose", [stored], "back", perm=[0, 1, 3, 2])
        return net.op("DequantizeLinear", [stored, *parts[2:]], "m")

    return build


def caused(found: Diff) -> list[tuple[str, str]]:
    return [(f.reference or "", f.cause.kind if f.cause else "") for f in found.faults]


@pytest.mark.parametrize("moved", [False, True], ids=["as_it_is", "transposed"])
@pytest.mark.parametrize(
    ("written", "read", "dtype"),
    [
        ((STEP, 128), (STEP, 127), np.uint8),
        ((STEP, -3), (STEP, -2), np.int8),
        ((STEP, 60), (STEP, 90), np.uint8),
        ((STEP, 0), (1.04 * STEP, 0), np.int8),
    ],
    ids=["one_off", "one_off_signed", "many_off", "another_scale"],
)
def test_integers_read_by_another_grid(tmp_path: Path, written: Any, read: Any, dtype: Any, moved: bool) -> None:
    a, b = built(tmp_path / "a.onnx", plain), built(tmp_path / "b.onnx", on_a_grid(written, read, dtype, moved))
    found = compared(a, b)
    assert found.verdict is Verdict.DIVERGED
    assert [kind for _, kind in caused(found)] == ["quantization_scale"]
    cause = found.faults[0].cause
    assert cause is not None
    assert "is put on a grid with the" in cause.summary


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_halves_that_fit_are_no_fault(tmp_path: Path, dtype: Any) -> None:
    grid = (STEP, 128 if dtype is np.uint8 else 0)
    a, b = built(tmp_path / "a.onnx", plain), built(tmp_path / "b.onnx", on_a_grid(grid, grid, dtype))
    found = compared(a, b)
    assert found.verdict is Verdict.ALIGNED
    assert found.faults == ()


def test_a_factor_folded_into_the_scale_is_no_fault(tmp_path: Path) -> None:
    def times(net: Net, x: str) -> str:
        return net.op("Mul", [x, net.constant("half", 0.5)], "m")

    a, b = built(tmp_path / "a.onnx", times), built(tmp_path / "b.onnx", on_a_grid((STEP, 0), (STEP / 2, 0), np.int8))
    assert compared(a, b).faults == ()


def test_what_both_sides_do_is_no_fault(tmp_path: Path) -> None:
    a, b = (built(tmp_path / f"{k}.onnx", on_a_grid((STEP, 128), (STEP, 127))) for k in "ab")
    found = compared(a, b)
    assert found.verdict is Verdict.ALIGNED
    assert found.faults == ()


def quantized_conv(path: Path, sizes: Any, quantized: bool, per_channel: bool = False, bias: float = 0.1) -> Path:
    """A convolution whose channels are of these sizes, its weights and bias on grids; activations stay float."""
    net = Net(3)
    sizes = np.asarray(sizes, np.float32)
    net.weight("w", sizes.size, 3, 3, 3)
    weights = net.weights.pop("w") * sizes[:, None, None, None]
    biases = np.full(sizes.size, bias, np.float32)
    x = "x"
    if quantized:
        fed = [net.constant("xs", 2 / 255), net.constant("xz", 128, np.uint8)]
        x = net.op("DequantizeLinear", [net.op("QuantizeLinear", ["x", *fed], "xq"), *fed], "xd")
        largest = np.abs(weights).max(axis=(1, 2, 3)) if per_channel else np.array(np.abs(weights).max())
        scale = (largest / 127).astype(np.float32)
        along = scale.reshape(-1, 1, 1, 1) if per_channel else scale
        net.constant("wq", np.round(weights / along), np.int8)
        net.constant("ws", scale)
        net.constant("wz", np.zeros(scale.shape), np.int8)
        w = net.op("DequantizeLinear", ["wq", "ws", "wz"], "w", **({"axis": 0} if per_channel else {}))
        step = (scale * 2 / 255).astype(np.float32)
        limit = np.iinfo(np.int32)
        net.constant("bq", np.clip(np.round(biases.astype(np.float64) / step), limit.min, limit.max), np.int32)
        net.constant("bs", step if per_channel else np.full(1, step, np.float32)[0])
        b = net.op("DequantizeLinear", ["bq", "bs"], "b", **({"axis": 0} if per_channel else {}))
    else:
        w, b = net.constant("w", weights), net.constant("b", biases)
    y = net.op("Conv", [x, w, b], "conv", pads=[1, 1, 1, 1])
    back = (1 / np.maximum(sizes, 1e-3)).reshape(-1, 1, 1).astype(np.float32)
    return net.save(path, net.op("Mul", [net.op("Relu", [y], "r"), net.constant("back", back)], "y"))


def test_channels_lost_on_a_grid_for_the_whole_are_told(tmp_path: Path) -> None:
    sizes = [1, 0.002, 0.7, 0.003, 1.2, 0.0015]
    a, b = (quantized_conv(tmp_path / f"{q}.onnx", sizes, q, bias=0) for q in (False, True))
    found = compared(a, b)
    (cause,) = [c for c in found.causes if c.kind == "quantization_scale"]
    assert cause.details["lost"] == 3
    assert "per tensor" in cause.summary
    assert cause.before is not None
    assert cause.after is not None
    assert cause.after < 0.1 * cause.before


@pytest.mark.parametrize("per_channel", [True, False])
def test_channels_that_a_grid_holds_are_no_cause(tmp_path: Path, per_channel: bool) -> None:
    sizes = [1, 0.2, 0.7, 0.3, 1.2, 0.4]
    a, b = (quantized_conv(tmp_path / f"{q}.onnx", sizes, q, per_channel) for q in (False, True))
    found = compared(a, b)
    assert found.verdict is Verdict.ALIGNED
    assert found.causes == ()


def test_a_bias_at_the_limit_of_int32(tmp_path: Path) -> None:
    sizes = [1, 1e-7, 0.7, 0.5]
    a, b = (quantized_conv(tmp_path / f"{q}.onnx", sizes, q, per_channel=True, bias=0.9) for q in (False, True))
    found = compared(a, b)
    (fault,) = found.faults
    assert fault.cause is not None
    assert fault.cause.kind == "overflow"
    assert fault.cause.details["channels"] == [1]
    assert "int32" in fault.cause.summary


def test_a_bias_that_is_stored_in_other_steps_than_it_is_added_in(tmp_path: Path, fixtures: Path) -> None:
    """The file says the same bias in steps a third as wide; the kernel takes input scale times weight scale."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(bytearray((fixtures / "cnn_int8.tflite").read_bytes()), 0)
    graph = model.subgraphs[0]
    tensor = graph.tensors[graph.operators[3].inputs[2]]
    integers = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.int32)
    assert integers.any()
    model.buffers[tensor.buffer].data = (integers * 3).astype(np.int32).view(np.uint8)
    tensor.quantization.scale = (np.asarray(tensor.quantization.scale) / 3).astype(np.float32)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "shared_bias.tflite"
    path.write_bytes(bytes(builder.Output()))
    fed = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 40)).astype(np.float32)
    faults: tuple[Fault, ...] = aligndbg.diff(fixtures / "cnn.onnx", path, fed, checks=False).faults
    causes = [f.cause for f in faults if f.cause is not None]
    assert [c.kind for c in causes] == ["quantization_scale"]
    assert "input scale times weight scale" in causes[0].summary


def test_unsigned_pixels_fed_as_signed(fixtures: Path) -> None:
    """128 off, and wrapped around; the outputs may agree all the same."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 32, 40, 3), dtype=np.uint8)
    real = (pixels.astype(np.float32) - 128) / 127.5  # the int8 input's own grid is close to this one
    found = aligndbg.diff(
        fixtures / "cnn.onnx",
        fixtures / "cnn_int8.tflite",
        np.ascontiguousarray(real.transpose(0, 3, 1, 2)),
        candidate_inputs=pixels.view(np.int8),
        checks=False,
    )
    assert found.verdict is Verdict.DIVERGED
    assert found.causes[0].kind == "input_normalization"
    assert found.causes[0].details["offset_steps"] in (127, 128)  # by the zero point


def test_an_output_that_its_grid_cuts_off_proves_nothing(tmp_path: Path) -> None:
    """The direction of what is left is right, and half of it is gone."""

    def ended(path: Path, quantized: bool) -> Path:
        net = Net()
        y = net.conv(net.op("Tanh", [net.conv("x", "c1", 6, 3)], "t"), "c2", 4, 6)
        if not quantized:
            return net.save(path, net.op("Identity", [y], "y"))
        grid = [net.constant("s", 0.008), net.constant("z", 0, np.int8)]
        return net.save(path, net.op("DequantizeLinear", [net.op("QuantizeLinear", [y, *grid], "q"), *grid], "y"))

    paths = [ended(tmp_path / f"{q}.onnx", q) for q in (False, True)]
    found = aligndbg.diff(*paths, min_cosine=0.5, checks=False)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert [c.kind for c in found.causes] == ["saturation"]


@pytest.mark.parametrize(("step", "zero"), [(8.0, 0), (0.02, -128)], ids=["too_wide", "cut_off"])
def test_an_output_of_one_value_is_no_agreement(tmp_path: Path, step: float, zero: int) -> None:
    """All values near six: whatever one number stands in their place has their direction."""

    def ended(path: Path, quantized: bool) -> Path:
        net = Net()
        y = net.op("Tanh", [net.conv("x", "c1", 6, 3)], "t")
        y = net.op("Add", [net.op("Mul", [y, net.constant("tenth", 0.1)], "small"), net.constant("six", 6.0)], "a")
        if not quantized:
            return net.save(path, net.op("Identity", [y], "y"))
        grid = [net.constant("s", step), net.constant("z", zero, np.int8)]
        return net.save(path, net.op("DequantizeLinear", [net.op("QuantizeLinear", [y, *grid], "q"), *grid], "y"))

    found = compared(ended(tmp_path / "a.onnx", False), ended(tmp_path / "b.onnx", True))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "one value" in found.verdict_reason
