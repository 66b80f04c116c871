"""The commands, run for real on the bundled models: verdicts, exit codes, and what each shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from aligndbg.core.types import FLOAT_DTYPES
from command_line import image, refused, strict


def node_outputs(path: Path) -> int:
    """The float or quantized values that a model's nodes compute, counted without aligndbg."""
    if path.suffix == ".onnx":
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        types = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output]}
        made = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name]
        return sum(helper.tensor_dtype_to_np_dtype(types[name]).name in FLOAT_DTYPES for name in made)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    fixed = {i for i, t in enumerate(graph.tensors) if model.buffers[t.buffer].data is not None}
    tensors = [graph.tensors[i] for op in graph.operators if not {*op.inputs} <= fixed for i in op.outputs]
    quantized = [t.quantization is not None and t.quantization.scale is not None for t in tensors]
    floats = [t.type == schema.TensorType.FLOAT32 for t in tensors]
    return sum(q or f for q, f in zip(quantized, floats, strict=True))


@pytest.mark.parametrize(
    ("reference", "candidate", "code"),
    [
        ("cnn.onnx", "cnn.tflite", 0),
        ("cnn.tflite", "cnn.onnx", 0),
        ("cnn.onnx", "cnn_opset_b.onnx", 0),
        ("cnn_opset_b.onnx", "cnn.tflite", 0),
        ("cnn.onnx", "cnn_fp16.tflite", 0),
        ("cnn.onnx", "cnn_dynamic.tflite", 0),
        ("cnn.onnx", "cnn_int8.tflite", 0),
        ("cnn.tflite", "cnn_int8.tflite", 0),
        ("attention.onnx", "attention.tflite", 0),
        ("lstm.onnx", "lstm.tflite", 0),
        ("cnn.onnx", "cnn_weight_fault.tflite", 1),
        ("cnn_weight_fault.tflite", "cnn.onnx", 1),
    ],
)
def test_exit_code_verdict_and_coverage(
    run: Any, fixtures: Path, tmp_path: Path, reference: str, candidate: str, code: int
) -> None:
    sides = {"reference": fixtures / reference, "candidate": fixtures / candidate}
    done = run("diff", *sides.values(), "--json", tmp_path / "out.json")
    document = strict((tmp_path / "out.json").read_text())
    assert done.code == code
    assert document["verdict"] == ("aligned", "diverged")[code]
    assert bool(document["faults"]) == bool(code)
    assert done.out.startswith(document["verdict"].upper())
    assert done.err == ""
    for side, path in sides.items():
        counts = document["coverage"][side]
        listed = [u["class"] for u in document["unmatched"][side]]
        assert sum(counts.values()) == node_outputs(path)
        assert counts["compared"] == len(document["pairs"])
        assert {kind: listed.count(kind) for kind in counts if kind != "compared"} == {
            kind: count for kind, count in counts.items() if kind != "compared"
        }


def test_the_fault_is_named_at_its_operator(run: Any, fixtures: Path, tmp_path: Path) -> None:
    done = run("diff", fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite", "--json", tmp_path / "out.json")
    document = strict((tmp_path / "out.json").read_text())
    (fault,) = document["faults"]
    assert fault["reference"] == "/mix/Relu_output_0"
    assert fault["region"]["reference"]["nodes"] == ["/mix/Conv", "/mix/Relu"]
    assert fault["candidate_op"] == "CONV_2D"
    assert fault["isolated_unit"] == "rel_l2"
    assert fault["isolated_error"] > 1e-3
    states = {p["reference"]: p["status"] for p in document["pairs"]}
    assert states["/mix/Relu_output_0"] == "fault"
    assert list(states.values()).count("fault") == 1
    assert states["/stem/Clip_output_0"] == "pass"
    assert states["/residual/Add_output_0"] == "drift"
    assert "/mix/Relu_output_0" in done.out


def test_inconclusive_is_3_and_writes_json(run: Any, fixtures: Path, tmp_path: Path) -> None:
    """Zeros in, zeros out: equal values that prove nothing are no agreement."""
    model = tmp_path / "zeros.onnx"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    done = run("diff", model, model, "--json", tmp_path / "out.json")
    document = strict((tmp_path / "out.json").read_text())
    assert (done.code, document["verdict"]) == (3, "inconclusive")
    by_name = {p["reference"]: p for p in document["pairs"]}
    assert by_name["y"]["status"] == "unknown"
    assert by_name["y"]["metrics"]["rel_l2"] == "nan"
    assert by_name["y"]["metrics"]["cosine"] == "nan"
    assert "zero" in by_name["y"]["metrics"]["reasons"]["cosine"]
    assert by_name["a"]["metrics"]["sqnr_db"] == "inf"  # bit-equal


def test_min_coverage_makes_a_poor_comparison_inconclusive(run: Any, fixtures: Path, tmp_path: Path) -> None:
    """The recording has three tensors that the model holds nowhere: 5 of 8 are compared."""
    run("capture", fixtures / "cnn.onnx", "-o", tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as recorded:
        outputs = [n for n in recorded.files if n.startswith("/")][-5:]
        kept = {n: recorded[n] for n in outputs}
        feeds = {"input": recorded["input"]}
    rng = np.random.default_rng(0)
    kept |= {f"own.{k}": rng.standard_normal((1, 7 + k)).astype(np.float32) for k in range(3)}
    np.savez(tmp_path / "some.npz", **kept)
    np.savez(tmp_path / "in.npz", **feeds)
    pair = tmp_path / "some.npz", fixtures / "cnn.onnx", "--input", tmp_path / "in.npz"
    assert run("diff", *pair, "--min-coverage", "0.6").code == 0
    done = run("diff", *pair, "--min-coverage", "0.7")
    assert done.code == 3
    assert done.out.startswith("INCONCLUSIVE")
    assert "--min-coverage" in done.out


@pytest.mark.parametrize(
    ("options", "code", "faults"),
    [
        (("--atol", "1"), 0, 0),
        (("--min-cosine", "0.999"), 0, 0),
        (("--min-cosine", "0.9999999999"), 1, 1),
        (("--tol", "op=Relu:min_cosine=0.9"), 1, 0),  # the output stays over its own limit
        (("--tol", "op=Relu:min_cosine=0.9", "--tol", "op=Softmax:atol=0.1"), 0, 0),
        (("--tol", "name=/mix/*:rel_l2=0.5", "--tol", "name=/prob*:rel_l2=0.5"), 0, 0),
        (("--tol", "name=/stem/*:rel_l2=0.5"), 1, 1),
        (("--tol", "name=/mix/*:rel_l2=0.5", "--tol", "op=Relu:rel_l2=1e-4"), 1, 1),  # the later rule wins
    ],
)
def test_the_users_tolerances_decide(
    run: Any, fixtures: Path, tmp_path: Path, options: tuple[str, ...], code: int, faults: int
) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"
    done = run("diff", *pair, *options, "--json", tmp_path / "o.json")
    assert (done.code, len(strict((tmp_path / "o.json").read_text())["faults"])) == (code, faults)


def test_a_memory_limit_changes_no_number(run: Any, fixtures: Path, tmp_path: Path) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"
    run("diff", *pair, "--json", tmp_path / "free")
    run("diff", *pair, "--json", tmp_path / "tight", "--max-memory", "64K")
    free, tight = (strict((tmp_path / name).read_text()) for name in ("free", "tight"))
    for document in (free, tight):
        del document["timing"], document["memory"]
    assert free == tight


def test_no_isolate_and_no_checks_leave_out_what_they_say(run: Any, fixtures: Path, tmp_path: Path) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"
    done = run("diff", *pair, "--json", tmp_path / "out.json", "--no-isolate", "--no-checks")
    document = strict((tmp_path / "out.json").read_text())
    assert done.code == 1  # the outputs are over tolerance all the same
    assert document["faults"] == []
    assert not document["checks"].keys() & {"deterministic", "observer_effect"}
    assert all(p["isolated"] is None and p["reason"] for p in document["pairs"])
    assert {p["status"] for p in document["pairs"]} == {"pass", "unknown"}


def test_max_faults_cuts_and_says_so(run: Any, tmp_path: Path) -> None:
    def chain(path: Path, factors: tuple[float, float, float]) -> Path:
        nodes, weights = [], []
        for i, factor in enumerate(factors):
            weights.append(numpy_helper.from_array(np.linspace(0.4, 1.6, 24, dtype=np.float32) * factor, f"w{i}"))
            nodes.append(helper.make_node("Mul", ["x" if i == 0 else f"t{i - 1}", f"w{i}"], [f"m{i}"]))
            nodes.append(helper.make_node("Tanh", [f"m{i}"], [f"t{i}"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 24])
        y = helper.make_tensor_value_info("t2", TensorProto.FLOAT, [1, 16, 24])
        graph = helper.make_graph(nodes, "g", [x], [y], weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    good, bad = chain(tmp_path / "good.onnx", (1, 1, 1)), chain(tmp_path / "bad.onnx", (1.3, 0.8, 1.2))
    for limit, count in ((20, 3), (2, 2)):
        done = run("diff", good, bad, "--json", tmp_path / "out.json", "--max-faults", limit)
        document = strict((tmp_path / "out.json").read_text())
        assert done.code == 1
        assert [f["reference"] for f in document["faults"]] == ["m0", "m1", "m2"][:count]
        assert document["truncated"] is (count < 3)
        assert ("--max-faults" in done.out) is (count < 3)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/mix/Relu_output_0", "/residual/Add_output_0"),
        ("/expand/Conv_output_0", "/expand/Sigmoid_output_0"),  # whose product comes out right all the same
    ],
)
def test_map_wins_over_values(run: Any, fixtures: Path, tmp_path: Path, first: str, second: str) -> None:
    """Two tensors of one shape, forced crosswise: unknown there, and no fault anywhere."""
    pair = fixtures / "cnn.onnx", fixtures / "cnn_opset_b.onnx"
    run("diff", *pair, "--json", tmp_path / "o.json")
    names = {p["reference"]: p["candidate"] for p in strict((tmp_path / "o.json").read_text())["pairs"]}
    crossed = {first: names[second], second: names[first]}
    (tmp_path / "map.txt").write_text("# crosswise\n" + "".join(f"{r}={c}\n" for r, c in crossed.items()))
    done = run("diff", *pair, "--map", tmp_path / "map.txt", "--json", tmp_path / "o.json")
    document = strict((tmp_path / "o.json").read_text())
    forced = {p["reference"]: p for p in document["pairs"] if p["reference"] in crossed}
    assert {r: p["candidate"] for r, p in forced.items()} == crossed
    assert {p["method"] for p in forced.values()} == {"user"}
    assert {p["status"] for p in forced.values()} == {"unknown"}
    assert document["faults"] == []
    assert done.code == 0


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_capture_then_diff_in_both_directions(run: Any, fixtures: Path, tmp_path: Path, suffix: str) -> None:
    trace = tmp_path / f"trace.{suffix}"
    done = run("capture", fixtures / "cnn.onnx", "-o", trace)
    assert done.code == 0
    assert str(trace.name) in done.out.replace("\n", "")
    for pair in ((fixtures / "cnn.onnx", trace), (trace, fixtures / "cnn.onnx"), (trace, fixtures / "cnn.tflite")):
        assert run("diff", *pair).code == 0
    assert run("diff", trace, trace).code == 0


def test_a_fault_is_located_on_a_recorded_trace(run: Any, fixtures: Path, tmp_path: Path) -> None:
    run("capture", fixtures / "cnn_weight_fault.tflite", "-o", tmp_path / "t.npz")
    done = run("diff", fixtures / "cnn.onnx", tmp_path / "t.npz", "--json", tmp_path / "o.json")
    (fault,) = strict((tmp_path / "o.json").read_text())["faults"]
    assert done.code == 1
    assert fault["reference"] == "/mix/Relu_output_0"


def test_a_trace_brings_its_own_feeds(run: Any, fixtures: Path, feeds: Path) -> None:
    run("capture", fixtures / "cnn.onnx", "-o", feeds / "t.npz", "--input", feeds / "x.npy")
    assert run("diff", fixtures / "cnn.onnx", feeds / "t.npz", "--input", feeds / "x.npy").code == 0
    np.save(feeds / "other.npy", image(9))
    for pair in ((fixtures / "cnn.onnx", feeds / "t.npz"), (feeds / "t.npz", fixtures / "cnn.onnx")):
        refused(run("diff", *pair, "--input", feeds / "other.npy"), "t.npz", "feeds")


def test_a_trace_without_feeds_requires_them(run: Any, fixtures: Path, feeds: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(fixtures / "cnn.onnx"), providers=["CPUExecutionProvider"])
    (name,) = [o.name for o in session.get_outputs()]
    np.savez(feeds / "others.npz", **{name: session.run(None, {"input": image()})[0]})
    refused(run("diff", fixtures / "cnn.onnx", feeds / "others.npz"), "--input")
    done = run("diff", fixtures / "cnn.onnx", feeds / "others.npz", "--input", feeds / "x.npy", "--min-coverage", "0")
    assert done.code == 0, done.out


def test_layers_lists_every_operator_in_order(run: Any, fixtures: Path) -> None:
    done = run("layers", fixtures / "cnn.onnx")
    ops = [n.op_type for n in onnx.load(fixtures / "cnn.onnx").graph.node]
    rows = [line.split() for line in done.out.splitlines()]
    assert done.code == 0
    assert [row[1] for row in rows if len(row) == 5 and row[0].isdecimal()] == ops
    assert max(map(len, done.out.splitlines())) <= 80
    assert "1x12x16x20" in done.out


def test_layers_of_tflite_say_what_is_quantized(run: Any, fixtures: Path) -> None:
    done = run("layers", fixtures / "cnn_int8.tflite")
    assert done.code == 0
    assert "int8 quantized" in done.out.replace("\n", " ")


def test_demo_shows_the_planted_fault(run: Any) -> None:
    done = run("demo")
    assert done.code == 0
    assert done.out.startswith("DIVERGED")
    assert "/block2/down/" in done.out
    assert len([line for line in done.out.splitlines() if re.match(r"fault \d", line)]) == 1
    assert max(map(len, done.out.splitlines())) <= 80


def test_doctor_names_every_backend(run: Any) -> None:
    done = run("doctor")
    assert done.code == 0
    rows = {line.split()[1]: line.split()[0] for line in done.out.splitlines() if line[:4] in ("ok  ", "no  ")}
    assert rows.keys() >= {"onnx", "tflite", "recorded", "memory"}
    assert rows["onnx"] == rows["tflite"] == "ok"
