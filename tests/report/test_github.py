"""The job summary: what it says, and that no name from a model becomes markup."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aligndbg.cli.main import main
from aligndbg.core.errors import UsageError
from aligndbg.core.types import Cause
from aligndbg.diff_result import Diff


def test_it_says_what_is_wrong_and_where(diverged: Diff) -> None:
    text = diverged.to_markdown()
    assert text.startswith("### ❌ DIVERGED: 1 fault\n")
    assert "**Fault 1**: Add against Add, own error" in text
    assert "- reference <code>shifted</code>" in text
    assert re.search(r"^\| fault \| <code>shifted</code> \| <code>shifted</code> \| Add ~ Add \|", text, re.MULTILINE)


def test_it_tells_causes_of_the_pair_as_a_whole(diverged: Diff) -> None:
    text = replace(diverged, causes=(Cause("flip", "the candidate is fed a <mirrored> image"),)).to_markdown()
    assert "- **flip**: the candidate is fed a &lt;mirrored&gt; image" in text


def test_every_table_has_one_width(hostile: Diff, diverged: Diff) -> None:
    for diff in (hostile, diverged):
        tables = re.findall(r"(?:^\|.*\n)+", diff.to_markdown(), re.MULTILINE)
        assert len(tables) == 2
        for table in tables:
            assert len({line.count("|") for line in table.splitlines()}) == 1


def test_causes_are_told(diverged: Diff) -> None:
    rows = [{"op": "Conv", "attribute": "pads", "reference": [0, 1], "candidate": [1, 0], "same": False}]
    cause = Cause("padding", "it pads (1,0)", 0.5, 0.0, {"change": "pad by (0,1)", "attributes": rows})
    whole = Cause("flip", "a mirrored image")
    fault = replace(diverged.faults[0], cause=cause, reference_scope="net.stem (nets.py:7)")
    text = html.unescape(replace(diverged, faults=(fault,), causes=(whole,)).to_markdown())
    assert "- reference <code>shifted</code> in <code>net.stem (nets.py:7)</code>\n" in text
    assert text.index("- **flip**: a mirrored image") < text.index("**Fault 1**")
    assert (
        text.index("**Fault 1**") < text.index("- **padding**: it pads (1,0)") < text.index("to change: pad by (0,1)")
    )
    assert "Conv.pads: <code>[0, 1]</code> against <code>[1, 0]</code>" in text


def test_names_become_no_markup(hostile: Diff) -> None:
    text = hostile.to_markdown()
    seen: set[str] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            seen.add(tag)

    Tags().feed(text)
    assert seen == {"code"}
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not re.search(r"\[bold red\]|\]\(", text)


def test_it_is_added_to_the_jobs_summary(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    pair = [str(demo / "reference.onnx"), str(demo / "candidate.tflite")]
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert main(["diff", *pair, "--no-isolate", "--github"]) == 1
    assert summary.read_text().startswith("before\n### ❌ DIVERGED")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "folder"))
    assert main(["diff", *pair, "--no-isolate", "--github"]) == 2
    assert "cannot write it" in capsys.readouterr().err


def test_elsewhere_it_is_an_error_before_anything_runs(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], diverged: Diff
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    with pytest.raises(UsageError, match="GITHUB_STEP_SUMMARY"):
        diverged.to_github()
    assert main(["diff", str(demo / "reference.onnx"), "missing.tflite", "--github"]) == 2
    assert "GITHUB_STEP_SUMMARY" in capsys.readouterr().err
