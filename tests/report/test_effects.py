"""What faults do at the outputs, in words: the same in every report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import aligndbg
from aligndbg.core.types import Effect
from aligndbg.diff_result import Diff
from aligndbg.report.effects import all_corrected, effect_of
from aligndbg.report.github import to_markdown
from aligndbg.report.html import to_html
from aligndbg.report.terminal import render_text


def with_two_faults(diff: Diff) -> Diff:
    (fault,) = diff.faults
    weak, strong = Effect({"y": 0.01}, {"y": 0.4}), Effect({"y": 0.4}, {"y": 0.01})
    return replace(diff, faults=(replace(fault, effect=weak), replace(fault, effect=strong)), corrected={"y": 3e-8})


def test_one_fault_corrected_is_compared_with_the_run_as_it_was(diverged: Diff) -> None:
    (fault,) = diverged.faults
    before = next(m.metrics.rel_l2 for m in diverged.pairs if m.pair.reference in (diverged.corrected or {}))
    assert effect_of(fault, diverged) == ""
    assert all_corrected(diverged) == f"with it corrected the outputs differ by 0 instead of {before:.2g}"


def test_of_several_the_one_that_matters_most_is_named(diverged: Diff) -> None:
    two = with_two_faults(diverged)
    assert effect_of(two.faults[0], two) == "alone it moves the outputs by 0.01; with only it corrected 0.4 is left"
    assert all_corrected(two).startswith("with both corrected the outputs differ by 3.0e-08")
    assert all_corrected(two).endswith("; fault 2 matters most")


def test_every_report_says_it(diverged: Diff) -> None:
    two = with_two_faults(diverged)
    for text in (render_text(two, width=200), to_markdown(two), to_html(two)):
        assert "ith both corrected the outputs differ by 3.0e-08" in text
        assert "alone it moves the outputs by 0.4" in text
    frame = two.to_frame()
    assert frame["effect_alone"].max() == 0.4
    assert np.isnan(frame["effect_alone"]).sum() == len(frame) - 1


def test_a_hidden_fault_is_said_to_be_one(diverged: Diff) -> None:
    fault = replace(diverged.faults[0], hidden=True)
    assert "this input does not show it" in render_text(replace(diverged, faults=(fault,)), width=200)


def test_nothing_is_said_where_nothing_was_measured(diverged: Diff, aligned: Diff) -> None:
    unknown = replace(diverged, corrected=None)
    assert "corrected the outputs" not in render_text(unknown) + render_text(aligned)


def test_it_is_dropped_when_other_faults_are_listed(diverged: Diff) -> None:
    loose = aligndbg.judge(diverged, atol=1e9)
    assert diverged.corrected is not None
    assert loose.faults == ()
    assert loose.corrected is None
