"""Which side is run again, and when neither can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg.core.types import Array
from chains import chain, places


def test_where_one_side_cannot_be_cut_the_other_is(x: Array) -> None:
    diff = aligndbg.diff(chain(), chain([2], "c_", broken=True), {"x": x})
    assert places(diff) == [("t2", "c_t2")]


def test_where_neither_side_can_be_cut_nothing_is_isolated(x: Array) -> None:
    diff = aligndbg.diff(chain(broken=True), chain([2], "c_", broken=True), {"x": x})
    assert diff.verdict == "diverged"
    assert diff.faults == ()
    assert all(m.isolated is None for m in diff.pairs)
    assert any("the runtime does not start on a cut model" in m.reason for m in diff.pairs)


def test_a_candidate_fed_another_size_is_not_isolated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "free.onnx")
    small, large = (rng.random((1, 3, size, size), np.float32) for size in (8, 10))
    found = aligndbg.diff(tmp_path / "free.onnx", tmp_path / "free.onnx", small, candidate_inputs=large)
    assert found.verdict == "inconclusive"
    assert [c.kind for c in found.causes] == ["shape"]
