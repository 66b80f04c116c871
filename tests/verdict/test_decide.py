"""The verdict of a run, case by case, as the table of the contract has them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from aligndbg.core.types import Coverage, Fault, Matching, Skipped, Unmatched, UnmatchedClass, Verdict
from aligndbg.measure.judge import Judge
from aligndbg.measure.tolerance import ToleranceRules
from aligndbg.verdict.decide import decide
from judging import GRID, VALUES, Array, near, own, pair, trace


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
