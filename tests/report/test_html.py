"""Diff -> HTML: self-contained, escaped, and with the faults."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from aligndbg._diff import Diff
from aligndbg._types import Cause
from aligndbg.report.html import fragment, to_html


class Tags(HTMLParser):
    """The tags of a document, their attributes, and which were never closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


TAGS = "html head meta title style body h1 h2 div p strong table thead tbody tr th td code br"


def test_both_forms_are_well_formed(aligned: Diff, diverged: Diff, silent: Diff, hostile: Diff) -> None:
    for diff in (aligned, diverged, silent, hostile):
        for text in (fragment(diff), to_html(diff)):
            tags = Tags(text)
            assert tags.open == []
            assert set(tags.seen) <= set(TAGS.split())
            assert tags.attributes <= {"class", "title", "lang", "charset", "name", "content"}


def test_hostile_names_are_shown_not_obeyed(hostile: Diff) -> None:
    for text in (fragment(hostile), to_html(hostile)):
        assert all(ch.isprintable() or ch == "\n" for ch in text)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert "\\x1b[31m\\x9b\\x202e\\x0aend" in text


def test_the_page_has_what_the_fragment_leaves_out(diverged: Diff) -> None:
    assert "<style>" in to_html(diverged)
    assert "<style>" not in fragment(diverged)


def test_long_runs_show_the_worst_rows_in_the_fragment(diverged: Diff) -> None:
    short = fragment(diverged, rows=2)
    assert short.count("<tr class=") == 2
    assert "2 worst of 3 pairs" in short
    assert to_html(diverged).count("<tr class=") == 3


def test_faults_and_causes(diverged: Diff) -> None:
    assert "fault 1" in fragment(diverged)
    cause = Cause("bias", "it adds <0.5>")
    told = replace(diverged, faults=(replace(diverged.faults[0], cause=cause, candidate=None),), truncated=True)
    text = fragment(told)
    assert "bias: it adds &lt;0.5&gt;" in text
    assert "None" not in text
    assert "--max-faults" in text


def test_undefined_values_are_dashes(silent: Diff) -> None:
    assert "nan" not in to_html(silent).replace("unknown", "")
