"""The terminal's table of pairs: which rows, which columns, in what order, fitted to a width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aligndbg.core.errors import UsageError, nearest
from aligndbg.core.types import Cause, Status
from aligndbg.measure.results import Masked, Measurement
from aligndbg.report.causes import causes_of_tensors
from aligndbg.report.frame import METRIC_COLUMNS, SAMPLE_COLUMNS
from aligndbg.report.words import bar, clean, cosine, number, shape_text
from aligndbg.result import Result

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["TableView", "chosen_rows", "pairs_table"]

STATUS_STYLE = {Status.PASS: "green", Status.DRIFT: "yellow", Status.FAULT: "bold red", Status.UNKNOWN: "magenta"}
COLOURS = {"bar": "cyan"}
GRAVITY = (Status.FAULT, Status.DRIFT, Status.UNKNOWN, Status.PASS)
BAR = 10
NARROWEST = 8  # of a column of text
HEADERS = {
    "index": "#",
    "bar": "1e-8…1",
    "rel_l2": "rel L2",
    "rel_l2_median": "median",
    "rel_l2_p90": "p90",
    "rel_l2_p99": "p99",
    "rel_l2_worst": "worst",
    "worst_sample": "sample",
    "isolated_rel_l2": "own",
    "max_abs": "max abs",
    "lsb_max": "LSB",
    "isolated_lsb_max": "own LSB",
}
CAUSE = ("cause", "cause_summary")
TEXTS = ("reference", "candidate", "op", "status", "reason", "layout", "shape", "method", "evidence", *CAUSE)
SMALL_IS_BAD = ("cosine", "euclid", "sqnr_db", "confidence")
Row = tuple[int, Measurement]
Causes = Mapping[str, Cause]  # by reference tensor


@dataclass(frozen=True)
class TableView:
    """What the terminal's table shows; each part left out is chosen for the run and the width.

    `sort` is a column: errors come largest first, similarities smallest first, undefined first of all. `only` keeps
    pairs that fit any of its words: a status, "outputs", or a glob pattern of a tensor or an operator. `columns` are
    the names of `to_frame()`, and "index", "op", "bar", "evidence". Raises UsageError for a column there is none of.
    """

    sort: str = ""
    only: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = (*TEXTS, "index", "bar", "confidence", *METRIC_COLUMNS, *(f"isolated_{n}" for n in METRIC_COLUMNS))
        known += SAMPLE_COLUMNS
        for name in (*self.columns, *([self.sort] if self.sort else [])):
            if name not in known:
                raise UsageError(f"there is no column {name!r}", hint=nearest(name, known))

    @property
    def is_set(self) -> bool:
        """True where the user chose rows, an order or columns."""
        return bool(self.sort or self.only or self.columns)


def chosen_rows(diff: Result, view: TableView) -> list[Row]:
    """The numbered pairs that `view` keeps, in its order."""
    rows = [(k, m) for k, m in enumerate(diff.pairs) if not view.only or _wanted(m, diff, view.only)]
    if view.sort:
        key = _sort_key(view.sort, causes_of_tensors(diff))
        rows.sort(key=lambda row: (key(*row), row[0]))
    return rows


def _wanted(m: Measurement, diff: Result, words: Iterable[str]) -> bool:
    names = (m.pair.reference, m.pair.candidate, m.reference_op, m.candidate_op)
    return any(
        word == m.status
        or (word == "outputs" and m.pair.reference in diff.outputs)
        or any(fnmatchcase(name, word) for name in names)
        for word in words
    )


def _sort_key(name: str, causes: Causes) -> Callable[[int, Measurement], Any]:
    """Ascending keys that put what is worst first."""
    if name == "status":
        return lambda k, m: GRAVITY.index(m.status)
    if name == "index":
        return lambda k, m: k
    if name in TEXTS:
        return lambda k, m: _text(name, m, causes)
    if name == "bar":
        name = "rel_l2"
    sign = 1 if name.removeprefix("isolated_") in SMALL_IS_BAD else -1

    def key(k: int, m: Measurement) -> tuple[int, float]:
        value = _value(name, m)
        if value is None:
            return 2, 0.0  # there is no such number, as of a pair that was not isolated
        return (0, 0.0) if value != value else (1, sign * value)

    return key


def _value(name: str, m: Measurement) -> float | None:
    if name == "confidence":
        return m.pair.confidence
    if name in SAMPLE_COLUMNS:
        spread = (m.samples or {}).get(name)
        return None if spread is None else float(spread)
    source = m.isolated if name.startswith("isolated_") else m.metrics
    value = getattr(source, name.removeprefix("isolated_"), None)
    if isinstance(value, Masked):
        value = value.count
    return None if value is None else float(value)


def _text(name: str, m: Measurement, causes: Causes) -> str:
    if name in CAUSE:
        cause = causes.get(m.pair.reference, Cause("", ""))
        return cause.kind if name == "cause" else cause.summary
    if name == "op":
        return f"{m.reference_op or '-'} ~ {m.candidate_op or '-'}"
    if name == "layout":
        return str(m.pair.layout.kind)
    if name == "shape":
        return shape_text(m.pair.layout.reference_shape)
    return str(getattr(m if name in ("status", "reason") else m.pair, name))


def pairs_table(
    rows: Sequence[Row], view: TableView, width: int, causes: Causes = MappingProxyType({}), *, blocks: bool = True
) -> Table:
    """The table, at most `width` wide; `blocks` is False for terminals that cannot write them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    columns = view.columns or _columns(rows, width)
    cells = {name: [_cell(name, k, m, causes, blocks) for k, m in rows] for name in columns}
    widths = _widths(cells, width - len(columns) + 1)  # a space between two
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for name in columns:
        left = name in TEXTS or name == "bar"
        table.add_column(_header(name, widths[name]), justify="left" if left else "right", no_wrap=True)
    for i, (_, m) in enumerate(rows):
        style = STATUS_STYLE[m.status]
        table.add_row(
            *(
                Text(
                    _fitted(name, cells[name][i], m, widths[name]), style if name == "status" else COLOURS.get(name, "")
                )
                for name in columns
            )
        )
    return table


def _columns(rows: Sequence[Row], width: int) -> tuple[str, ...]:
    """Accumulated and own error, in quantization steps too where the candidate has them; more where there is room."""
    quantized = any(m.metrics.lsb_max is not None for _, m in rows)
    isolated = any(m.isolated is not None for _, m in rows)
    sampled = any(m.samples is not None for _, m in rows)
    wide, wider = width >= 100, width >= 120
    chosen = {
        "status": True,
        "reference": True,
        "candidate": wider,
        "op": True,
        "rel_l2": True,
        "rel_l2_median": sampled,
        "rel_l2_p90": sampled and wide,
        "worst_sample": sampled,
        "isolated_rel_l2": isolated and (wide or not quantized),
        "lsb_max": quantized,
        "isolated_lsb_max": quantized and isolated,
        "bar": width >= (100 if sampled else 70),
        "max_abs": wide,
        "cosine": True,
    }
    return tuple(name for name, shown in chosen.items() if shown)


def _header(name: str, width: int) -> str:
    return clean(HEADERS.get(name, name.replace("isolated_", "own ").replace("_", " ")), width)


def _cell(name: str, k: int, m: Measurement, causes: Causes, blocks: bool) -> str:
    if name == "index":
        return str(k)
    if name == "bar":
        return _bar(_value("rel_l2", m), _value("isolated_rel_l2", m), "█░" if blocks else "#.")
    if name in TEXTS:
        return _text(name, m, causes)
    value = _value(name, m)
    if name.endswith("cosine"):
        return cosine(value)
    return number(int(value) if value is not None and value.is_integer() and abs(value) < 1e6 else value)


def _fitted(name: str, cell: str, m: Measurement, width: int) -> str:
    """A cell in its width; of two operators, the longer one gives way."""
    if name != "op" or len(clean(cell)) <= width:
        return clean(cell, width)
    left, right = clean(m.reference_op or "-"), clean(m.candidate_op or "-")
    room = width - 3
    first = min(len(left), max(room // 2, room - len(right)))
    return f"{clean(left, first)} ~ {clean(right, room - first)}"


def _bar(accumulated: float | None, own: float | None, marks: str) -> str:
    """Logarithmic, 1e-8 to 1: full up to the own error, light up to the accumulated one; `?` where undefined."""
    if accumulated is not None and accumulated != accumulated:
        return "?"
    full, light = (-(-bar(v) * BAR // 100) for v in (own, accumulated))
    return marks[0] * full + marks[1] * (light - full)


def _widths(cells: dict[str, list[str]], room: int) -> dict[str, int]:
    """Each column's own width; where they do not fit, the longest columns of text give way."""
    natural = {
        name: max([len(_header(name, 99)), *(len(clean(text)) for text in column)]) for name, column in cells.items()
    }
    if "bar" in natural:
        natural["bar"] = BAR
    texts = [name for name in natural if name in TEXTS and name != "status"]
    left = room - sum(width for name, width in natural.items() if name not in texts)
    cap = max((natural[name] for name in texts), default=0)
    while cap > NARROWEST and sum(min(natural[name], cap) for name in texts) > left:
        cap -= 1
    return {name: min(width, cap) if name in texts else width for name, width in natural.items()}
