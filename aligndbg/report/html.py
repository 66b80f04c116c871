"""Diff -> HTML: a fragment for notebooks, and one self-contained page. Every name from a model is escaped."""

from __future__ import annotations

import base64
import hashlib
import math
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from aligndbg.core.version import __version__
from aligndbg.report.causes import told
from aligndbg.report.chart import charts
from aligndbg.report.effects import all_corrected, effect_of
from aligndbg.report.page_data import page_data, script_json
from aligndbg.report.words import bar, clean, cosine, number
from aligndbg.result import Result

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["fragment", "to_html"]

NOTEBOOK_ROWS = 60
COVERAGE = ("compared", "unobservable", "one_sided", "unmatched")


def fragment(diff: Result, rows: int = NOTEBOOK_ROWS) -> str:
    """The summary, the error against depth and the first rows, worst first where there are more than `rows`."""
    numbered = list(enumerate(diff.pairs))
    if len(numbered) > rows:
        worst = {id(m) for m in diff.worst(rows)}
        numbered = [(k, m) for k, m in numbered if id(m) in worst]
    return _render("fragment.html.j2", diff, numbered, css=_file("fragment.css"))


def to_html(diff: Result) -> str:
    """The whole report as one page without any outside reference.

    Its policy lets no script run but its own, and nothing be loaded. Without scripts (some CI viewers refuse them) all
    but the pictures of the pairs and the graphs is there.
    """
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _render(
        "page.html.j2",
        diff,
        list(enumerate(diff.pairs)),
        css=_file("fragment.css") + _file("page.css"),
        script=script,
        digest=digest,
        data=script_json(page_data(diff)),
        version=__version__,
        statuses={s: sum(m.status == s for m in diff.pairs) for s in ("fault", "drift", "unknown", "pass")},
        pictured=any(m.detail is not None for m in diff.pairs),
        has_graphs=all(graph.nodes for graph in diff.graphs),
    )


def _render(template: str, diff: Result, rows: list[Any], **more: Any) -> str:
    from markupsafe import Markup

    safe = {key: Markup(more.pop(key)) for key in ("css", "script", "data") if key in more}  # ours, or made safe
    quantized = any(m.metrics.lsb_max is not None for m in diff.pairs)
    place = {m.pair.reference: k for k, m in enumerate(diff.pairs)}
    places = [place.get(f.reference or "", -1) for f in diff.faults]
    return (
        _environment()
        .get_template(template)
        .render(
            diff=diff,
            matching=diff.matching,
            rows=rows,
            charts=charts(diff),
            quantized=quantized,
            coverage=COVERAGE,
            places=places,
            whole=[told(c) for c in diff.causes],
            causes=[told(f.cause) if f.cause is not None else None for f in diff.faults],
            effects=[effect_of(f, diff) for f in diff.faults],
            all_corrected=all_corrected(diff),
            **safe,
            **more,
        )
    )


@lru_cache(maxsize=3)
def _file(name: str) -> str:
    return (files("aligndbg.report") / "templates" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("aligndbg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = number
    made.filters["bar"] = bar
    made.filters["share"] = _share
    made.filters["cosine"] = cosine
    made.filters["lines"] = _lines
    made.filters["facts"] = _facts
    return made


def _visible(value: Any) -> Any:
    """Control characters in names shown; markup is escaped after this, and what is marked safe is ours."""
    return clean(value) if type(value) is str else value


def _lines(text: str) -> Any:
    """A text of ours with line breaks, its names cleaned already."""
    from markupsafe import escape

    return escape(text)


def _share(value: float, error: tuple[float, float, str]) -> int:
    """An error as percents of a bar: of steps, as many as the larger one has; else logarithmic."""
    greatest = max(error[:2])
    return bar(value) if error[2] != "LSB" or not math.isfinite(greatest) else round(100 * value / (greatest or 1))


def _facts(value: Any) -> str:
    """A check's finding in words: its parts by name, a list, or itself."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not checked"}[value]
    if hasattr(value, "items"):
        return ", ".join(f"{key}: {_facts(found)}" for key, found in value.items()) or "none"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(str, value)) or "none"
    return number(value) if isinstance(value, float) else str(value)
