"""Error against depth: what is undefined, and what is zero."""

from __future__ import annotations

from aligndbg.diff_result import Diff
from aligndbg.report.chart import charts


def test_an_undefined_error_breaks_the_line_and_a_zero_lies_on_the_axis(silent: Diff, aligned: Diff) -> None:
    (chart,) = charts(silent)
    kinds = {p.pair: p.kind for p in chart.accumulated}
    assert kinds[len(silent.pairs) - 1] == "undefined"
    assert chart.path.count("M") <= 1
    (chart,) = charts(aligned)
    assert {(p.kind, p.y) for p in chart.isolated} == {("zero", chart.zero)}
