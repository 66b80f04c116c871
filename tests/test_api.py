"""From Python: diff, capture, layers and open_model, on real runtimes and on Python functions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg import MemoryBackend, MemoryNode, Status, Verdict
from aligndbg.core.errors import AligndbgError, FeedError, ModelError, RuntimeCrashError, UsageError
from aligndbg.core.types import Array, Graph, TensorInfo
from aligndbg.diff_result import Diff

SHAPE = (1, 3, 32, 40)


def image(seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, SHAPE).astype(np.float32)


def network(bias: float = 0.5, *, name: str = "memory", noise: bool = False, tag: str = "") -> MemoryBackend:
    """scale -> shift -> squash on (2, 3, 4); `bias` is what can go wrong, `noise` makes each run another."""
    generator = np.random.default_rng()
    shape = (2, 3, 4)

    def scale(x: Array) -> Array:
        return x * np.linspace(0.5, 2, 4, dtype=np.float32)

    def shift(x: Array) -> Array:
        jitter = np.asarray(generator.normal(0, 1e-2, x.shape) if noise else 0, np.float32)
        return x + np.float32(bias) + jitter

    return MemoryBackend(
        inputs={"x": shape},
        nodes=[
            MemoryNode("Mul", scale, ("x",), (f"scaled{tag}",), name="scale"),
            MemoryNode("Add", shift, (f"scaled{tag}",), (f"shifted{tag}",), name="shift"),
            MemoryNode("Tanh", np.tanh, (f"shifted{tag}",), (f"y{tag}",), name="squash"),
        ],
        outputs=[f"y{tag}"],
        name=name,
    )


@pytest.fixture(scope="module")
def aligned(fixtures: Path) -> Diff:
    return aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn.tflite", image())


@pytest.fixture(scope="module")
def diverged(fixtures: Path) -> Diff:
    return aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite", image())


# --- ways to give models and inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: [x],
        lambda x: {"input": x},
        lambda x: x.astype(np.float64),
        lambda x: x[:, ::-1][:, ::-1],  # not contiguous
    ],
    ids=["array", "tuple", "list", "dict", "float64", "strided"],
)
def test_inputs_in_every_form_are_the_same_input(fixtures: Path, aligned: Diff, given: Any) -> None:
    found = aligndbg.diff(str(fixtures / "cnn.onnx"), str(fixtures / "cnn.tflite"), given(image()), isolate=False)
    assert found.verdict is Verdict.ALIGNED
    assert [(m.pair.reference, m.status) for m in found.pairs] == [(m.pair.reference, m.status) for m in aligned.pairs]


def test_inputs_from_files(fixtures: Path, aligned: Diff, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input=image())
    for given in (tmp_path / "x.npz", str(tmp_path / "x.npz"), [f"input={tmp_path / 'x.npz'}"]):
        found = aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn.tflite", given, isolate=False, checks=False)
        assert [(m.pair.reference, m.status) for m in found.pairs] == [
            (m.pair.reference, m.status) for m in aligned.pairs
        ]


def test_random_inputs_are_seeded(fixtures: Path) -> None:
    def first(seed: int) -> float:
        pair = fixtures / "cnn.onnx", fixtures / "cnn.onnx"
        return aligndbg.diff(*pair, seed=seed, isolate=False, checks=False).pairs[0].metrics.mean_reference

    assert first(3) == first(3) != first(4)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (lambda x: {"inputs": x}, "inputs"),
        (lambda x: {}, "input"),
        (lambda x: (x, x), "2 inputs"),
        (lambda x: x.transpose(0, 2, 3, 1), "1x32x40x3"),
        (lambda x: x[0], "3x32x40"),
        (lambda x: x.astype(np.int64), "int64"),
        (lambda x: np.where(x > 0.99, np.nan, x), "NaN"),
        (lambda x: [[1.0], [1.0, 2.0]], "inputs"),
        (lambda x: np.array(["a"]), "input"),
        (lambda x: object(), "input"),
    ],
    ids=["name", "none", "two", "layout", "rank", "dtype", "nan", "ragged", "words", "object"],
)
def test_inputs_that_do_not_fit(fixtures: Path, given: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn.tflite", given(image()))


def test_candidate_inputs_are_fed_as_they_are(fixtures: Path) -> None:
    last = np.ascontiguousarray(image().transpose(0, 2, 3, 1))
    pair = fixtures / "cnn.onnx", fixtures / "cnn.tflite"
    assert aligndbg.diff(*pair, image(), candidate_inputs=last).verdict is Verdict.ALIGNED
    found = aligndbg.diff(*pair, image(), candidate_inputs=last[..., ::-1])
    assert found.verdict is Verdict.DIVERGED
    assert any("input_channel_order" in warning for warning in found.warnings)


def test_candidate_inputs_help_where_nothing_can_be_worked_out() -> None:
    """The reference takes (2, 3, 4), the candidate the same values as a pair of inputs."""

    def join(a: Array, b: Array) -> Array:
        return np.stack([a, b]) * np.linspace(0.5, 2, 4, dtype=np.float32)

    candidate = MemoryBackend(
        inputs={"a": (3, 4), "b": (3, 4)}, nodes=[MemoryNode("Mul", join, ("a", "b"), ("scaled",))], outputs=["scaled"]
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    with pytest.raises(UsageError, match="do not fit"):
        aligndbg.diff(network(), candidate, x)
    found = aligndbg.diff(network(), candidate, x, candidate_inputs={"a": x[0], "b": x[1]})
    assert [(m.pair.reference, m.pair.candidate, m.status) for m in found.pairs] == [("scaled", "scaled", Status.PASS)]
    assert any("not checked" in warning for warning in found.warnings)


def test_open_backends_stay_open_and_are_reused(fixtures: Path) -> None:
    reference = aligndbg.open_model(fixtures / "cnn.onnx")
    try:
        for candidate in ("cnn.tflite", "cnn_weight_fault.tflite"):
            aligndbg.diff(reference, fixtures / candidate, image(), isolate=False, checks=False)
        values = dict(reference.run({"input": image()}, reference.graph().outputs))
        assert values[reference.graph().outputs[0]].shape == (1, 9)
    finally:
        reference.close()


def test_models_are_closed_also_after_an_error(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aligndbg.backends.worker import client

    closed: list[str] = []
    real = client.WorkerBackend.close

    def close(self: Any) -> None:
        closed.append(Path(self.info.path).name)
        real(self)

    monkeypatch.setattr(client.WorkerBackend, "close", close)
    with pytest.raises(UsageError):
        aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn.tflite", {"nobody": image()})
    assert sorted(closed) == ["cnn.onnx", "cnn.tflite"]


class Closing(MemoryBackend):
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_backend_of_the_caller_is_not_closed() -> None:
    mine = Closing(inputs={"x": (3,)}, nodes=[MemoryNode("Neg", np.negative, ("x",), ("y",))], outputs=["y"])
    aligndbg.diff(mine, mine)
    aligndbg.capture(mine)
    aligndbg.layers(mine)
    assert not mine.closed


@pytest.mark.parametrize("model", [3, None, np.zeros(3), ["a.onnx"]])
def test_what_is_no_model(model: Any) -> None:
    with pytest.raises(UsageError, match="model"):
        aligndbg.diff(model, network())


def test_errors_are_of_one_family(fixtures: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx") as caught:
        aligndbg.open_model(fixtures / "nothing.onnx")
    assert isinstance(caught.value, AligndbgError)
    assert caught.value.hint


@pytest.mark.parametrize(
    "limits",
    [
        {"atol": float("nan")},
        {"atol": -1.0},
        {"rtol": -1.0},
        {"max_lsb": -1.0},
        {"min_cosine": float("nan")},
        {"min_coverage": 1.5},
        {"min_coverage": float("nan")},
        {"max_faults": 0},
        {"max_memory": -1},
        {"distribution": "cauchy"},
        {"tolerances": ["op=Nothing:atol=1"]},
        {"map": {"nothing": "y"}},
        {"map": {"y": "nothing"}},
        {"input_map": {"x": "nothing"}},
        {"val_range": ["1,0"]},
        {"shapes": ["x=2x3x5"]},
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        aligndbg.diff(network(), network(), **limits)


def test_a_timeout_must_be_a_time(fixtures: Path) -> None:
    with pytest.raises(UsageError, match="timeout"):
        aligndbg.diff(fixtures / "cnn.onnx", fixtures / "cnn.tflite", timeout=-1.0)


def test_progress_reports_each_stage_to_its_end() -> None:
    seen: list[tuple[str, int, int | None]] = []
    aligndbg.diff(network(), network(), progress=lambda *report: seen.append(report))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages[:3] == ["load", "run reference", "run candidate"]
    assert "isolate" in stages
    assert ("compare", 3, 3) in seen
    done = [count for stage, count, _ in seen if stage == "run reference"]
    assert done == sorted(done)


# --- Python functions as models ------------------------------------------------------------------------------------


def test_a_fault_among_python_functions() -> None:
    found = aligndbg.diff(network(), network(bias=0.7, tag="_c"))
    assert found.verdict is Verdict.DIVERGED
    (fault,) = found.faults
    assert (fault.reference, fault.candidate) == ("shifted", "shifted_c")
    assert fault.region_reference.nodes == ("shift",)
    assert fault.region_reference.inputs == ("scaled",)
    assert {m.pair.reference: m.status for m in found.pairs} == {
        "scaled": Status.PASS,
        "shifted": Status.FAULT,
        "y": Status.DRIFT,
    }


def test_a_model_that_does_not_repeat_itself_is_told() -> None:
    found = aligndbg.diff(network(), network(noise=True))
    assert found.checks["deterministic"] == {"reference": True, "candidate": False}
    assert any("candidate gives other values when run again" in warning for warning in found.warnings)


class Touchy(MemoryBackend):
    """Its output moves when more than the output is fetched: what tapping does to an engine that fuses."""

    def run(
        self, feeds: Mapping[str, Array], fetch: Sequence[str], overrides: Mapping[str, Array] | None = None
    ) -> Iterator[tuple[str, Array]]:
        for name, value in super().run(feeds, fetch, overrides):
            yield name, value * np.float32(1.0001) if len(fetch) > 1 and name == "y" else value


def test_an_observer_effect_is_measured() -> None:
    nodes = [
        MemoryNode("Neg", np.negative, ("x",), ("n",)),
        MemoryNode("Tanh", np.tanh, ("n",), ("y",)),
    ]
    plain = MemoryBackend(inputs={"x": (8,)}, nodes=nodes, outputs=["y"])
    found = aligndbg.diff(plain, Touchy(inputs={"x": (8,)}, nodes=nodes, outputs=["y"]))
    assert found.checks["observer_effect"]["reference"] == 0
    assert found.checks["observer_effect"]["candidate"] == pytest.approx(1e-4, rel=0.5)
    assert any("exposing the candidate's tensors moves its outputs" in warning for warning in found.warnings)


def test_a_failing_function_is_an_error_with_its_place() -> None:
    def fail(x: Array) -> Array:
        raise ZeroDivisionError("no")

    broken = MemoryBackend(inputs={"x": (3,)}, nodes=[MemoryNode("Bad", fail, ("x",), ("y",))], outputs=["y"])
    with pytest.raises(ModelError, match="Bad_0"):
        aligndbg.diff(broken, broken)


def test_what_cannot_be_tapped_is_listed_with_its_reason() -> None:
    model = MemoryBackend(
        inputs={"x": (2, 3)},
        nodes=[
            MemoryNode("Neg", np.negative, ("x",), ("n",)),
            MemoryNode("Count", lambda n: np.array(n.size), ("n",), ("count",)),
            MemoryNode("Tanh", np.tanh, ("n",), ("hidden",)),
            MemoryNode("Sin", np.sin, ("hidden",), ("y",)),
        ],
        outputs=["y"],
        untapped={"hidden": "it stays on the device"},
    )
    found = aligndbg.diff(model, model)
    skipped = {s.name: s.reason for s in found.matching.skipped_reference}
    assert skipped == {"count": "int64 values", "hidden": "it stays on the device"}
    assert found.coverage["reference"].compared == 2


def test_map_makes_a_pair_and_map_to_one_tensor_twice_is_refused() -> None:
    found = aligndbg.diff(network(), network(tag="_c"), map={"scaled": "shifted_c", "shifted": "scaled_c"})
    assert {m.pair.reference: m.status for m in found.pairs if m.pair.method == "user"} == {
        "scaled": Status.UNKNOWN,
        "shifted": Status.UNKNOWN,
    }
    assert not found.faults
    with pytest.raises(UsageError, match="scaled_c"):
        aligndbg.diff(network(), network(tag="_c"), map={"scaled": "scaled_c", "shifted": "scaled_c"})


# --- traces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("model", ["cnn.onnx", "cnn.tflite", "cnn_int8.tflite", "attention.onnx"])
def test_a_model_against_its_own_trace(fixtures: Path, tmp_path: Path, model: str, suffix: str) -> None:
    path = fixtures / model
    trace = aligndbg.capture(path, output=tmp_path / f"trace.{suffix}")
    assert set(trace.values) >= set(trace.graph.outputs)
    for pair in ((path, tmp_path / f"trace.{suffix}"), (tmp_path / f"trace.{suffix}", path)):
        found = aligndbg.diff(*pair)
        assert found.verdict is Verdict.ALIGNED
        assert {m.metrics.max_abs for m in found.pairs} == {0.0}
        assert not found.faults
        assert found.coverage["reference"] == found.coverage["candidate"]
        assert found.coverage["reference"].unmatched == 0


def test_a_fault_is_found_from_either_trace(fixtures: Path, tmp_path: Path) -> None:
    """One side cannot be run: the other one is, on its values."""
    good, bad = fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"
    aligndbg.capture(good, image(), tmp_path / "good.npz")
    aligndbg.capture(bad, np.ascontiguousarray(image().transpose(0, 2, 3, 1)), tmp_path / "bad.safetensors")
    for pair in ((good, tmp_path / "bad.safetensors"), (tmp_path / "good.npz", bad)):
        found = aligndbg.diff(*pair)
        assert [fault.reference for fault in found.faults] == ["/mix/Relu_output_0"]
        assert {m.status for m in found.pairs} == {Status.PASS, Status.FAULT, Status.DRIFT}
    both = aligndbg.diff(tmp_path / "good.npz", tmp_path / "bad.safetensors")
    assert both.verdict is Verdict.DIVERGED
    assert not both.faults  # neither side can be run: nothing is called a fault
    assert all(m.isolated is None and "neither side" in m.reason for m in both.pairs)


def test_the_report_names_the_trace_not_the_model_it_was_made_from(fixtures: Path, tmp_path: Path) -> None:
    aligndbg.capture(fixtures / "cnn.onnx", image(), tmp_path / "t.npz")
    found = aligndbg.diff(tmp_path / "t.npz", fixtures / "cnn.onnx")
    assert Path(found.reference.path).name == "t.npz"
    assert found.reference.backend == "recorded"
    assert "onnxruntime" in found.reference.version


def test_a_trace_keeps_what_it_was_fed(fixtures: Path, tmp_path: Path) -> None:
    aligndbg.capture(fixtures / "cnn.onnx", image(7), tmp_path / "t.safetensors")
    candidate = fixtures / "cnn.tflite"
    assert aligndbg.diff(tmp_path / "t.safetensors", candidate, image(7)).verdict is Verdict.ALIGNED
    with pytest.raises(UsageError, match="conflicts"):
        aligndbg.diff(tmp_path / "t.safetensors", candidate, image(8))
    with pytest.raises(UsageError, match="conflicts"):
        aligndbg.diff(fixtures / "cnn.onnx", tmp_path / "t.safetensors", image(8))
    with pytest.raises(UsageError, match="traces"):
        aligndbg.diff(tmp_path / "t.safetensors", tmp_path / "t.safetensors", image(7))
    with pytest.raises(UsageError, match="trace"):
        aligndbg.diff(fixtures / "cnn.onnx", tmp_path / "t.safetensors", candidate_inputs=image(7))


def embedding(name: str = "embedding") -> MemoryBackend:
    """Integers in, floats out."""
    table = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    return MemoryBackend(
        inputs={"ids": TensorInfo("ids", (1, 8), "int64")},
        nodes=[MemoryNode("Gather", lambda ids: table[ids % 50], ("ids",), ("embedded",))],
        outputs=["embedded"],
        name=name,
    )


def test_integer_feeds_that_conflict_with_a_trace_are_refused_too(tmp_path: Path) -> None:
    ids = np.arange(8).reshape(1, 8)
    aligndbg.capture(embedding(), {"ids": ids}, tmp_path / "t.npz")
    assert aligndbg.diff(tmp_path / "t.npz", embedding(), {"ids": ids}).verdict is Verdict.ALIGNED
    for pair in ((tmp_path / "t.npz", embedding()), (embedding(), tmp_path / "t.npz")):
        with pytest.raises(UsageError, match="conflicts"):
            aligndbg.diff(*pair, {"ids": ids + 1})


def test_traces_with_other_feeds_are_a_finding(fixtures: Path, tmp_path: Path) -> None:
    aligndbg.capture(fixtures / "cnn.onnx", image(1), tmp_path / "one.npz")
    aligndbg.capture(fixtures / "cnn.onnx", image(2), tmp_path / "two.npz")
    found = aligndbg.diff(tmp_path / "one.npz", tmp_path / "two.npz")
    assert found.verdict is Verdict.DIVERGED
    assert any(warning.startswith("inputs differ") for warning in found.warnings)


def test_a_trace_of_an_int8_model_against_the_float_model(fixtures: Path, tmp_path: Path) -> None:
    """Its feed is stored as integers; what they stand for is what the float model was fed, within a step."""
    last = np.ascontiguousarray(image().transpose(0, 2, 3, 1))
    with aligned_pair(fixtures) as (reference, candidate):
        plan = aligndbg.diff(reference, candidate, image(), isolate=False)
    assert plan.verdict is Verdict.ALIGNED
    info = aligndbg.layers(fixtures / "cnn_int8.tflite")
    entry = info.tensors[info.inputs[0]]
    feed = last if entry.quant is None else entry.quant.quantize(last, entry.dtype)
    aligndbg.capture(fixtures / "cnn_int8.tflite", feed, tmp_path / "t.npz")
    found = aligndbg.diff(fixtures / "cnn.onnx", tmp_path / "t.npz", image())
    assert found.verdict is Verdict.ALIGNED
    assert not [warning for warning in found.warnings if "inputs differ" in warning]


def aligned_pair(fixtures: Path) -> Any:
    from contextlib import ExitStack, contextmanager

    @contextmanager
    def opened() -> Iterator[tuple[Any, Any]]:
        with ExitStack() as stack:
            models = [aligndbg.open_model(fixtures / name) for name in ("cnn.onnx", "cnn_int8.tflite")]
            for model in models:
                stack.callback(model.close)
            yield models[0], models[1]

    return opened()


def test_capture_gives_values_in_execution_order_and_the_feeds(fixtures: Path) -> None:
    trace = aligndbg.capture(fixtures / "cnn.onnx", image())
    made = [name for node in trace.graph.nodes for name in node.outputs]
    assert [name for name in trace.order if name in made] == [name for name in made if name in trace.values]
    assert trace.feeds is not None
    assert np.array_equal(trace.feeds["input"], image())
    assert trace.values[trace.graph.outputs[0]].sum() == pytest.approx(1, abs=1e-5)  # a softmax


def test_capture_refuses_what_diff_refuses(fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="1x3x32x40"):
        aligndbg.capture(fixtures / "cnn.onnx", image()[0])
    with pytest.raises(UsageError, match=r"\.txt"):
        aligndbg.capture(fixtures / "cnn.onnx", image(), tmp_path / "trace.txt")
    assert not list(tmp_path.iterdir())


def test_layers_is_the_graph(fixtures: Path) -> None:
    graph = aligndbg.layers(fixtures / "cnn.tflite")
    assert isinstance(graph, Graph)
    assert [node.op_type for node in graph.nodes][-1] == "SOFTMAX"
    assert len(graph.inputs) == len(graph.outputs) == 1


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_memory", [0, 1, 50_000])
def test_a_small_budget_changes_no_value(fixtures: Path, diverged: Diff, max_memory: int) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn_weight_fault.tflite"
    found = aligndbg.diff(*pair, image(), max_memory=max_memory)
    assert [(m.pair, m.status, m.metrics, m.isolated) for m in found.pairs] == [
        (m.pair, m.status, m.metrics, m.isolated) for m in diverged.pairs
    ]
    assert found.faults == diverged.faults


def test_pairing_has_the_time_limit_too(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aligndbg.backends.onnx.backend import OnnxBackend
    from aligndbg.backends.tflite.backend import TfliteBackend
    from aligndbg.match import values

    quick = values.settle_layout

    def slow(*args: Any) -> Any:
        time.sleep(0.3)
        return quick(*args)

    monkeypatch.setattr(values, "settle_layout", slow)
    # Open backends run here, without a limit of their own.
    sides = OnnxBackend(str(fixtures / "cnn.onnx"), {}), TfliteBackend(str(fixtures / "cnn_weight_fault.tflite"), {})
    with pytest.raises(UsageError, match=r"pairing the two models' tensors ran past 0\.25 s") as caught:
        aligndbg.diff(*sides, timeout=0.25)
    assert "--timeout" in caught.value.hint


@pytest.mark.parametrize(("slow", "isolate"), [("measure", False), ("isolated", True)])
def test_comparing_has_the_time_limit_too(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, slow: str, isolate: bool
) -> None:
    from aligndbg.backends.onnx.backend import OnnxBackend
    from aligndbg.backends.tflite.backend import TfliteBackend
    from aligndbg.core import threads
    from aligndbg.measure.judge import Judge

    quick, begun = getattr(Judge, slow), []

    def slowed(judge: Judge, *args: Any) -> Any:
        begun.append(args)
        time.sleep(1.1)
        return quick(judge, *args)

    monkeypatch.setattr(Judge, slow, slowed)
    monkeypatch.setattr(threads, "MAX_THREADS", 1)
    sides = OnnxBackend(str(fixtures / "cnn.onnx"), {}), TfliteBackend(str(fixtures / "cnn.tflite"), {})
    with pytest.raises(UsageError, match=r"comparing the paired tensors ran past 1 s") as caught:
        aligndbg.diff(*sides, timeout=1, isolate=isolate, checks=False)
    assert "--timeout" in caught.value.hint
    assert len(begun) <= 3, "those of the isolated run begin while it still goes on"


def test_a_runtime_that_dies_when_it_is_run_whole_takes_only_that_check_along(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for want of memory, which a run in segments needs less of."""
    from aligndbg.backends.onnx.backend import OnnxBackend

    reference = OnnxBackend(str(fixtures / "cnn.onnx"), {})
    run = reference.run

    def dies(feeds: Any, fetch: Sequence[str], overrides: Any = None) -> Any:
        if set(fetch) == set(reference.graph().outputs):
            raise RuntimeCrashError("the runtime's process died (SIGKILL)")
        return run(feeds, fetch, overrides)

    monkeypatch.setattr(reference, "run", dies)
    found = aligndbg.diff(reference, fixtures / "cnn.tflite")
    assert found.verdict is Verdict.ALIGNED
    assert found.checks["deterministic"] == {"reference": None, "candidate": True}
    assert any("the reference could not be run untapped" in said and "SIGKILL" in said for said in found.warnings)


def test_models_too_large_for_two_sessions_are_not_held_at_once(
    fixtures: Path, aligned: Diff, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aligndbg.backends import base
    from aligndbg.backends.onnx.backend import OnnxBackend
    from aligndbg.backends.tflite.backend import TfliteBackend

    monkeypatch.setattr(base, "LARGE_FILE", 0)
    onnx_model = OnnxBackend(str(fixtures / "cnn.onnx"), {})
    tflite_model = TfliteBackend(str(fixtures / "cnn.tflite"), {})
    together = []
    for side, other in ((onnx_model, tflite_model), (tflite_model, onnx_model)):
        run = side.run

        def watched(*args: Any, run: Any = run, other: Any = other) -> Any:
            together.append(bool(getattr(other, "_runs", None) or getattr(other, "_sessions", None)))
            return run(*args)

        monkeypatch.setattr(side, "run", watched)
    found = aligndbg.diff(onnx_model, tflite_model)
    assert len(together) >= 5
    assert not any(together)
    assert [(m.pair.reference, m.status) for m in found.pairs] == [(m.pair.reference, m.status) for m in aligned.pairs]
