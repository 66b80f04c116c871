"""The page in a real browser: it opens without an error, sorts, filters, opens pairs, draws both graphs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg import MemoryBackend, MemoryNode
from aligndbg.diff_result import Diff

playwright = pytest.importorskip("playwright.sync_api")

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, else the one that Playwright installed."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as running:
        try:
            found = running.chromium.launch(
                executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else []
            )  # Chromium refuses a sandbox to root
        except playwright.Error as error:
            pytest.skip(f"no browser starts here: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a Diff's page; the test fails if the browser logs an error, asks for another file, or shows a dialog."""
    wrong: list[str] = []
    stack = ExitStack()

    def open_page(diff: Diff, **options: Any) -> Any:
        file = tmp_path / "report.html"
        diff.to_html(file)
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        stack.callback(context.close)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda r: wrong.append(r.url) if r.url != file.as_uri() else None)
        page.goto(file.as_uri())
        return page

    with stack:
        yield open_page
        assert wrong == []


@pytest.fixture(scope="module")
def demo() -> Diff:
    folder = Path(aligndbg.__file__).parent / "demo"
    return aligndbg.diff(folder / "reference.onnx", folder / "candidate.tflite")


def shown(page: Any) -> list[int]:
    """The numbers of the visible rows, from the top."""
    found: list[int] = page.evaluate(
        "[...document.querySelectorAll('.pairs tr[data-pair]')].filter(r => !r.hidden).map(r => Number(r.dataset.pair))"
    )
    return found


def test_it_sorts_by_every_column_and_back(opened: Callable[..., Any], demo: Diff) -> None:
    page = opened(demo)
    assert shown(page) == list(range(len(demo.pairs)))
    page.click("th[data-key=rel_l2] button")
    errors = [demo.pairs[k].metrics.rel_l2 for k in shown(page)]
    assert errors == sorted(errors, reverse=True)
    assert page.get_attribute("th[data-key=rel_l2]", "aria-sort") == "descending"
    page.click("th[data-key=rel_l2] button")
    assert [demo.pairs[k].metrics.rel_l2 for k in shown(page)] == sorted(errors)
    page.click("th[data-key=cosine] button")
    cosines = [round(demo.pairs[k].metrics.cosine, 8) for k in shown(page)]
    assert cosines == sorted(cosines)
    page.click("th[data-key=status] button")
    assert demo.pairs[shown(page)[0]].status == "fault"
    page.click("th[data-key=r] button")
    page.click("th[data-key=k] button")
    assert shown(page) == list(range(len(demo.pairs)))


def test_undefined_values_sort_last_either_way(opened: Callable[..., Any], silent: Diff) -> None:
    page = opened(silent)
    for _ in range(2):
        page.click("th[data-key=rel_l2] button")
        assert silent.pairs[shown(page)[-1]].pair.reference == "y"


def test_it_filters_by_text_status_and_outputs(opened: Callable[..., Any], demo: Diff) -> None:
    page = opened(demo)
    page.fill("#find", "depthwise_conv")
    assert shown(page) == [k for k, m in enumerate(demo.pairs) if "DEPTHWISE" in m.candidate_op]
    assert page.inner_text("#shown") == f"{len(shown(page))} of {len(demo.pairs)} pairs"
    page.fill("#find", "")
    page.click(".chip.drift")
    assert {str(demo.pairs[k].status) for k in shown(page)} == {"pass", "fault"}
    page.click(".chip.drift")
    page.click("#outputs")
    assert [demo.pairs[k].pair.reference for k in shown(page)] == list(demo.outputs)


def test_a_fault_opens_its_pair_with_pictures_elements_and_both_nodes(opened: Callable[..., Any], demo: Diff) -> None:
    page = opened(demo)
    page.fill("#find", "nothing is called so")
    assert shown(page) == []
    page.click(".card .go")
    panel = page.locator(".panel")
    assert panel.count() == 1
    assert panel.locator("svg[aria-label='histogram of both sides'] rect.ref").count() > 10
    assert panel.locator("svg[aria-label='candidate against reference'] circle").count() > 100
    assert panel.locator("canvas").count() == 3
    text = panel.inner_text()
    for words in ("largest differences", "bad elements", "in the candidate", "Relu", "CONV_2D", "padding", "own error"):
        assert words in text, words
    k = next(k for k, m in enumerate(demo.pairs) if m.status == "fault")
    page.click(f"#p{k} .state button")
    assert panel.count() == 0


def test_a_picture_shows_where_the_tensors_differ(opened: Callable[..., Any]) -> None:
    """One channel of eight is off: one bar along its axis, one row of the map."""

    def model(error: float) -> MemoryBackend:
        shift = np.zeros((1, 8, 1, 1), np.float32)
        shift[0, 5] = error
        return MemoryBackend(
            inputs={"x": (1, 8, 6, 7)},
            nodes=[MemoryNode("Add", lambda x: x + shift, ("x",), ("y",))],
            outputs=["y"],
        )

    page = opened(aligndbg.diff(model(0.0), model(0.5)))
    page.click("#p0 .state button")
    bars = page.locator("svg[aria-label='max difference along axis 1'] rect title").all_text_contents()
    assert bars == ["axis 1 [5]: 0.5"]
    lit = page.evaluate(
        """() => [...document.querySelectorAll("canvas")].map(c => {
        const px = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        return [c.width, c.height, px.filter((v, i) => i % 4 === 3 && v > 0).length]; })"""
    )
    assert lit == [[7, 6, 42], [7, 8, 7], [6, 8, 6]]


def test_the_keyboard_opens_a_pair_and_a_link_leads_to_it(opened: Callable[..., Any], demo: Diff) -> None:
    page = opened(demo)
    page.focus("#p2 .state button")
    page.keyboard.press("Enter")
    assert page.get_attribute("#p2 .state button", "aria-expanded") == "true"
    page.click("circle.acc[data-pair='4']")
    assert page.evaluate("location.hash") == "#p4"
    page.reload()
    assert page.locator("tr.open").get_attribute("id") == "p4"


def test_both_graphs_are_drawn_linked_and_lead_to_the_pairs(opened: Callable[..., Any], demo: Diff) -> None:
    page = opened(demo)
    page.click("#graph summary")
    page.wait_for_selector(".graph .link", state="attached")
    assert page.locator(".graph .link").count() == len(demo.pairs)
    assert page.locator(".graph rect").count() == sum(
        not set(n.outputs) <= graph.constants for graph in demo.graphs for n in graph.nodes
    )
    page.locator(".graph g[data-pair='3']").first.click()
    assert page.locator("tr.open").get_attribute("id") == "p3"
    page.click(".panel .go")
    assert page.locator(".graph rect.chosen").count() == 2


def test_names_from_a_model_do_nothing(opened: Callable[..., Any], hostile: Diff) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    first = hostile.pairs[0]
    pairs = (replace(first, pair=replace(first.pair, candidate=evil), reason=evil), *hostile.pairs[1:])
    page = opened(replace(hostile, pairs=pairs))
    for k in range(len(pairs)):
        page.click(f"#p{k} .state button")
    page.click("#graph summary")
    page.wait_for_selector(".graph rect")
    assert evil in page.inner_text(".panel >> nth=0")
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(opened: Callable[..., Any], demo: Diff, scheme: str) -> None:
    page = opened(demo, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.click("#p3 .state button")
    page.click("#graph summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    back, front = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (brightness(back) > brightness(front)) == (scheme == "light")


def brightness(colour: str) -> int:
    """Of `rgb(1, 2, 3)`."""
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))
