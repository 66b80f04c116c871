"""The status of a pair and the verdict of a run, case by case, as the table of the contract has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from aligndbg.core.types import (
    Coverage,
    Fault,
    Graph,
    Layout,
    LayoutKind,
    Matching,
    ModelInfo,
    Node,
    Pair,
    Quant,
    Skipped,
    Status,
    TensorInfo,
    Trace,
    Unmatched,
    UnmatchedClass,
    Verdict,
)
from aligndbg.measure.judge import Judge
from aligndbg.measure.metrics import compare
from aligndbg.measure.results import Measurement, Metrics
from aligndbg.measure.tolerance import Tolerance, ToleranceRules
from aligndbg.verdict.decide import decide

Array = np.ndarray[Any, np.dtype[Any]]
VALUES = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
GRID = Quant(np.array([0.05], np.float32), np.array([3]))


def trace(
    values: Mapping[str, Array],
    outputs: tuple[str, ...] = ("y",),
    *,
    quants: Mapping[str, Quant] | None = None,
    missing: Mapping[str, str] | None = None,
) -> Trace:
    """One node for each value, op type "Op", in the order given."""
    nodes = tuple(Node("Op", f"{name}.node", ("x",), (name,)) for name in (*values, *(missing or {})))
    tensors = {n: TensorInfo(n, a.shape, str(a.dtype), (quants or {}).get(n)) for n, a in values.items()}
    graph = Graph(nodes, tensors, ("x",), outputs)
    return Trace(ModelInfo("m", "memory"), graph, dict(values), None, tuple(values), dict(missing or {}))


def pair(name: str = "y", method: str = "value", **layout: Any) -> Pair:
    same = {"kind": LayoutKind.IDENTITY, "from_shape": (4, 6), "permutation": (0, 1)} | layout
    return Pair(name, name, Layout(**same, reference_shape=(4, 6), candidate_shape=(4, 6)), method, 0.9)


def near(error: float, values: Array = VALUES) -> Array:
    """Another array at `error` relative L2."""
    noise = np.random.default_rng(1).normal(size=values.shape)
    norm = np.linalg.norm(values.astype(np.float64)) / np.linalg.norm(noise)
    return (values + error * noise * norm).astype(values.dtype)


def judge_of(candidate: Array, reference: Array = VALUES, rules: ToleranceRules | None = None) -> Judge:
    return Judge(trace({"y": reference}), trace({"y": candidate}), rules or ToleranceRules())


def own(error: float) -> Metrics:
    return compare(VALUES, near(error))


# --- the status of a pair ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accumulated", "isolated", "status"),
    [
        (1e-6, 1e-7, Status.PASS),
        (1e-2, 1e-7, Status.DRIFT),
        (1e-2, 1e-2, Status.FAULT),
        (1e-6, 1e-2, Status.FAULT),  # however little it moves what comes after
        (1e-6, None, Status.PASS),
        (1e-2, None, Status.UNKNOWN),
    ],
)
def test_status_by_accumulated_and_own_error(accumulated: float, isolated: float | None, status: Status) -> None:
    judge = judge_of(near(accumulated))
    found = judge.measure(pair(), None if isolated is None else own(isolated), why_not_isolated="it is a recording")
    assert found.status is status
    assert found.reason
    assert (found.reference_op, found.candidate_op) == ("Op", "Op")
    if isolated is None:
        assert "it is a recording" in found.reason
        assert found.isolated is None


def test_a_doubtful_pair_is_unknown_whatever_its_numbers() -> None:
    found = judge_of(VALUES).measure(pair(method="structure"), own(1e-9), doubt="nothing after it agrees")
    assert (found.status, found.reason) == (Status.UNKNOWN, "nothing after it agrees")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (np.zeros((4, 6), np.float32), "zero"),
        (np.full((4, 6), 2.5, np.float32), "constant"),
        (np.full((4, 6), np.nan, np.float32), "finite"),
        (np.full((4, 6), np.inf, np.float32), "finite"),
    ],
    ids=["zero", "constant", "nan", "inf"],
)
@pytest.mark.parametrize("isolated", [True, False])
def test_equal_values_that_prove_nothing_are_unknown(values: Array, word: str, isolated: bool) -> None:
    """Never a pass, and never a fault either: both sides do the same."""
    found = judge_of(values, values).measure(pair(), compare(values, values) if isolated else None)
    assert found.status is Status.UNKNOWN
    assert word in found.reason


def test_an_empty_tensor_is_unknown() -> None:
    empty = np.zeros((0, 6), np.float32)
    layout = Layout(LayoutKind.IDENTITY, (0, 6), (0, 1), (0, 6), (0, 6))
    found = judge_of(empty, empty).measure(Pair("y", "y", layout, "structure", 0.5))
    assert (found.status, found.reason) == (Status.UNKNOWN, "empty")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nonfinite_value_on_one_side_is_no_pass(value: float) -> None:
    spoiled = VALUES.copy()
    spoiled[1, 2] = value
    judge = judge_of(spoiled)
    assert judge.measure(pair()).status is Status.UNKNOWN
    assert judge.measure(pair(), compare(VALUES, spoiled)).status is Status.FAULT
    assert judge.measure(pair(), own(1e-8)).status in (Status.DRIFT, Status.UNKNOWN)


def test_an_ambiguous_layout_is_unknown_only_where_it_matters() -> None:
    square = np.random.default_rng(2).normal(size=(5, 5)).astype(np.float32)
    both = square + square.T

    def measured(values: Array) -> Measurement:
        layout = Layout(LayoutKind.AMBIGUOUS, (5, 5), (0, 1), (5, 5), (5, 5), ((1, 0),))
        return judge_of(values, values).measure(Pair("y", "y", layout, "structure", 0.5), compare(values, values))

    assert measured(both).status is Status.PASS  # symmetric: the same either way
    found = measured(square)
    assert found.status is Status.UNKNOWN
    assert "ambiguous" in found.reason


def test_int8_is_judged_by_cosine_and_by_steps() -> None:
    q = GRID.quantize(VALUES, "int8")
    one_step = q + np.where(np.arange(24).reshape(4, 6) % 7 == 0, 1, 0).astype(np.int8)
    left = trace({"y": VALUES})
    right = trace({"y": one_step}, quants={"y": GRID})
    judge = Judge(left, right, ToleranceRules())
    found = judge.measure(pair(), judge.isolated(pair(), right, forward=True))
    assert found.status is Status.PASS
    assert found.metrics.lsb_max == pytest.approx(1.5, abs=0.1)  # a step, and half of one for rounding
    assert found.isolated.lsb_max == pytest.approx(1.0)  # both on the candidate's grid
    three = trace({"y": q + np.int8(3)}, quants={"y": GRID})
    judge = Judge(left, three, ToleranceRules())
    found = judge.measure(pair(), judge.isolated(pair(), three, forward=True))
    assert found.status is Status.FAULT
    assert found.isolated.lsb_max == pytest.approx(3.0)


def test_values_beyond_the_grid_are_no_fault_of_the_op() -> None:
    """What the candidate's range cannot hold is clipped on both sides before its own error is judged."""
    wide = VALUES * 10
    q = GRID.quantize(wide, "int8")
    right = trace({"y": q}, quants={"y": GRID})
    judge = Judge(trace({"y": wide}), right, ToleranceRules())
    assert judge.isolated(pair(), right, forward=True).lsb_max == pytest.approx(0.0)
    assert judge.metrics(pair()).saturated > 0


def test_a_per_channel_grid_follows_the_layout() -> None:
    grid = Quant(np.array([0.02, 0.05, 0.1, 0.2], np.float32), np.zeros(4, np.int64), axis=1)
    q = grid.quantize(np.ascontiguousarray(VALUES.T), "int8")
    layout = Layout(LayoutKind.PERMUTE, (6, 4), (1, 0), (4, 6), (6, 4))
    judge = Judge(trace({"y": VALUES}), trace({"y": q}, quants={"y": grid}), ToleranceRules())
    metrics = judge.metrics(Pair("y", "y", layout, "value", 0.9))
    assert metrics.max_abs <= 0.1 * (1 + 1e-6)
    assert metrics.cosine > 0.99


def test_the_users_rules_replace_the_defaults() -> None:
    strict, loose = (ToleranceRules(Tolerance(rel_l2=limit)) for limit in (1e-9, 0.5))
    assert judge_of(near(1e-6), rules=strict).measure(pair(), own(1e-6)).status is Status.FAULT
    assert judge_of(near(1e-2), rules=loose).measure(pair(), own(1e-2)).status is Status.PASS
    by_op = ToleranceRules(None, ["op=Op:rel_l2=0.5"])
    assert judge_of(near(1e-2), rules=by_op).measure(pair(), own(1e-2)).status is Status.PASS
    by_name = ToleranceRules(None, ["name=z*:rel_l2=0.5"])
    assert judge_of(near(1e-2), rules=by_name).measure(pair(), own(1e-2)).status is Status.FAULT


def test_weights_of_fewer_bits_widen_the_limits() -> None:
    """fp16 weights, fp32 activations: the values bear fp16's rounding."""

    def with_weights(dtype: str) -> Judge:
        right = trace({"y": near(8e-4)})
        tensors = {**right.graph.tensors, "w": TensorInfo("w", (3,), dtype)}
        graph = Graph(right.graph.nodes, tensors, ("x",), ("y",), frozenset({"w"}))
        return Judge(trace({"y": VALUES}), Trace(right.info, graph, right.values, None, ("y",)), ToleranceRules())

    assert with_weights("float32").measure(pair(), own(8e-4)).status is Status.FAULT
    assert with_weights("float16").measure(pair(), own(8e-4)).status is Status.PASS


# --- the verdict ---------------------------------------------------------------------------------------------------


def verdict(
    candidate: Mapping[str, Array],
    *,
    reference: Mapping[str, Array] | None = None,
    outputs: tuple[str, ...] = ("y",),
    paired: tuple[str, ...] | None = None,
    isolated: float | None = 1e-8,
    faults: int = 0,
    coverage: Coverage | None = None,
    missing: Mapping[str, str] | None = None,
    unmatched: tuple[Unmatched, ...] = (),
    min_coverage: float = 0.5,
) -> tuple[Verdict, str]:
    ours = reference or dict.fromkeys(candidate, VALUES)
    left, right = trace(ours, outputs, missing=missing), trace(candidate, outputs, missing=missing)
    judge = Judge(left, right, ToleranceRules())
    measured = [judge.measure(pair(n), None if isolated is None else own(isolated)) for n in paired or candidate]
    matching = Matching(
        tuple(m.pair for m in measured),
        unmatched_reference=unmatched,
        skipped_reference=tuple(Skipped(n, "Op", why) for n, why in (missing or {}).items()),
        coverage_reference=coverage or Coverage(compared=len(measured)),
    )
    found = [Fault("h", "h", "Op", "Op", 0.5, "rel_l2")] * faults
    return decide(judge, matching, measured, found, min_coverage)


def test_aligned() -> None:
    found, why = verdict({"h": near(1e-6), "y": near(1e-6)})
    assert found is Verdict.ALIGNED
    assert "2 tensors" in why


def test_any_fault_diverges_also_with_fine_outputs() -> None:
    assert verdict({"h": near(1e-6), "y": near(1e-6)}, faults=1) == (Verdict.DIVERGED, "1 fault")
    assert verdict({"y": near(1e-6)}, faults=3) == (Verdict.DIVERGED, "3 faults")


def test_an_output_over_tolerance_diverges_without_any_fault() -> None:
    found, why = verdict({"h": near(1e-6), "y": near(1e-2)})
    assert found is Verdict.DIVERGED
    assert why.startswith("output y:")


def test_drift_inside_with_fine_outputs_is_aligned() -> None:
    assert verdict({"h": near(1e-2), "y": near(1e-6)})[0] is Verdict.ALIGNED


def test_any_output_counts() -> None:
    assert verdict({"y": near(1e-6), "z": near(1e-2)}, outputs=("y", "z"))[0] is Verdict.DIVERGED


def test_an_unpaired_output_is_inconclusive() -> None:
    lost = Unmatched("z", "Op", UnmatchedClass.UNMATCHED, "no value agrees")
    found, why = verdict({"y": near(1e-6), "z": near(1e-6)}, outputs=("y", "z"), paired=("y",), unmatched=(lost,))
    assert found is Verdict.INCONCLUSIVE
    assert "z" in why


def test_an_output_that_cannot_be_read_is_inconclusive() -> None:
    found, why = verdict({"y": near(1e-6)}, outputs=("y", "z"), missing={"z": "it stays on the device"})
    assert found is Verdict.INCONCLUSIVE
    assert "z" in why


def test_no_output_at_all_is_inconclusive() -> None:
    assert verdict({"h": near(1e-6)}, outputs=())[0] is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("constant", [0.0, 3.0, np.nan])
def test_an_output_that_proves_nothing_is_inconclusive(constant: float) -> None:
    flat = np.full((4, 6), constant, np.float32)
    found, why = verdict({"y": flat}, reference={"y": flat}, isolated=None)
    assert found is Verdict.INCONCLUSIVE
    assert "y" in why


def test_a_nan_on_one_side_of_an_output_diverges() -> None:
    spoiled = VALUES.copy()
    spoiled[0, 0] = np.nan
    assert verdict({"y": spoiled})[0] is Verdict.DIVERGED


@pytest.mark.parametrize(
    ("coverage", "min_coverage", "expected"),
    [
        (Coverage(compared=5, unmatched=5), 0.5, Verdict.ALIGNED),
        (Coverage(compared=4, unmatched=5), 0.5, Verdict.INCONCLUSIVE),
        (Coverage(compared=1, unobservable=50, one_sided=50), 0.5, Verdict.ALIGNED),  # accounted for
        (Coverage(compared=4, unmatched=5), 0.4, Verdict.ALIGNED),
        (Coverage(compared=9, unmatched=1), 1.0, Verdict.INCONCLUSIVE),
        (Coverage(compared=9, unmatched=1), 0.0, Verdict.ALIGNED),
    ],
)
def test_too_few_compared_is_inconclusive(coverage: Coverage, min_coverage: float, expected: Verdict) -> None:
    assert verdict({"y": near(1e-6)}, coverage=coverage, min_coverage=min_coverage)[0] is expected


def test_diverged_comes_before_inconclusive() -> None:
    lost = Unmatched("z", "Op", UnmatchedClass.UNMATCHED, "no value agrees")
    values = {"y": near(1e-2), "z": near(1e-6)}
    assert verdict(values, outputs=("y", "z"), paired=("y",), unmatched=(lost,))[0] is Verdict.DIVERGED


def test_quantized_against_float_passes_by_cosine() -> None:
    q = GRID.quantize(near(0.2), "int8")
    left, right = trace({"y": VALUES}), trace({"y": q}, quants={"y": GRID})
    judge = Judge(left, right, ToleranceRules())
    measured = [judge.measure(pair())]
    matching = Matching((pair(),), coverage_reference=Coverage(compared=1))
    assert measured[0].metrics.cosine > 0.95
    assert decide(judge, matching, measured, [], 0.5)[0] is Verdict.ALIGNED
    worse = trace({"y": GRID.quantize(near(0.6), "int8")}, quants={"y": GRID})
    judge = Judge(left, worse, ToleranceRules())
    assert decide(judge, matching, [judge.measure(pair())], [], 0.5)[0] is Verdict.DIVERGED
