"""A few faults of each kind, planted into the bundled models: each must be located, and nothing else."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(BENCHMARKS))  # the bench is no part of the package

from plants import NotHere, Plantable, Site, effect, open_plantable, plant  # noqa: E402
from plants.bench import Bench, PairOfModels, judge  # noqa: E402
from plants.causes import is_right  # noqa: E402

CNN = PairOfModels("cnn.onnx", "cnn.tflite")
UNFOLDED = PairOfModels("cnn_opset_b.onnx", "cnn.tflite")
ATTENTION = PairOfModels("attention.onnx", "attention.tflite")


@pytest.fixture(scope="module")
def bench(fixtures: Path) -> Bench:
    return Bench(fixtures, None)


@pytest.mark.parametrize(
    ("pair", "side", "kind"),
    [
        *((CNN, "candidate", k) for k in ("weight_channel", "scale", "missing_bias", "activation", "padding")),
        *((CNN, "candidate", k) for k in ("resize_mode", "pool_mode", "extra_activation", "softmax_beta")),
        *((CNN, "reference", k) for k in ("bias_channel", "missing_activation", "dtype_rounding", "stride_offset")),
        *((UNFOLDED, "reference", k) for k in ("epsilon", "norm_channel", "padding", "constant")),
        *((ATTENTION, "candidate", k) for k in ("constant", "missing_bias", "weight_channel")),
        *((ATTENTION, "reference", k) for k in ("operand_order", "scale", "epsilon")),
    ],
    ids=str,
)
def test_one_fault_is_located_and_none_invented(bench: Bench, pair: PairOfModels, side: str, kind: str) -> None:
    trial = bench.trial(pair, side, 1, [kind], seed=12 if (pair, kind) == (ATTENTION, "missing_bias") else 11)
    (finding,) = trial.findings
    assert finding.strength not in ("hidden", "masked"), "choose another seed: nothing could find this plant"
    assert finding.located, finding
    assert trial.invented == []


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_three_faults_at_once(bench: Bench, side: str) -> None:
    trial = bench.trial(CNN, side, 3, ["weight_channel", "scale", "resize_mode", "pool_mode"], seed=4)
    assert all(f.located for f in trial.findings if f.strength == "solid"), trial.findings
    assert len(trial.findings) == 3
    assert trial.invented == []


@pytest.mark.parametrize("kind", ["scale", "bias_channel", "weight_channel"])
def test_an_int8_fault_is_located(bench: Bench, kind: str) -> None:
    trial = bench.trial(PairOfModels("cnn.onnx", "cnn_int8.tflite", int8=True), "candidate", 1, [kind], seed=3)
    (finding,) = trial.findings
    assert finding.plant.unit == "lsb"
    assert finding.located, finding
    assert is_right(finding.plant, "candidate", finding.cause), (finding.cause, finding.summary)
    assert trial.invented == []


def test_a_fault_one_operator_beside_a_missed_plant_is_told(bench: Bench, fixtures: Path, tmp_path: Path) -> None:
    """A true fault is graded as if its neighbour had been planted."""
    clean, model = bench.clean(CNN, 0), bench.model(CNN.candidate)
    changed, planted = plant(model, np.random.default_rng(8), clean.values["candidate"], ["weight_channel"])
    paired = {candidate for _, candidate in clean.pairs}
    below = next(name for name in changed.reach(planted.site.tensor)[planted.site.tensor] if name in paired)
    changed.save(tmp_path / "planted.tflite")
    found = aligndbg.diff(fixtures / CNN.reference, tmp_path / "planted.tflite", clean.feeds, checks=False)
    moved = replace(planted, site=replace(planted.site, tensor=below))
    (finding,), invented = judge(found, "candidate", changed, bench.model(CNN.reference), [moved], clean)
    assert (finding.how, invented) == ("missed", [finding.beside])


def test_of_several_plants_one_that_the_outputs_do_not_feel_is_masked(tmp_path: Path) -> None:
    """What is added to all of a softmax's inputs alike."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])
    nodes = [
        helper.make_node("Add", ["x", "offset"], ["shifted"], "add"),
        helper.make_node("Softmax", ["shifted"], ["shares"], "softmax"),
        helper.make_node("Mul", ["shares", "factor"], ["y"], "mul"),
    ]
    stored = [numpy_helper.from_array(np.array([v], np.float32), n) for n, v in (("offset", 1.5), ("factor", 3.0))]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    trial = Bench(tmp_path, None).trial(PairOfModels("m.onnx", "m.onnx"), "candidate", 2, ["constant"], seed=1)
    assert {f.plant.site.tensor: f.strength for f in trial.findings} == {"shifted": "masked", "y": "solid"}


def test_the_exact_tensor_is_named(bench: Bench) -> None:
    trial = bench.trial(CNN, "candidate", 1, ["scale"], seed=1)
    assert [f.how for f in trial.findings] == ["exact"]


@pytest.fixture(scope="module")
def torch_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A small network as a torch.export program, and as the ONNX file made of it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from torch_networks import small

    folder = tmp_path_factory.mktemp("torch")
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    module = small()
    torch.export.save(torch.export.export(module, (x,)), folder / "small.pt2")
    torch.onnx.export(module, (x,), folder / "small.onnx", dynamo=True, external_data=False, verbose=False)
    return Bench(folder, None)


@pytest.mark.parametrize(
    ("side", "kind"),
    [
        *(("reference", k) for k in ("bias_channel", "epsilon", "padding", "resize_mode")),
        *(("candidate", k) for k in ("scale", "pool_mode", "axis", "extra_activation")),
    ],
)
def test_a_fault_in_a_torch_program_is_located(torch_bench: Bench, side: str, kind: str) -> None:
    files = ("small.pt2", "small.onnx") if side == "reference" else ("small.onnx", "small.pt2")
    trial = torch_bench.trial(PairOfModels(*files), side, 1, [kind], seed=5)
    (finding,) = trial.findings
    assert finding.strength == "solid", "choose another seed: nothing could find this plant"
    assert finding.located, finding
    assert trial.invented == []


def test_torch_operators_cut_out_compute_what_the_whole_program_does(torch_bench: Bench) -> None:
    model = torch_bench.model("small.pt2")
    values = model.values(_feeds(model))
    tensors = {site.tensor for site in model.sites()}
    assert len(tensors) > 8
    assert max(effect(values[t], model.evaluate(t, values))[0] for t in tensors) <= 1e-6


@pytest.mark.parametrize("name", ["cnn.onnx", "cnn.tflite", "cnn_int8.tflite", "attention.tflite"])
def test_operators_cut_out_compute_what_the_whole_model_does(fixtures: Path, name: str) -> None:
    model = open_plantable(fixtures / name)
    values = model.values(_feeds(model))
    tensors = list(dict.fromkeys(site.tensor for site in model.sites()))
    assert tensors
    for tensor in tensors:
        moved, unit = effect(values[tensor], model.evaluate(tensor, values))
        # Kernels may differ between a whole graph and one operator: by rounding, or by one step of int8.
        assert moved <= (1 if unit == "lsb" else 1e-6), tensor


@pytest.mark.parametrize("name", ["cnn.onnx", "cnn.tflite"])
def test_a_plant_changes_one_operator_only(fixtures: Path, name: str) -> None:
    model = open_plantable(fixtures / name)
    feeds = _feeds(model)
    values = model.values(feeds)
    changed, planted = plant(model, np.random.default_rng(8), values, ["weight_channel"])
    spoilt = changed.values(feeds)
    below = model.reach(planted.site.tensor)
    assert not np.array_equal(spoilt[planted.site.tensor], values[planted.site.tensor])
    assert all(np.array_equal(spoilt[k], values[k]) for k in values if k not in below)
    assert model.sites() == changed.sites()


def test_every_kind_has_a_place_or_says_so(fixtures: Path) -> None:
    model = open_plantable(fixtures / "cnn.tflite")
    values = model.values(_feeds(model))
    with pytest.raises(NotHere, match="epsilon"):
        plant(model, np.random.default_rng(0), values, ["epsilon"])
    assert Site("softmax_beta", "SOFTMAX", "StatefulPartitionedCall_1:0") in model.sites()


def _feeds(model: Plantable) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: model.taken(name, rng.random(shape, np.float32)) for name, (shape, _) in model.inputs().items()}
