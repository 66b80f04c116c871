"""Integers, booleans and their kin: compared exactly, and the operator that makes others of the same values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aligndbg
from aligndbg import Verdict

ROWS, INNER, CLASSES = 40, 12, 9
RNG = np.random.default_rng(3)
INTO, OUT = (RNG.standard_normal(s).astype(np.float32) for s in ((8, INNER), (INNER, CLASSES)))
TABLE = RNG.standard_normal((CLASSES, 5)).astype(np.float32)


Step = tuple[str, Sequence[str], str, dict[str, Any]]


def save(path: Path, nodes: Sequence[Step], output: str, dtype: int, **constants: Any) -> Path:
    weights = {"into": INTO, "out": OUT, "table": TABLE} | {k: np.asarray(v) for k, v in constants.items()}
    head: list[Step] = [
        ("MatMul", ["x", "into"], "a", {}),
        ("Tanh", ["a"], "t", {}),
        ("MatMul", ["t", "out"], "score", {}),
    ]
    made = [helper.make_node(op, list(i), [o], name=f"n_{o}", **kw) for op, i, o, kw in (*head, *nodes)]
    read = {i for node in made for i in node.input}
    graph = helper.make_graph(
        made,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, 8])],
        [helper.make_tensor_value_info(output, dtype, None)],
        [numpy_helper.from_array(v, k) for k, v in weights.items() if k in read],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def argmax(last: int = 0, **kw: Any) -> Step:
    return "ArgMax", ["whole"], "label", {"axis": 1, "keepdims": 0, "select_last_index": last, **kw}


ROUND: Step = ("Round", ["score"], "whole", {})


def test_a_model_of_class_indices_is_judged_by_them(tmp_path: Path) -> None:
    a, b = (
        save(tmp_path / f"{k}.onnx", [("ArgMax", ["score"], "label", {"axis": 1})], "label", TensorProto.INT64)
        for k in "ab"
    )
    found = aligndbg.diff(a, b)
    assert found.verdict is Verdict.ALIGNED
    assert [(e.reference, e.share, e.own) for e in found.exact] == [("label", 0.0, False)]


def test_the_last_of_equals_is_the_fault_of_an_argmax(tmp_path: Path) -> None:
    a, b = (save(tmp_path / f"{k}.onnx", [ROUND, argmax(k)], "label", TensorProto.INT64) for k in (0, 1))
    found = aligndbg.diff(a, b)
    assert found.verdict is Verdict.DIVERGED
    (fault,) = found.faults
    assert fault.cause is not None
    assert (fault.reference, fault.cause.kind) == ("label", "attribute")
    assert "select_last_index" in fault.cause.summary
    assert found.exact[0].margin == 0.0


def test_what_reads_the_indices_is_not_blamed_for_them(tmp_path: Path) -> None:
    tail: list[Step] = [("Gather", ["table", "label"], "row", {}), ("Softplus", ["row"], "y", {})]
    a, b = (save(tmp_path / f"{k}.onnx", [ROUND, argmax(k), *tail], "y", TensorProto.FLOAT) for k in (0, 1))
    found = aligndbg.diff(a, b)
    assert [(f.reference, f.cause.kind if f.cause else "") for f in found.faults] == [("label", "attribute")]


def test_ties_within_noise_are_said_and_are_no_fault(tmp_path: Path) -> None:
    twice = np.concatenate([OUT, OUT], 1)
    bump = np.zeros((1, 2 * CLASSES), np.float32)
    bump[0, CLASSES:] = 3e-6
    head: Step = ("MatMul", ["t", "twice"], "s", {})
    pick: Step = ("ArgMax", ["whole"], "label", {"axis": 1})
    add: Step = ("Add", ["s", "bump"], "whole", {})
    a = save(
        tmp_path / "a.onnx", [head, ("Identity", ["s"], "whole", {}), pick], "label", TensorProto.INT64, twice=twice
    )
    b = save(tmp_path / "b.onnx", [head, add, pick], "label", TensorProto.INT64, twice=twice, bump=bump)
    found = aligndbg.diff(a, b)
    assert found.verdict is Verdict.ALIGNED
    assert not found.faults
    assert any("differ" in w and "label" in w for w in found.warnings)


@pytest.mark.parametrize(("threshold", "verdict"), [(0.5, Verdict.ALIGNED), (0.8, Verdict.DIVERGED)])
def test_booleans_are_compared_exactly(tmp_path: Path, threshold: float, verdict: Verdict) -> None:
    hit: list[Step] = [("Greater", ["score", "limit"], "hit", {})]
    a = save(tmp_path / "a.onnx", hit, "hit", TensorProto.BOOL, limit=np.float32(0.5))
    b = save(tmp_path / "b.onnx", hit, "hit", TensorProto.BOOL, limit=np.float32(threshold))
    found = aligndbg.diff(a, b)
    assert found.verdict is verdict
    assert [f.reference for f in found.faults] == (["hit"] if verdict is Verdict.DIVERGED else [])


@pytest.mark.parametrize("last", ["bird", "tree"])
def test_words_are_compared_exactly(tmp_path: Path, last: str) -> None:
    names = ["cat", "dog", "ant", "cow", "bee", "fox", "elk", "yak"]
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path, ninth in zip(paths, ("bird", last), strict=True):
        keys, words = list(range(CLASSES)), [*names, ninth]
        save(path, [("ArgMax", ["score"], "label", {"axis": 1, "keepdims": 0})], "label", TensorProto.INT64)
        model = onnx.load(str(path))
        encode = {"keys_int64s": keys, "values_strings": words, "domain": "ai.onnx.ml"}
        model.graph.node.append(helper.make_node("LabelEncoder", ["label"], ["word"], name="n_word", **encode))
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("word", TensorProto.STRING, [ROWS]))
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
        onnx.save(model, str(path))
    found = aligndbg.diff(*paths, seed=1)
    assert found.verdict is (Verdict.ALIGNED if last == "bird" else Verdict.DIVERGED)
    (exact,) = [e for e in found.exact if e.output]
    assert all((p.reference, p.candidate) == ("bird", "tree") for p in exact.first)


def test_outputs_of_unlike_shapes_diverge(tmp_path: Path) -> None:
    pick: list[Step] = [("NonZero", ["hit"], "places", {})]
    a, b = (
        save(
            tmp_path / f"{limit}.onnx",
            [("Greater", ["score", "limit"], "hit", {}), *pick],
            "places",
            TensorProto.INT64,
            limit=np.float32(limit),
        )
        for limit in (0.5, 0.8)
    )
    found = aligndbg.diff(a, b)
    assert found.verdict is Verdict.DIVERGED
    assert any("places" in w for w in found.warnings)


def test_which_of_equals_a_framework_chooses_is_no_fault(tmp_path: Path) -> None:
    """Nothing in either file says which; scores are whole numbers, so that many are equal."""
    torch = pytest.importorskip("torch")

    class Best(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.score = torch.nn.Linear(8, 12)

        def forward(self, x: Any) -> Any:
            return torch.topk(torch.round(2 * self.score(torch.tanh(x))), 4, dim=-1)[1]

    torch.manual_seed(0)
    module, x = Best().eval(), torch.rand(ROWS, 8)
    path = tmp_path / "best.onnx"
    torch.onnx.export(module, (x,), str(path), input_names=["x"], output_names=["best"], dynamo=False)
    found = aligndbg.diff(module, path, (x.numpy(),))
    assert found.verdict is Verdict.ALIGNED
    assert found.faults == ()
