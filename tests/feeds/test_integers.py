"""Random integers that show what operators do with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg import Verdict

ROWS = 21


def buckets(path: Path, op: str, rows: int = 2 * ROWS) -> Path:
    """A table's row of each offset divided by five: by C's division, or rounded down."""
    constants: dict[str, Any] = {
        "five": np.int64(5),
        "middle": np.int64(8),
        "table": np.random.default_rng(0).standard_normal((rows, 6)).astype(np.float32),
    }
    if op == "Div":
        nodes = [helper.make_node("Div", ["offset", "five"], ["bucket"], name="divide")]
    else:
        nodes = [
            helper.make_node("Mod", ["offset", "five"], ["left"], name="rest"),
            helper.make_node("Sub", ["offset", "left"], ["whole"], name="whole"),
            helper.make_node("Div", ["whole", "five"], ["bucket"], name="divide"),
        ]
    nodes += [
        helper.make_node("Add", ["bucket", "middle"], ["row"], name="row"),
        helper.make_node("Gather", ["table", "row"], ["picked"], name="pick"),
        helper.make_node("Mul", ["picked", "x"], ["y"], name="scale"),
    ]
    return saved(path, nodes, ("offset", [40]), constants)


def saved(path: Path, nodes: list[onnx.NodeProto], integers: tuple[str, list[int]], constants: dict[str, Any]) -> Path:
    read = {i for node in nodes for i in node.input}
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [6]),
            helper.make_tensor_value_info(integers[0], TensorProto.INT64, integers[1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in read],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def test_negative_numbers_reach_a_division(tmp_path: Path) -> None:
    """Rounded towards zero on one side and down on the other: equal for what is not negative."""
    found = aligndbg.diff(buckets(tmp_path / "a.onnx", "floor"), buckets(tmp_path / "b.onnx", "Div"))
    assert found.verdict is Verdict.DIVERGED


def test_a_model_that_bears_no_negative_number_is_given_none(tmp_path: Path) -> None:
    a, b = (buckets(tmp_path / f"{op}.onnx", op, rows=9) for op in ("floor", "Div"))
    found = aligndbg.diff(a, b)
    assert found.verdict is Verdict.ALIGNED
    assert any("no negative numbers" in w for w in found.warnings)


def test_an_input_without_negatives_is_said_not_to_show_them(tmp_path: Path) -> None:
    feeds = {"x": np.ones(6, np.float32), "offset": np.arange(40)}
    found = aligndbg.diff(buckets(tmp_path / "a.onnx", "floor"), buckets(tmp_path / "b.onnx", "Div"), feeds)
    assert any("no negative numbers" in w for w in found.warnings)


@pytest.mark.parametrize("seed", [0, 1])
def test_row_numbers_are_of_the_whole_table(tmp_path: Path, seed: int) -> None:
    table = np.random.default_rng(0).standard_normal((ROWS, 6)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "row"], ["p"]), helper.make_node("Mul", ["p", "x"], ["y"])]
    right = saved(tmp_path / "a.onnx", nodes, ("row", [64]), {"table": table})
    table[ROWS - 3] += 1  # a row that 0 and 1 never read
    wrong = saved(tmp_path / "b.onnx", nodes, ("row", [64]), {"table": table})
    assert aligndbg.diff(right, wrong, seed=seed).verdict is Verdict.DIVERGED
    assert aligndbg.diff(right, right, seed=seed).verdict is Verdict.ALIGNED


def test_indices_that_never_repeat_are_said_so(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ScatterElements", ["zeros", "at", "x"], ["s"], name="write", reduction="add"),
        helper.make_node("Identity", ["s"], ["y"]),
    ]
    path = saved(tmp_path / "a.onnx", nodes, ("at", [6]), {"zeros": np.zeros(8, np.float32)})
    x = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    apart, twice = ({"x": x, "at": np.array(at)} for at in ([0, 1, 2, 3, 4, 5], [0, 1, 1, 3, 4, 5]))
    assert any("index twice" in w for w in aligndbg.diff(path, path, apart).warnings)
    assert not any("index twice" in w for w in aligndbg.diff(path, path, twice).warnings)
