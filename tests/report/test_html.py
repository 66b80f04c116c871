"""Diff -> HTML: self-contained, escaped, bounded, and with the faults. What a browser makes of it: test_page.py."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

import aligndbg
from aligndbg import MemoryBackend, MemoryNode
from aligndbg.core.types import Cause, Graph, Layout, LayoutKind, Node, Unmatched, UnmatchedClass
from aligndbg.diff_result import Diff
from aligndbg.measure.detail import detail
from aligndbg.measure.metrics import compare
from aligndbg.report.chart import charts
from aligndbg.report.html import fragment, to_html
from aligndbg.report.page_data import page_data

VOID = ("meta", "br", "input")


class Tags(HTMLParser):
    """The tags of a document, their attributes, its visible text, and which tags were never closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style", "title"} & set(self.open):
            self.text += data


def test_both_forms_are_well_formed_and_hold_no_handler(
    aligned: Diff, diverged: Diff, silent: Diff, hostile: Diff
) -> None:
    for diff in (aligned, diverged, silent, hostile):
        for text in (fragment(diff), to_html(diff)):
            tags = Tags(text)
            assert tags.open == []
            assert not {name for name in tags.attributes if name.startswith("on") or name in ("src", "href")}
            assert not {"b>", "i>", "u>", "blink"} & set(tags.seen)


def test_hostile_names_are_shown_not_obeyed(hostile: Diff) -> None:
    for text in (fragment(hostile), to_html(hostile)):
        assert all(ch.isprintable() or ch == "\n" for ch in text)
        shown = Tags(text).text
        assert "<script>alert(1)</script>" in shown
        assert "\\x1b[31m\\x9b\\x202e\\x0aend" in shown
    page = to_html(hostile)
    assert page.count("<script") == page.count("</script>") == 2  # the data and the script


def test_the_data_is_json_and_cannot_leave_its_element(hostile: Diff) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', to_html(hostile), re.DOTALL)
    assert found is not None
    assert not set("<>&") & set(found[1])
    assert json.loads(found[1])["pairs"][0]["r"] == "<script>alert(1)</script>"


def test_a_page_loads_nothing_and_runs_its_own_script_only(diverged: Diff) -> None:
    page = to_html(diverged)
    assert "default-src 'none'" in page
    assert "script-src 'sha256-" in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "@import" not in page
    assert "url(" not in page


def test_the_page_is_the_same_for_the_same_diff(diverged: Diff) -> None:
    assert to_html(diverged) == to_html(diverged)


def test_long_runs_show_the_worst_rows_in_the_fragment(diverged: Diff) -> None:
    short = fragment(diverged, rows=2)
    assert len(re.findall(r"<tr class=", short)) == 2
    assert "2 worst of 3 pairs" in short
    assert len(re.findall(r"<tr class=", to_html(diverged))) == 3


def test_faults_and_causes(diverged: Diff) -> None:
    assert "fault 1" in Tags(fragment(diverged)).text
    rows = [
        {"op": "Conv", "attribute": "pads", "reference": [0, 1], "candidate": "<b>", "same": False},
        {"op": "Conv", "attribute": "group", "reference": 1, "candidate": 1, "same": True},
    ]
    details = {"unit": "rel_l2", "change": "carry it over", "attributes": rows}
    cause = Cause("missing_bias", "it adds <0.5>", 0.31, 4e-7, details)
    told = replace(diverged, faults=(replace(diverged.faults[0], cause=cause, candidate=None),), truncated=True)
    for text in (fragment(told), to_html(told)):
        shown = Tags(text).text
        assert "missing bias: it adds <0.5>" in shown
        for part in ("carry it over", "0.31 relative L2", "4.0e-07 relative L2", "Conv.pads[0, 1]<b>"):
            assert part in shown
        assert "group" not in shown
        assert "None" not in shown
        assert "--max-faults" in shown


def test_a_cause_of_the_whole_pair_comes_before_the_faults(diverged: Diff) -> None:
    told = replace(diverged, causes=(Cause("flip", "it is fed a mirrored image", 40.0, 1.0, {"unit": "lsb"}),))
    for text in (fragment(told), to_html(told)):
        shown = Tags(text).text
        assert shown.index("the whole pair") < shown.index("flip: it is fed a mirrored image") < shown.index("fault 1")
        assert re.search(r"width:100%.*width:2%", text, re.DOTALL)  # one step of forty


def test_without_scripts_the_page_still_has_the_verdict_the_chart_and_every_row(diverged: Diff) -> None:
    shown = Tags(to_html(diverged)).text
    for text in ("DIVERGED", "shifted", "relative L2 error against depth", "Scripts are off here"):
        assert text in shown


def test_what_was_not_compared_is_listed_by_class(aligned: Diff) -> None:
    lost = (
        Unmatched("one", "Pad", UnmatchedClass.ONE_SIDED, "a helper"),
        Unmatched("two", "Op", UnmatchedClass.UNMATCHED, "no value agrees"),
    )
    shown = Tags(to_html(replace(aligned, matching=replace(aligned.matching, unmatched_candidate=lost)))).text
    assert "candidate: 1 one-sided" in shown
    assert "candidate: 1 unmatched" in shown
    assert "no value agrees" in shown


def test_undefined_values_are_dashes(silent: Diff) -> None:
    shown = Tags(to_html(silent)).text
    assert "nan" not in shown
    row = next(m for m in page_data(silent)["pairs"] if m["r"] == "y")
    assert None in row["m"]
    assert "the reference is all zero" in row["why"].values()


def test_a_run_without_pictures_says_so() -> None:
    model = [
        MemoryBackend(inputs={"x": (2, 3)}, nodes=[MemoryNode("Tanh", np.tanh, ("x",), ("y",))], outputs=["y"])
        for _ in "rc"
    ]
    with_them, without = (aligndbg.diff(*model, details=details) for details in (True, False))
    assert with_them.pairs[0].detail is not None
    assert without.pairs[0].detail is None
    assert "No pictures" not in to_html(with_them)
    assert "No pictures" in to_html(without)


def test_a_diff_without_pairs_has_a_page(aligned: Diff) -> None:
    empty = replace(aligned, pairs=())
    assert charts(empty) == []
    assert "No tensors were paired." in Tags(to_html(empty)).text
    assert Tags(fragment(empty)).open == []


def test_a_thousand_pairs_stay_under_ten_megabytes(diverged: Diff) -> None:
    """Each with the largest picture there is, long names, and a node of eight inputs and attributes."""
    rng = np.random.default_rng(0)
    r, d = rng.standard_normal((2, 2, 64, 64, 64))
    metrics = compare(r, r + 0.01 * d)
    picture = detail(r, r + 0.01 * d, metrics, (0.0, 0.0))
    name = "functional_1/block_{}/batch_normalization_{}/batchnorm/add_1;functional_1/conv2d_{}/convolution"
    names = [name.format(k, k, k) for k in range(1000)]
    layout = Layout(LayoutKind.IDENTITY, r.shape, (0, 1, 2, 3), r.shape, r.shape)
    first = replace(diverged.pairs[0], metrics=metrics, isolated=metrics, detail=picture)
    pairs = tuple(replace(first, pair=replace(first.pair, reference=n, candidate=n, layout=layout)) for n in names)
    attributes = {f"attribute_{k}": [1, 2, 3, 4] for k in range(8)}
    nodes = tuple(
        Node("CONV_2D", f"CONV_2D:{k}", tuple(names[max(0, k - 8) : k]), (n,), attributes) for k, n in enumerate(names)
    )
    page = to_html(replace(diverged, pairs=pairs, graphs=(Graph(nodes), Graph(nodes))))
    assert len(page.encode()) < 10_000_000
