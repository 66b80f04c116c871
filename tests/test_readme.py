"""The README's two commands and its transcript are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aligndbg.cli.main import main

ROOT = Path(__file__).parent.parent
TEST_LINE = '.venv/bin/pip install -q -e ".[test]" && .venv/bin/python -m pytest -n auto'


def test_the_test_command_is_the_one_of_ci_and_contributing() -> None:
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        assert TEST_LINE in (ROOT / name).read_text(), name


def transcript() -> list[str]:
    text = (ROOT / "README.md").read_text()
    inside = text.split("<!-- transcript: begin -->", 1)[1].split("<!-- transcript: end -->", 1)[0]
    return [line.removeprefix("    ") for line in inside.strip("\n").splitlines() if line != "```"]


def test_the_readmes_transcript_is_what_the_demo_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Line by line, but for folders, versions and digits, which depend on where it runs."""
    assert main(["demo"]) == 0
    printed = capsys.readouterr().out.splitlines()
    written = transcript()
    assert written[0].startswith("$ ")

    def shape(line: str) -> str:
        return re.sub(r"\s+", " ", re.sub(r"[-+]?\d[\d.e+-]*|\S*/(reference|candidate)\.", "#", line)).strip()

    def kept(lines: list[str]) -> list[str]:
        return [shape(line) for line in lines if line.strip() and not line.startswith(("reference  ", "candidate  "))]

    assert kept(written[1:]) == kept(printed)
    assert max(map(len, written)) <= 80
