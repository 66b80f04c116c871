"""Diff -> HTML: a fragment for notebooks, and one self-contained page. Every name from a model is escaped."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aligndbg.report.terminal import clean, number

if TYPE_CHECKING:
    from jinja2 import Environment

    from aligndbg._diff import Diff

__all__ = ["fragment", "to_html"]

NOTEBOOK_ROWS = 60


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("aligndbg.report"), autoescape=True, undefined=StrictUndefined, finalize=_visible
    )
    made.filters["number"] = number
    return made


def _visible(value: Any) -> Any:
    """Control characters in names shown; markup is escaped after this."""
    return clean(value) if isinstance(value, str) else value


def fragment(diff: Diff, rows: int = NOTEBOOK_ROWS) -> str:
    """The summary and the first rows, worst first where there are more than `rows`."""
    shown = list(diff.pairs) if len(diff.pairs) <= rows else diff.worst(rows)
    return _environment().get_template("fragment.html.j2").render(_context(diff) | {"rows": shown})


def to_html(diff: Diff) -> str:
    """The whole report as one page without any outside reference."""
    return _environment().get_template("page.html.j2").render(_context(diff) | {"rows": list(diff.pairs)})


def _context(diff: Diff) -> dict[str, Any]:
    return {"diff": diff, "matching": diff.matching}
