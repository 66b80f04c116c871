"""What the documents say of the code is so: options, defaults, metrics, links."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from aligndbg.backends.registry import REGISTRY, load
from aligndbg.cli.arguments import parser
from aligndbg.cli.main import main
from aligndbg.measure.results import Metrics
from aligndbg.measure.tolerance import LIMITS, default_tolerance

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.glob("*.md")])
PLUGIN = (ROOT / "aligndbg" / "pytest_plugin.py").read_text()
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z_-]+")


def anchors(page: Path) -> set[str]:
    """Headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


def options_of(parsed: argparse.ArgumentParser) -> Iterator[str]:
    for action in parsed._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from options_of(inner)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_options_that_are_written_of_exist(page: Path) -> None:
    known = {*options_of(parser()), *OPTION.findall(PLUGIN), "--junitxml", "--node_data_paths"}
    assert set(OPTION.findall(page.read_text())) <= known


def test_the_command_line_page_is_the_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    from make_cli import cli_page

    assert (DOCS / "cli.md").read_text() == cli_page(), "run python docs/make_cli.py"


def test_the_site_holds_every_page() -> None:
    listed = re.findall(r"^(\w[\w-]*)$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in DOCS.glob("*.md") if page.stem != "index")


TRANSCRIPT = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["tutorial.md"])
def test_transcripts_are_what_the_commands_print(
    page: str, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line shown, but for digits, is a line of what is printed; `...` stands for others."""

    def shape(line: str) -> str:
        return re.sub(r"[-+]?\d[\d.e+-]*", "#", " ".join(line.split()))

    for name in ("cnn.onnx", "cnn_weight_fault.tflite", "cnn_int8.tflite"):
        shutil.copy(fixtures / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    ran = 0
    for block in TRANSCRIPT.findall((DOCS / page).read_text()):
        printed: set[str] = set()
        for line in block.splitlines():
            if line.startswith("$ aligndbg "):
                main(shlex.split(line)[2:])
                printed = {shape(each) for each in capsys.readouterr().out.splitlines()}
                ran += 1
            elif line.startswith("$ echo"):
                continue
            elif line.strip() not in ("", "..."):
                assert shape(line) in printed, line
    assert ran > 3


def test_every_ini_option_of_the_pytest_plugin_is_described() -> None:
    from aligndbg.pytest_plugin import COUNTS, NUMBERS

    named = {
        *re.findall(r'addini\("(\w+)"', PLUGIN),
        "aligndbg_baselines",
        *(f"aligndbg_{n}" for n in NUMBERS + COUNTS),
    }
    table = section(DOCS / "pytest.md", "Defaults")
    assert set(re.findall(r"`(aligndbg_\w+)`", table)) == named


def section(page: Path, heading: str) -> str:
    """The text below one heading, to the next."""
    return page.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("name", REGISTRY)
def test_every_backend_is_described_with_its_options_and_files(name: str) -> None:
    text = section(DOCS / "backends.md", name)
    table = (DOCS / "backends.md").read_text().split("\n## ", 1)[0]
    options = load(REGISTRY[name].target).OPTIONS or {}
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(options)
    row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
    assert all(f"`{suffix}`" in row for suffix in REGISTRY[name].suffixes)


def test_every_metric_is_described() -> None:
    text = (DOCS / "metrics.md").read_text()
    for field in fields(Metrics):
        stem = re.sub(r"(reference|candidate)$", "", field.name)
        assert f"`{field.name}`" in text or (stem != field.name and f"`{stem}`" in text), field.name


def default_rows() -> Iterator[tuple[str, str, str]]:
    for line in section(DOCS / "tolerances.md", "Defaults").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) == 3 and "`" in cells[1]:
            yield cells[0], cells[1], cells[2]


@pytest.mark.parametrize(
    ("start", "dtype"),
    [
        ("float32", "float32"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        ("float64", "float64"),
        ("a quant", "int8"),
    ],
)
def test_the_default_tolerances_are_those_of_the_code(start: str, dtype: str) -> None:
    row = next(row for row in default_rows() if row[0].startswith(start))
    for cell, isolated in ((row[1], True), (row[2], False)):
        limits = default_tolerance(dtype, dtype, isolated=isolated)
        (name,) = [limit for limit in LIMITS if getattr(limits, limit) is not None]
        written, value = re.fullmatch(r"`(\w+)` (\S+)", cell).groups()  # type: ignore[union-attr]
        assert written == name
        assert float(value) == pytest.approx(getattr(limits, name), rel=0.03)


def test_the_hybrid_defaults_are_those_of_the_code() -> None:
    from aligndbg.measure.thresholds import HYBRID_REL_L2

    row = next(row for row in default_rows() if "dynamic" in row[0])
    assert float(row[1].split()[-1]) == HYBRID_REL_L2
