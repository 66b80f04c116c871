"""The notebooks as committed: outputs of one run in order, small, and nothing of the machine. .ci/run runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
MOST_BYTES = 150_000


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    chosen: Path = request.param
    return chosen


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_four() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first_diff", "int8_layers", "keras_to_int8", "pytorch_exports"]


def test_every_cell_was_run_in_order_and_none_failed(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [cell for cell in cells if any(output["output_type"] == "error" for output in cell["outputs"])]


def test_a_diff_is_shown_as_html(path: Path) -> None:
    shown = [output.get("data", {}) for cell in code_cells(path) for output in cell["outputs"]]
    assert any('class="aligndbg"' in "".join(data.get("text/html", "")) for data in shown)


def test_it_is_small_and_tells_nothing_of_the_machine(path: Path) -> None:
    text = path.read_text()
    assert len(text) < MOST_BYTES
    for word in ("/tmp", "/home/", "/root/", "/Users/", "site-packages", "iopub", "stderr"):
        assert word not in text, word
