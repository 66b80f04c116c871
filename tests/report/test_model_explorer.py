"""What Model Explorer is given: two graphs whose tensors the overlays name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import aligndbg
from aligndbg.diff_result import Diff

OVERLAYS = ("status", "error", "own_error")


def written(diff: Diff, folder: Path) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return {path.stem: json.loads(path.read_text(), parse_constant=refuse) for path in diff.to_model_explorer(folder)}


@pytest.fixture(scope="module")
def real(fixtures: Path) -> Diff:
    return aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite")


def test_edges_and_overlays_name_what_there_is(real: Diff, tmp_path: Path) -> None:
    found = written(real, tmp_path / "new" / "folder")
    assert set(found) == {"graphs", *OVERLAYS}
    for graph, side in zip(found["graphs"]["graphs"], ("reference", "candidate"), strict=True):
        assert graph["id"] == side
        outputs = {
            (node["id"], each["id"]): {a["key"]: a["value"] for a in each["attrs"]}["tensor_name"]
            for node in graph["nodes"]
            for each in node["outputsMetadata"]
        }
        assert len({node["id"] for node in graph["nodes"]}) == len(graph["nodes"])
        edges = [edge for node in graph["nodes"] for edge in node.get("incomingEdges", [])]
        assert edges
        assert {(e["sourceNodeId"], e["sourceNodeOutputId"]) for e in edges} <= set(outputs)
        for name in OVERLAYS:
            assert set(found[name][side]["results"]) <= set(outputs.values())
        assert len(found["status"][side]["results"]) > len(real.pairs) - 1
        assert len(found["error"][side]["results"]) == len(real.pairs)


def test_the_fault_stands_out_on_both_sides(real: Diff, tmp_path: Path) -> None:
    found = written(real, tmp_path)
    (fault,) = real.faults
    for side, name in (("reference", fault.reference), ("candidate", fault.candidate)):
        own = {k: v["value"] for k, v in found["own_error"][side]["results"].items()}
        assert max(own, key=own.__getitem__) == name
        assert found["status"][side]["results"][name]["value"] == "fault"


def test_the_faults_nodes_tell_its_cause(real: Diff, tmp_path: Path) -> None:
    (fault,) = real.faults
    assert fault.cause is not None
    for graph in written(real, tmp_path)["graphs"]["graphs"]:
        told = [a["value"] for node in graph["nodes"] for a in node.get("attrs", []) if a["key"] == "aligndbg cause"]
        assert len(told) == 1
        assert told[0].startswith(f"{fault.cause.kind}: ")


def test_undefined_errors_are_no_numbers(silent: Diff, tmp_path: Path) -> None:
    values = [v["value"] for v in written(silent, tmp_path)["error"]["reference"]["results"].values()]
    assert "undefined" in values


def test_the_real_package_takes_it(real: Diff, tmp_path: Path) -> None:
    explorer = pytest.importorskip("model_explorer")
    from model_explorer import graph_builder, node_data_builder

    found = written(real, tmp_path)
    for graph in found["graphs"]["graphs"]:
        for node in graph["nodes"]:
            edges = [graph_builder.IncomingEdge(**edge) for edge in node.pop("incomingEdges", [])]
            graph_builder.GraphNode(**node, incomingEdges=edges)
    for name in OVERLAYS:
        for side in found[name].values():
            made = {k: node_data_builder.NodeDataResult(**v) for k, v in side["results"].items()}
            node_data_builder.GraphNodeData(results=made).to_json_string()
    config = explorer.config().add_model_from_path(str(tmp_path / "graphs.json"))
    for name in OVERLAYS:
        config.add_node_data_from_path(str(tmp_path / f"{name}.json"))
    assert "own_error.json" in config.to_url_param_value()
