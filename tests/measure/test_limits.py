"""Which limit holds for a pair where the user set none: the first rule that applies, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aligndbg.core.types import Graph, Node, RunAgain, Status, TensorInfo
from aligndbg.measure.judge import Judge
from aligndbg.measure.limits import Conditions, Facts, limit_of
from aligndbg.measure.rounding import Rounding
from aligndbg.measure.tolerance import Tolerance, ToleranceRules, default_tolerance
from judging import GRID, VALUES, judge_of, own, pair, trace

INT8 = {"dtypes": ("float32", "int8"), "on_grid": True}
DUMP = {"dtypes": ("float32", "int8")}
FLOAT = default_tolerance("float32", "float32", isolated=True)
ONE, MANY = Rounding(1, 3.0), Rounding(3, 9.0)
EXPLICIT, BOTH = (False, True), (True, True)


@pytest.mark.parametrize(
    ("facts", "tolerance", "reason"),
    [
        ({}, default_tolerance("float32", "float32", isolated=True), "noise floor"),
        (
            {"inner": ONE, "weights_unknown": True},
            default_tolerance("float32", "float32", isolated=True),
            "noise floor",
        ),
        ({"dtypes": ("int64", "int64"), "hybrid": True}, Tolerance(atol=0.0, rtol=0.0), "noise floor"),
        (INT8, Tolerance(max_lsb=1.5), "noise floor"),
        (INT8 | {"hybrid": True}, Tolerance(max_lsb=1.5), "noise floor"),
        (INT8 | {"inner": ONE}, Tolerance(min_cosine=0.95, max_lsb=4.5), "inner tensors are rounded too"),
        (INT8 | {"inner": MANY}, Tolerance(min_cosine=0.95), "too many inner"),
        (INT8 | {"weights_unknown": True}, Tolerance(max_lsb=5.0), "not the quantized ones"),
        (INT8 | {"weights_unknown": True, "inner": ONE}, Tolerance(min_cosine=0.95, max_lsb=4.5), "rounded too"),
        (DUMP, Tolerance(rel_l2=5e-2), "steps are not known"),
        (DUMP | {"inner": ONE}, Tolerance(rel_l2=5e-2 * 2**0.5), "steps are not known"),
        (DUMP | {"inner": MANY}, Tolerance(min_cosine=0.95), "too many inner"),
        (DUMP | {"weights_unknown": True, "explicit": EXPLICIT}, Tolerance(rel_l2=5e-2), "steps are not known"),
        ({"stored": "int8"}, Tolerance(max_lsb=1.5), "stored on a grid"),
        ({"stored": "int8", "inner": ONE, "explicit": EXPLICIT}, Tolerance(max_lsb=4.5), "stored on a grid"),
        ({"stored": "int16"}, Tolerance(max_lsb=2.5), "stored on a grid"),
        ({"stored": "int16", "normalized": 10}, Tolerance(max_lsb=20.0), "16-bit SOFTMAX"),
        ({"explicit": EXPLICIT}, Tolerance(rel_l2=1e-3), "what one side's grids leave"),
        ({"explicit": EXPLICIT, "inner": ONE}, Tolerance(rel_l2=5e-2 * 2**0.5), "steps are not known"),
        ({"explicit": EXPLICIT, "weights_unknown": True}, Tolerance(rel_l2=5e-2), "steps are not known"),
        ({"explicit": EXPLICIT, "hybrid": True}, Tolerance(rel_l2=5e-2), "steps are not known"),
        ({"explicit": BOTH}, Tolerance(rel_l2=5e-2), "steps are not known"),
        ({"hybrid": True}, Tolerance(rel_l2=5e-2), "steps are not known"),
    ],
)
def test_an_own_error(facts: dict[str, Any], tolerance: Tolerance, reason: str) -> None:
    found = limit_of(Facts(isolated=True, **facts))
    assert found.tolerance == tolerance
    assert reason in found.reason


@pytest.mark.parametrize(
    ("facts", "tolerance"),
    [
        ({}, default_tolerance("float32", "float32")),
        ({"dtypes": ("int64", "int64"), "explicit": EXPLICIT}, Tolerance(atol=0.0, rtol=0.0)),
        (INT8, Tolerance(min_cosine=0.95)),
        ({"hybrid": True}, Tolerance(min_cosine=0.95)),
        ({"explicit": BOTH}, Tolerance(min_cosine=0.95)),
    ],
)
def test_an_accumulated_error_depends_on_no_run(facts: dict[str, Any], tolerance: Tolerance) -> None:
    assert limit_of(Facts(isolated=False, **facts)).tolerance == tolerance
    assert limit_of(Facts(isolated=False, inner=MANY, weights_unknown=True, **facts)).tolerance == tolerance


def test_a_judge_under_other_conditions_leaves_the_first_as_it_was() -> None:
    quantized = trace({"y": GRID.quantize(VALUES, "int8")}, quants={"y": GRID})
    judge = Judge(trace({"y": VALUES}), quantized, ToleranceRules())
    inner = judge.under(Conditions({"y": MANY}))
    unknown = judge.under(Conditions(weights_unknown=True))
    assert judge.tolerance(pair(), isolated=True) == Tolerance(max_lsb=1.5)
    assert inner.tolerance(pair(), isolated=True) == Tolerance(min_cosine=0.95)
    assert unknown.tolerance(pair(), isolated=True) == Tolerance(max_lsb=5.0)
    assert unknown.tolerance(pair()) == inner.tolerance(pair()) == judge.tolerance(pair())


def test_a_wider_limit_is_said_to_be_weak_where_the_error_is_one_in_steps() -> None:
    quantized = trace({"y": GRID.quantize(VALUES, "int8")}, quants={"y": GRID})
    judge = Judge(trace({"y": VALUES}), quantized, ToleranceRules())
    isolated = judge.isolated(pair(), quantized, RunAgain.CANDIDATE)
    assert "weak" not in judge.measure(pair(), isolated).reason
    told = judge.under(Conditions({"y": ONE}, weights_unknown=True)).measure(pair(), isolated)
    assert told.status is Status.PASS
    assert told.reason.endswith("; weak: the region rounds 1 inner tensors, so its own error has a wider limit")
    told = judge.under(Conditions(weights_unknown=True)).measure(pair(), isolated)
    assert told.reason.endswith("; weak: the candidate's weights are unknown, so its own error is judged at 5 steps")
    assert "weak" not in judge_of(VALUES).under(Conditions({"y": ONE})).measure(pair(), own(1e-9)).reason


def test_float64_computed_from_half_weights_bears_their_rounding() -> None:
    weights = {"w": TensorInfo("w", (4,), "float16")}
    graph = Graph(tensors=weights, constants=frozenset(weights), nodes=(Node("Cast", "n", ("w",), ("y",)),))
    wide = trace({"y": VALUES.astype(np.float64)})
    half = replace(wide, graph=graph)
    assert Judge(wide, half, ToleranceRules()).precision(pair()) == "float16"
    assert Judge(wide, wide, ToleranceRules()).precision(pair()) == "float64"
