"""The contract of `diff --json`: its keys, and what their values may be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligndbg.cli.main import main
from command_line import Document, strict

METRICS = ("max_abs", "mean_abs", "rmse", "rel_l2", "cosine", "euclid", "sqnr_db", "mean_reference", "mean_candidate")
KEYS = {
    "": (
        "schema verdict reference candidate coverage pairs unmatched skipped faults truncated checks"
        " timing memory warnings"
    ),
    "side": "path backend version tensors",
    "coverage": "compared unobservable one_sided unmatched",
    "pair": "reference candidate reference_op candidate_op method confidence layout status reason metrics isolated",
    "layout": "kind from_shape permutation alternatives",
    "fault": "reference candidate reference_op candidate_op isolated_error isolated_unit region cause",
    "region": "nodes inputs outputs",
}


def has(document: Document, kind: str) -> None:
    missing = set(KEYS[kind].split()) - document.keys()
    assert not missing, f"{kind}: {missing}"


@pytest.fixture(scope="module", params=["cnn.tflite", "cnn_int8.tflite", "cnn_weight_fault.tflite"])
def document(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, fixtures: Path) -> Document:
    out = tmp_path_factory.mktemp("json") / "out.json"
    main(["diff", str(fixtures / "cnn.onnx"), str(fixtures / request.param), "--json", str(out)])
    return strict(out.read_text())


def test_json_has_every_key_of_the_contract(document: Document) -> None:
    has(document, "")
    assert document["schema"] == "aligndbg.diff/1"
    assert document["verdict"] in ("aligned", "diverged", "inconclusive")
    for side in ("reference", "candidate"):
        has(document[side], "side")
        has(document["coverage"][side], "coverage")
        assert all(isinstance(count, int) for count in document["coverage"][side].values())
        assert isinstance(document[side]["tensors"], int)
        assert document[side]["version"]
        for u in document["unmatched"][side]:
            assert u.keys() >= {"name", "op", "class", "reason"}
            assert u["class"] in ("unobservable", "one_sided", "unmatched")
            assert u["reason"]
        for s in document["skipped"][side]:
            assert s.keys() >= {"name", "op", "reason"}
            assert s["reason"]
    assert document["truncated"] is False
    assert document["checks"].keys() >= {"deterministic", "observer_effect"}
    assert document["checks"]["deterministic"] == {"reference": True, "candidate": True}
    assert document["checks"]["observer_effect"] == {"reference": 0.0, "candidate": 0.0}
    assert document["timing"]
    assert all(isinstance(seconds, float) and seconds >= 0 for seconds in document["timing"].values())
    if sys.platform == "linux":
        assert document["memory"].keys() == document["timing"].keys()
        assert all(isinstance(size, int) and size > 1 << 20 for size in document["memory"].values())
    assert all(isinstance(text, str) for text in document["warnings"])


def is_number(value: Any) -> bool:
    return value in ("nan", "inf", "-inf") or (isinstance(value, int | float) and not isinstance(value, bool))


def test_json_pairs(document: Document) -> None:
    assert document["pairs"]
    for pair in document["pairs"]:
        has(pair, "pair")
        has(pair["layout"], "layout")
        assert pair["method"] in ("value", "structure", "name", "output", "user")
        assert 0 < pair["confidence"] <= 1
        assert pair["status"] in ("pass", "drift", "fault", "unknown")
        assert pair["layout"]["kind"] in ("identity", "permute", "squeeze", "reshape", "ambiguous")
        assert bool(pair["layout"]["alternatives"]) == (pair["layout"]["kind"] == "ambiguous")
        assert sorted(pair["layout"]["permutation"]) == list(range(len(pair["layout"]["from_shape"])))
        assert all(is_number(pair["metrics"][name]) for name in METRICS)
        if pair["isolated"] is None:
            assert pair["reason"]
        else:
            assert pair["isolated"].keys() == pair["metrics"].keys()
    for key in ("reference", "candidate"):
        names = [pair[key] for pair in document["pairs"]]
        assert len(set(names)) == len(names), "one tensor is in two pairs"
        left = {u["name"] for u in document["unmatched"][key]} | {s["name"] for s in document["skipped"][key]}
        assert not left & set(names)


def test_json_layouts_bring_the_candidate_to_the_reference(document: Document, fixtures: Path) -> None:
    """By the formula of the contract: channels last becomes channels first."""
    stem = next(p for p in document["pairs"] if p["reference"] == "/stem/Clip_output_0")
    layout = stem["layout"]
    candidate = np.arange(12 * 16 * 20).reshape(1, 16, 20, 12)
    moved = candidate.reshape(layout["from_shape"]).transpose(layout["permutation"]).reshape(1, 12, 16, 20)
    assert np.array_equal(moved, candidate.transpose(0, 3, 1, 2))


def test_json_faults(document: Document) -> None:
    assert (document["verdict"] == "diverged") == bool(document["faults"])
    for fault in document["faults"]:
        has(fault, "fault")
        assert fault["isolated_unit"] in ("rel_l2", "lsb")
        assert is_number(fault["isolated_error"])
        assert fault["cause"] is None or fault["cause"].keys() >= {"kind", "summary", "before", "after", "details"}
        for side in ("reference", "candidate"):
            has(fault["region"][side], "region")
            assert fault[side] in fault["region"][side]["outputs"]


def test_quantized_pairs_have_steps_and_saturation(run: Any, fixtures: Path, tmp_path: Path) -> None:
    run("diff", fixtures / "cnn.onnx", fixtures / "cnn_int8.tflite", "--json", tmp_path / "out.json")
    pairs = strict((tmp_path / "out.json").read_text())["pairs"]
    assert all(p["metrics"]["lsb_max"] >= p["metrics"]["lsb_mean"] >= 0 for p in pairs)
    assert all(0 <= p["metrics"]["saturated"] <= 1 for p in pairs)
    own = [p["isolated"]["lsb_max"] for p in pairs if p["isolated"]]
    assert len(own) > len(pairs) / 2
    assert max(own) <= 1.5


def test_the_same_run_gives_the_same_json(run: Any, fixtures: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", "--json", tmp_path / name)
    one, two = (strict((tmp_path / name).read_text()) for name in ("one", "two"))
    assert one.pop("timing").keys() == two.pop("timing").keys()
    del one["memory"], two["memory"]
    assert one == two
