"""The pytest plugin: a fixture, a marker, options. Nothing but pytest is imported before a test asks for it."""

from __future__ import annotations

import hashlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aligndbg.api import Diff

__all__ = ["AssertAligned", "assert_aligned"]

MARKER = "aligndbg"
BASELINES = "aligndbg_baselines"
NUMBERS = ("atol", "rtol", "min_cosine", "min_euclid", "min_sqnr", "max_lsb", "min_coverage", "timeout")
COUNTS = ("seed", "samples")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aligndbg", "two builds of one network, compared layer by layer")
    group.addoption(
        "--aligndbg-html", metavar="DIR", help="write one HTML page for each assert_aligned, in this folder"
    )
    group.addoption(
        "--aligndbg-update", action="store_true", help="write the baselines that changed; those tests still fail"
    )
    parser.addini("aligndbg_html", "folder of the HTML pages, as --aligndbg-html")
    parser.addini(BASELINES, f"folder of the baselines (default: {BASELINES} beside the test file)")
    parser.addini("aligndbg_tolerances", "tolerance rules, one a line, as --tol takes them", type="linelist")
    for name in (*NUMBERS, *COUNTS):
        parser.addini(f"aligndbg_{name}", f"default of the option {name} of aligndbg.diff")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARKER}(**options): defaults of assert_aligned in this test: options of aligndbg.diff, baseline"
    )


@pytest.fixture
def assert_aligned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AssertAligned:
    """Call it with two models (and inputs): the test fails unless they are aligned. See `AssertAligned`."""
    return AssertAligned(request.node, tmp_path_factory)


class AssertAligned:
    """`aligndbg.assert_aligned` with the defaults of the ini file and of the test's markers.

    `baseline=True` holds the result against a snapshot beside the test file (a string names it); --aligndbg-update
    writes it. Returns the Diff; the verdict and the report's path go into JUnit's properties.
    """

    def __init__(self, node: pytest.Item, folders: pytest.TempPathFactory) -> None:
        self._config, self._node, self._folders = node.config, node, folders
        self._calls = 0

    def __call__(
        self, reference: Any, candidate: Any, inputs: Any = None, *, baseline: bool | str | None = None, **options: Any
    ) -> Diff:
        __tracebackhide__ = True
        from aligndbg.api import AligndbgError, DivergedError
        from aligndbg.assertion.assert_aligned import assert_aligned

        self._calls += 1
        chosen = _ini_options(self._config) | _marked(self._node) | options
        marked = chosen.pop("baseline", None)
        baseline = marked if baseline is None else baseline
        html = self._html()
        name = f"aligndbg_{self._calls}" if self._calls > 1 else "aligndbg"
        try:
            found = assert_aligned(
                reference,
                candidate,
                inputs,
                baseline=self._baseline(baseline) if baseline else None,
                update_baseline=self._config.getoption("aligndbg_update"),
                html=html,
                folder=self._folders.getbasetemp() / "aligndbg" / _file_name(self._node.nodeid, self._calls),
                **chosen,
            )
        except DivergedError as error:
            self._record(error.diff, name, html)
            raise
        except AligndbgError as error:
            raise error.with_traceback(None) from None  # the user's to mend: our frames say nothing
        self._record(found, name, html)
        return found

    def _record(self, found: Diff | None, name: str, html: Path | None) -> None:
        properties = self._node.user_properties  # the fixture record_property warns of xunit2, which is the default
        if found is not None:
            properties.append((name, f"{found.verdict}: {found.verdict_reason}"))
            causes = (*found.causes, *(f.cause for f in found.faults if f.cause is not None))
            properties.extend((f"{name}_cause", f"{cause.kind}: {cause.summary}") for cause in causes)
        if html is not None:
            properties.append((f"{name}_html", str(html)))

    def _html(self) -> Path | None:
        """One file for each call: of no two tests the same, so that xdist's workers share the folder."""
        folder = self._config.getoption("aligndbg_html")
        if folder:
            folder = self._config.invocation_params.dir / folder
        elif self._config.getini("aligndbg_html"):
            folder = self._config.rootpath / self._config.getini("aligndbg_html")
        else:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        path: Path = folder / f"{_file_name(self._node.nodeid, self._calls)}.html"
        return path

    def _baseline(self, chosen: bool | str) -> Path:
        given = self._config.getini(BASELINES)
        folder = self._config.rootpath / given if given else self._node.path.parent / BASELINES
        if isinstance(chosen, str):
            name = _file_name(chosen, 1)
        else:
            name = _file_name(self._node.nodeid.split("::", 1)[-1], self._calls)
        return Path(folder / self._node.path.stem / f"{name}.json")


def _file_name(name: str, call: int) -> str:
    """A file name for a test: what has no place in one is replaced, and a hash then tells it from its like."""
    safe = re.sub(r"[^\w.-]+", "_", name.replace("::", ".")).strip("_")
    if safe != name.replace("::", ".") or len(safe) > 120:
        safe = f"{safe[:120]}-{hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:8]}"
    return f"{safe}-{call}" if call > 1 else safe


def _ini_options(config: pytest.Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (*NUMBERS, *COUNTS):
        text = str(config.getini(f"aligndbg_{name}") or "")
        if text:
            try:
                found[name] = int(text) if name in COUNTS else float(text)
            except ValueError:
                raise pytest.UsageError(f"ini option aligndbg_{name}: {text!r} is not a number") from None
    rules = config.getini("aligndbg_tolerances")
    return found | ({"tolerances": tuple(rules)} if rules else {})


def _marked(node: pytest.Item) -> dict[str, Any]:
    """The options of the test's markers, the closest one's last. Raises pytest.UsageError for one there is not."""
    from aligndbg.api import diff
    from aligndbg.assertion.assert_aligned import assert_aligned

    known = {
        name
        for function in (diff, assert_aligned)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    } - {"html", "folder", "update_baseline"}
    found: dict[str, Any] = {}
    for mark in reversed(list(node.iter_markers(MARKER))):
        if mark.args:
            raise pytest.UsageError(
                f"{node.nodeid}: @pytest.mark.aligndbg takes options by name, as in min_cosine=0.99"
            )
        unknown = sorted(set(mark.kwargs) - known)
        if unknown:
            names = ", ".join(sorted(known))
            raise pytest.UsageError(
                f"{node.nodeid}: @pytest.mark.aligndbg has no option {unknown[0]!r}; known: {names}"
            )
        found |= mark.kwargs
    return found
