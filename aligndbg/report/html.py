"""Diff -> HTML: a fragment for notebooks, and one self-contained page. Every name from a model is escaped by jinja2."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aligndbg.report.terminal import number

if TYPE_CHECKING:
    from jinja2 import Environment

    from aligndbg._diff import Diff

__all__ = ["fragment", "to_html"]

NOTEBOOK_ROWS = 60


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(loader=PackageLoader("aligndbg.report"), autoescape=True, undefined=StrictUndefined)
    made.filters["number"] = number
    return made


def fragment(diff: Diff, rows: int = NOTEBOOK_ROWS) -> str:
    """The summary and the first rows, worst first where there are more than `rows`."""
    shown = list(diff.pairs) if len(diff.pairs) <= rows else diff.worst(rows)
    return _environment().get_template("fragment.html.j2").render(_context(diff) | {"rows": shown})


def to_html(diff: Diff) -> str:
    """The whole report as one page without any outside reference."""
    return _environment().get_template("page.html.j2").render(_context(diff) | {"rows": list(diff.pairs)})


def _context(diff: Diff) -> dict[str, Any]:
    return {"diff": diff, "matching": diff.matching}
