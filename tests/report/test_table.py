"""The table of pairs: rows, order, columns and widths as asked for, or as they fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aligndbg import TableView
from aligndbg.core.errors import UsageError
from aligndbg.diff_result import Diff
from aligndbg.report.frame import METRIC_COLUMNS, to_frame
from aligndbg.report.table import chosen_rows
from aligndbg.report.terminal import render_text


def names(diff: Diff, view: TableView) -> list[str]:
    return [m.pair.reference for _, m in chosen_rows(diff, view)]


def test_nothing_asked_for_is_every_pair_in_execution_order(diverged: Diff) -> None:
    assert names(diverged, TableView()) == ["scaled", "shifted", "y"]


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        (("fault",), ["shifted"]),
        (("fault", "drift"), ["shifted", "y"]),
        (("outputs",), ["y"]),
        (("sca*",), ["scaled"]),
        (("Tanh", "Mul"), ["scaled", "y"]),
        (("unknown",), []),
    ],
)
def test_only(diverged: Diff, only: tuple[str, ...], kept: list[str]) -> None:
    assert names(diverged, TableView(only=only)) == kept
    assert f"{len(kept)} of 3 pairs" in render_text(diverged, view=TableView(only=only))


@pytest.mark.parametrize("column", ["rel_l2", "isolated_rel_l2", "max_abs", "isolated_max_abs", "std_candidate"])
def test_errors_sort_largest_first(diverged: Diff, column: str) -> None:
    expected = to_frame(diverged).sort_values(column, ascending=False, kind="stable")["reference"]
    assert names(diverged, TableView(sort=column)) == list(expected)


@pytest.mark.parametrize("column", ["cosine", "isolated_cosine", "sqnr_db", "euclid"])
def test_similarities_sort_smallest_first(diverged: Diff, column: str) -> None:
    expected = to_frame(diverged).sort_values(column, kind="stable")["reference"]
    assert names(diverged, TableView(sort=column)) == list(expected)


def test_undefined_errors_come_first_and_missing_ones_last(silent: Diff, diverged: Diff) -> None:
    assert names(silent, TableView(sort="rel_l2"))[0] == "y"
    first, *rest = diverged.pairs
    some = replace(diverged, pairs=(replace(first, isolated=None), *rest))
    assert names(some, TableView(sort="isolated_rel_l2"))[-1] == "scaled"


def test_by_status_the_faults_come_first(diverged: Diff) -> None:
    assert names(diverged, TableView(sort="status")) == ["shifted", "y", "scaled"]
    assert names(diverged, TableView(sort="op")) == ["shifted", "scaled", "y"]


def test_columns_are_those_asked_for_in_that_order(diverged: Diff) -> None:
    text = render_text(diverged, view=TableView(columns=("op", "status", "std_candidate", "shape")))
    head, _, row, *_ = text.split("all 3 pairs, in execution order\n", 1)[1].splitlines()
    assert head.split() == ["op", "status", "std", "candidate", "shape"]
    assert row.split()[:4] == ["Mul", "~", "Mul", "pass"]
    assert row.split()[-1] == "2x3x4"


def test_every_column_of_the_frame_can_be_shown(diverged: Diff) -> None:
    for name in (*METRIC_COLUMNS, "isolated_rel_l2", "confidence", "index", "evidence", "reason", "layout", "method"):
        assert "shifted" in render_text(diverged, view=TableView(columns=("reference", name)))


@pytest.mark.parametrize("view", [{"sort": "rell2"}, {"columns": ("status", "rell2")}])
def test_an_unknown_column_names_the_nearest(view: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="no column 'rell2'") as caught:
        TableView(**view)  # type: ignore[arg-type]
    assert "rel_l2" in caught.value.hint


def test_the_bar_is_full_to_the_own_error_and_light_to_the_accumulated(diverged: Diff, silent: Diff) -> None:
    view = TableView(columns=("reference", "bar"))
    bars = [
        line.split() for line in render_text(diverged, view=view).splitlines() if line.startswith(("sca", "shi", "y"))
    ]
    assert bars[0] == ["scaled"]  # equal: no error at all
    assert set(bars[1][1]) == {"█"}
    assert set(bars[2][1]) == {"░"}
    assert ["y", "?"] in [line.split() for line in render_text(silent, view=view).splitlines()]


def test_long_operators_share_the_room(diverged: Diff) -> None:
    first, *rest = diverged.pairs
    long = replace(first, reference_op="InstanceNormalization", candidate_op="MUL")
    text = render_text(replace(diverged, pairs=(long, *rest)), width=60, all_rows=True)
    assert "… ~ MUL" in text or "n ~ MUL" in text


@pytest.mark.parametrize("width", [50, 60, 70, 80, 100, 120, 160])
def test_numbers_are_whole_at_any_width(diverged: Diff, width: int) -> None:
    name = "/a/very/long/scope/of/many/words/that/no/terminal/has/room/for/output_0"
    pairs = tuple(replace(m, pair=replace(m.pair, reference=name, candidate=name)) for m in diverged.pairs)
    text = render_text(replace(diverged, pairs=pairs), width=width, all_rows=True)
    rows = [
        line
        for line in text.splitlines()
        if line.split()[:1] in (["pass"], ["fault"], ["drift"]) and "own error" not in line
    ]
    assert len(rows) == 3
    assert not any(cell.endswith("…") for row in rows for cell in row.split()[2:] if cell[0].isdigit())
    assert max(map(len, text.splitlines())) <= width
