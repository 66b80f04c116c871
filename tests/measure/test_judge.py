"""The status of a pair, case by case, as the table of the contract has them; and what a judge compares."""

from __future__ import annotations

import numpy as np
import pytest

from aligndbg.core.types import Graph, Layout, LayoutKind, Pair, Quant, RunAgain, Status, TensorInfo, Trace
from aligndbg.measure.judge import Judge
from aligndbg.measure.metrics import compare
from aligndbg.measure.results import Measurement
from aligndbg.measure.tolerance import Tolerance, ToleranceRules
from judging import GRID, VALUES, Array, judge_of, near, own, pair, trace


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
    found = judge.measure(pair(), judge.isolated(pair(), right, RunAgain.CANDIDATE))
    assert found.status is Status.PASS
    assert found.metrics.lsb_max == pytest.approx(1.5, abs=0.1)  # a step, and half of one for rounding
    assert found.isolated.lsb_max == pytest.approx(1.0)  # both on the candidate's grid
    three = trace({"y": q + np.int8(3)}, quants={"y": GRID})
    judge = Judge(left, three, ToleranceRules())
    found = judge.measure(pair(), judge.isolated(pair(), three, RunAgain.CANDIDATE))
    assert found.status is Status.FAULT
    assert found.isolated.lsb_max == pytest.approx(3.0)


def test_values_beyond_the_grid_are_no_fault_of_the_op() -> None:
    """What the candidate's range cannot hold is clipped on both sides before its own error is judged."""
    wide = VALUES * 10
    q = GRID.quantize(wide, "int8")
    right = trace({"y": q}, quants={"y": GRID})
    judge = Judge(trace({"y": wide}), right, ToleranceRules())
    assert judge.isolated(pair(), right, RunAgain.CANDIDATE).lsb_max == pytest.approx(0.0)
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


# --- grids that a mask stretches ----------------------------------------------------------------------------------

HIDDEN = np.arange(24).reshape(4, 6) % 3 == 0


def on_grid(huge: float, dtype: str, factor: float = 1.0) -> tuple[Array, Array, Quant]:
    """Scores with a mask; what a grid over both leaves of `factor` times the scores; the grid."""
    limits = np.iinfo(dtype)
    step = (10 - huge) / (limits.max - limits.min)
    grid = Quant(np.array([step], np.float32), np.array([limits.max - round(10 / step)]))
    real, other = (np.where(HIDDEN, np.float32(huge), np.float32(k) * VALUES) for k in (1.0, factor))
    return real, grid.quantize(other, dtype), grid


@pytest.mark.parametrize("on_reference", [False, True])
@pytest.mark.parametrize(
    ("huge", "dtype", "lost"), [(-3.4e38, "int8", True), (-1e4, "int8", True), (-1e4, "int16", False)]
)
def test_what_a_mask_leaves_of_all_else_on_a_grid_is_the_operators_error(
    huge: float, dtype: str, lost: bool, on_reference: bool
) -> None:
    real, stored, grid = on_grid(huge, dtype)
    sides = [trace({"y": real}), trace({"y": stored}, quants={"y": grid})]
    judge = Judge(*(sides[::-1] if on_reference else sides), ToleranceRules())
    own = judge.isolated(pair(), sides[0] if on_reference else sides[1], RunAgain.CANDIDATE)
    found = judge.measure(pair(), own)
    assert found.status is (Status.FAULT if lost else Status.PASS)
    if lost:
        assert "cosine" in found.reason
    else:
        assert own.lsb_max == 0.0


def test_a_grid_that_keeps_the_rest_is_judged_in_steps() -> None:
    real, stored, grid = on_grid(-1e4, "int16", factor=3.0)
    judge = Judge(trace({"y": real}), trace({"y": stored}, quants={"y": grid}), ToleranceRules())
    found = judge.measure(pair(), judge.isolated(pair(), judge.candidate, RunAgain.CANDIDATE))
    assert found.status is Status.FAULT
    assert "lsb_max" in found.reason


def test_what_both_grids_lose_alike_is_no_difference() -> None:
    _, stored, grid = on_grid(-3.4e38, "int8")
    side = trace({"y": stored}, quants={"y": grid})
    judge = Judge(side, side, ToleranceRules())
    assert judge.measure(pair(), judge.isolated(pair(), side, RunAgain.CANDIDATE)).status is Status.PASS
