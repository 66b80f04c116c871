"""Causes of the pair as a whole: how it is fed, axes swapped, one grid for unlike values, another network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg import Verdict
from aligndbg.backends.onnx.backend import OnnxBackend
from aligndbg.core.layouts import layouts
from aligndbg.diff_result import Diff
from aligndbg.explain.whole_pair import input_causes
from aligndbg.feeds.difference import logical_difference
from aligndbg.feeds.translate import FeedLink
from nets import CHANNELS, SIZE, Net, chain

Array = np.ndarray[Any, np.dtype[Any]]


def image(size: int = SIZE) -> Array:
    return np.random.default_rng(5).uniform(0, 1, (1, 3, size, size)).astype(np.float32)


def compared(reference: Path, candidate: Path, inputs: Any = None, **options: Any) -> Diff:
    models = [OnnxBackend(str(p), {}) for p in (reference, candidate)]
    return aligndbg.diff(*models, image() if inputs is None else inputs, checks=False, **options)


def deep(path: Path, seed: int = 0, width: int = CHANNELS) -> Path:
    net = Net(seed)
    x = "x"
    for k in range(5):
        y = net.conv(x, f"c{k}", width, 3 if k == 0 else width)
        x = net.op("Relu", [y], f"r{k}")
    return net.save(path, net.op("GlobalAveragePool", [x], "y"))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("input_channel_order", lambda x: x[:, ::-1]),
        ("input_normalization", lambda x: x * 2 - 1),
        ("input_normalization", lambda x: (x - np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)) / 0.225),
        ("layout", lambda x: x.transpose(0, 1, 3, 2)),
        ("flip", lambda x: x[..., ::-1]),
    ],
    ids=["bgr", "minus_one_to_one", "imagenet", "transposed", "mirrored"],
)
def test_the_candidate_fed_apart(tmp_path: Path, kind: str, change: Any) -> None:
    path = deep(tmp_path / "a.onnx")
    other = np.ascontiguousarray(change(image()).astype(np.float32))
    found = compared(path, path, candidate_inputs=other)
    assert [c.kind for c in found.causes] == [kind]
    assert found.causes[0].after == 0.0
    assert found.faults == ()  # the operators are not blamed


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("input_channel_order", lambda x: x[:, ::-1]),
        ("flip", lambda x: x[:, :, ::-1]),
    ],
    ids=["bgr", "mirrored"],
)
def test_a_recording_fed_apart(tmp_path: Path, kind: str, change: Any) -> None:
    """A dump that does not say what it was fed: the first layer shows it."""
    path = deep(tmp_path / "a.onnx")
    other = np.ascontiguousarray(change(image()).astype(np.float32))
    trace = aligndbg.capture(OnnxBackend(str(path), {}), other)
    np.savez(tmp_path / "dump.npz", **{n: trace.values[n] for n in trace.order if n != "x"})
    found = aligndbg.diff(OnnxBackend(str(path), {}), tmp_path / "dump.npz", image(), checks=False)
    assert found.faults
    assert found.faults[0].cause is not None
    assert found.faults[0].cause.kind == kind, found.faults[0].cause.summary


def waves(net: Net, x: str, swap: bool) -> str:
    x = net.op("Transpose", [x], "moved", perm=[0, 1, 3, 2]) if swap else net.op("Identity", [x], "moved")
    for k in range(5):
        x = net.op("Sin" if k % 2 else "Tanh", [x], f"wave{k}")
    return net.op("Relu", [x], "middle")


def test_height_and_width_swapped_from_one_operator_on(tmp_path: Path) -> None:
    straight = chain(lambda net, x: waves(net, x, False), tmp_path / "a.onnx")
    swapped = chain(lambda net, x: waves(net, x, True), tmp_path / "b.onnx")
    found = compared(straight, swapped)
    (fault,) = found.faults
    assert (fault.candidate, fault.candidate_op) == ("moved", "Transpose")
    assert fault.cause is not None
    assert fault.cause.kind == "layout"
    assert fault.cause.before is not None
    assert fault.cause.after is not None
    assert fault.cause.after < 1e-3 * fault.cause.before
    assert compared(straight, straight).causes == ()


def test_another_network_is_said_once(tmp_path: Path) -> None:
    found = compared(deep(tmp_path / "a.onnx"), deep(tmp_path / "b.onnx", seed=1))
    assert found.verdict is Verdict.DIVERGED
    assert [c.kind for c in found.causes] == ["different_network"]
    assert "other weights throughout" in found.causes[0].summary
    assert len(found.faults) <= 1


def test_a_wider_network_is_another_one(tmp_path: Path) -> None:
    found = compared(deep(tmp_path / "a.onnx"), deep(tmp_path / "b.onnx", width=CHANNELS + 2))
    assert "different_network" in [c.kind for c in found.causes]


WIDE = 16


def stack(path: Path, seed: int = 0, kept: int = 0, noise: float = 0.0, quantized: bool = False) -> Path:
    """Six convolutions, the first `kept` of them of seed 0; each weight with noise, or on an int8 grid."""
    net = Net(seed)
    x = "x"
    rng = np.random.default_rng(7)
    for k in range(6):
        net.seed = 0 if k < kept else seed
        name = f"c{k}"
        net.conv(x, name, WIDE, 3 if k == 0 else WIDE)
        node, weight = net.nodes[-1], net.weights[f"{name}.w"]
        weight += (noise * weight.std() * rng.standard_normal(weight.shape)).astype(np.float32)
        if quantized:
            step = np.abs(weight).max((1, 2, 3)) / np.float32(127)
            del net.weights[f"{name}.w"]
            stored = np.round(weight / step[:, None, None, None]).astype(np.int8)
            inputs = [net.constant(f"{name}.q", stored, np.int8), net.constant(f"{name}.s", step)]
            net.nodes.pop()
            net.op("DequantizeLinear", inputs, f"{name}.w", axis=0)
            net.nodes.append(node)
        x = net.op("Relu", [name], f"r{k}")
    return net.save(path, net.op("GlobalAveragePool", [x], "y"))


@pytest.mark.parametrize("quantized", [False, True])
def test_another_training_is_told_from_its_weights(tmp_path: Path, quantized: bool) -> None:
    found = compared(stack(tmp_path / "a.onnx"), stack(tmp_path / "b.onnx", seed=1, quantized=quantized))
    assert [c.kind for c in found.causes] == ["different_network"]
    counts = "of the reference's 6 weight tensors 0 are equal in the candidate, 0 near, 6 other"
    assert found.causes[0].summary == f"this is another network (other weights throughout): {counts}"
    assert len(found.faults) <= 1


def test_another_checkpoint_of_the_network_is_told_from_its_weights(tmp_path: Path) -> None:
    found = compared(stack(tmp_path / "a.onnx"), stack(tmp_path / "b.onnx", noise=0.05))
    (cause,) = found.causes
    assert cause.kind == "different_network"
    assert "another checkpoint of the network" in cause.summary
    assert (cause.details["equal"], cause.details["near"], cause.details["other"]) == (0, 6, 0)
    assert len(found.faults) == 1


def test_a_network_of_which_half_was_trained_further_is_the_same_one(tmp_path: Path) -> None:
    found = compared(stack(tmp_path / "a.onnx"), stack(tmp_path / "b.onnx", seed=1, kept=3))
    assert found.causes == ()
    assert len(found.faults) == 3
    assert "of the reference's 6 weight tensors 3 are equal in the candidate, 0 near, 3 other" in found.warnings


def test_weights_on_a_grid_are_no_other_network(tmp_path: Path) -> None:
    found = compared(stack(tmp_path / "a.onnx"), stack(tmp_path / "b.onnx", quantized=True), atol=1e-9)
    assert "different_network" not in {c.kind for c in found.causes}


def test_of_a_recording_nothing_is_concluded(tmp_path: Path) -> None:
    other = stack(tmp_path / "b.onnx", seed=1)
    aligndbg.capture(other, {"x": image()}, output=tmp_path / "b.npz")
    found = aligndbg.diff(stack(tmp_path / "a.onnx"), tmp_path / "b.npz", checks=False)
    assert found.verdict is Verdict.DIVERGED
    assert found.causes == ()


def test_one_wrong_layer_is_no_other_network(tmp_path: Path) -> None:
    net = Net()
    x = "x"
    for k in range(5):
        y = net.conv(x, f"c{k}", CHANNELS, 3 if k == 0 else CHANNELS)
        x = net.op("Relu", [y], f"r{k}")
    net.weights["c2.w"] = net.weights["c2.w"][::-1].copy() * 1.3
    path = net.save(tmp_path / "b.onnx", net.op("GlobalAveragePool", [x], "y"))
    found = compared(deep(tmp_path / "a.onnx"), path)
    assert found.causes == ()
    assert len(found.faults) == 1


def yolo_head(path: Path, quantized: bool) -> Path:
    """Boxes of 0..640 and scores of 0..1, joined: on one int8 grid the scores collapse."""
    net = Net()
    boxes = net.op("Mul", [net.op("Sigmoid", [net.conv("x", "box", 4, 3)], "b"), net.constant("size", 640.0)], "boxes")
    scores = net.op("Sigmoid", [net.conv("x", "score", 5, 3)], "scores")
    joined = net.op("Concat", [boxes, scores], "joined", axis=1)
    if not quantized:
        return net.save(path, net.op("Identity", [joined], "y"))
    scale, zero = net.constant("scale", 640 / 255), net.constant("zero", -128, np.int8)
    stored = net.op("QuantizeLinear", [joined, scale, zero], "stored")
    return net.save(path, net.op("DequantizeLinear", [stored, scale, zero], "y"))


def test_boxes_and_scores_on_one_grid(tmp_path: Path) -> None:
    found = compared(yolo_head(tmp_path / "a.onnx", False), yolo_head(tmp_path / "b.onnx", True))
    (fault,) = found.faults  # nothing is left of what one operand of the Concat holds
    cause = fault.cause
    assert found.verdict is Verdict.DIVERGED
    assert cause is not None
    assert cause.kind in ("saturation", "quantization_scale")
    assert cause.details["channels"] == [4, 5, 6, 7, 8]
    assert cause.before is not None
    assert cause.after is not None
    assert cause.before > 0.5
    assert cause.after < 0.05
    assert "collapse to 1 distinct value" in cause.summary


def test_an_input_out_of_the_quantized_range_is_said_to_be_clipped(fixtures: Path) -> None:
    wide = np.random.default_rng(0).uniform(-2, 2, (1, 3, 32, 40)).astype(np.float32)
    found = aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn_int8.tflite", wide, checks=False)
    (cause,) = found.causes
    assert cause.kind == "saturation"
    assert found.verdict is not Verdict.ALIGNED
    assert "calibrate" in cause.details["change"]


@pytest.mark.parametrize("sizes", [(8, 4), (4, 8)], ids=["candidate", "reference"])
def test_inputs_of_unlike_shape_are_said_to_be_so(sizes: tuple[int, int]) -> None:
    reference, candidate = (image(s) for s in sizes)
    layout = next(iter(layouts(reference.shape, reference.shape)))
    link = FeedLink("x", "x", layout, "by name")
    (cause,) = input_causes(logical_difference({"x": reference}, {"x": candidate}, [link]))
    assert cause.kind == "shape"
    assert str(reference.shape) in cause.summary
    assert str(candidate.shape) in cause.summary
    assert cause.after is None
    assert "same logical shape" in cause.details["change"]


def test_json_holds_the_causes(tmp_path: Path) -> None:
    import json

    path = deep(tmp_path / "a.onnx")
    found = compared(path, path, candidate_inputs=np.ascontiguousarray(image()[:, ::-1]))
    (cause,) = json.loads(found.to_json())["causes"]
    assert cause["kind"] == "input_channel_order"
    assert cause["details"]["permutation"] == [2, 1, 0]
    assert "input_channel_order" in found.summary()
