"""The result of one diff: what every report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligndbg._basis import Basis
from aligndbg._types import Cause, Coverage, Fault, Graph, Matching, Measurement, ModelInfo, Status, Verdict

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from aligndbg.report.table import TableView

__all__ = ["Diff", "DivergedError"]


class DivergedError(AssertionError):
    """Raised by `Diff.raise_if_diverged` and `assert_aligned`; its text is the short report, `diff` the result."""

    def __init__(self, text: str, diff: Diff | None = None) -> None:
        super().__init__(text)
        self.diff = diff


@dataclass(frozen=True, repr=False)
class Diff:
    """Everything one run found. There is no truth value: ask `.verdict`.

    `pairs` are in the reference's execution order. `outputs` names the reference tensors that are model outputs.
    `samples` has a row for each of several inputs; the rest is then of the worst one, each pair of its own worst.
    `causes` are of the pair as a whole (fed apart, another network, ...); each fault has its own.
    `graphs` are the reference's and the candidate's, without nodes where a trace knows none.
    `basis` is what the pairs were judged on, to judge them again (`aligndbg.judge`); None of a run without details.
    """

    reference: ModelInfo
    candidate: ModelInfo
    verdict: Verdict
    verdict_reason: str
    pairs: tuple[Measurement, ...]
    matching: Matching
    faults: tuple[Fault, ...] = ()
    causes: tuple[Cause, ...] = ()
    outputs: frozenset[str] = frozenset()
    inputs: tuple[str, ...] = ()
    truncated: bool = False
    checks: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    graphs: tuple[Graph, Graph] = (Graph(), Graph())
    basis: Basis | None = None
    samples: tuple[Mapping[str, Any], ...] = ()

    def __bool__(self) -> bool:
        raise TypeError("a Diff has no truth value: compare its .verdict, or call .raise_if_diverged()")

    @property
    def coverage(self) -> dict[str, Coverage]:
        """Counts of each side: compared, unobservable, one_sided, unmatched."""
        return {"reference": self.matching.coverage_reference, "candidate": self.matching.coverage_candidate}

    @property
    def first_divergence(self) -> Measurement | None:
        """The first pair, in the reference's order, that is neither pass nor degenerate."""
        return next((m for m in self.pairs if m.status in (Status.FAULT, Status.DRIFT) or _over(m)), None)

    def worst(self, count: int = 5) -> list[Measurement]:
        """The pairs with the largest accumulated relative L2 error, worst first; undefined errors first of all."""
        return sorted(self.pairs, key=lambda m: _badness(m.metrics.rel_l2), reverse=True)[:count]

    def to_frame(self) -> pd.DataFrame:
        """One row a pair; see `aligndbg.report.frame.COLUMNS`."""
        from aligndbg.report.frame import to_frame

        return to_frame(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """The JSON of schema aligndbg.diff/1; written to `path` too where given."""
        from aligndbg.report.json_ import to_json, write_text

        text = to_json(self)
        if path is not None:
            write_text(path, text)
        return text

    def to_csv(self, path: str | Path) -> None:
        """`to_frame()` as CSV."""
        from aligndbg.report.json_ import write_text

        write_text(path, self.to_frame().to_csv(index=False))

    def to_parquet(self, path: str | Path) -> None:
        """`to_frame()` as Parquet. Raises MissingDependencyError without pyarrow."""
        from aligndbg.report.frame import to_parquet

        to_parquet(self, Path(path))

    def to_markdown(self) -> str:
        """The short report as GitHub's Markdown."""
        from aligndbg.report.github import to_markdown

        return to_markdown(self)

    def to_github(self) -> None:
        """`to_markdown()` added to the job's summary in GitHub Actions. Raises UsageError elsewhere."""
        from aligndbg.report.github import append_summary

        append_summary(self.to_markdown())

    def to_model_explorer(self, folder: str | Path) -> list[Path]:
        """Both graphs and overlays of the errors for Google's Model Explorer; the files written."""
        from aligndbg.report.model_explorer import write_model_explorer

        return write_model_explorer(self, Path(folder))

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained HTML page; written to `path` too where given."""
        from aligndbg.report.html import to_html
        from aligndbg.report.json_ import write_text

        text = to_html(self)
        if path is not None:
            write_text(path, text)
        return text

    def save(self, path: str | Path) -> None:
        """The whole result in one file, for `Diff.load` and `aligndbg judge`. Raises UsageError."""
        from aligndbg._saved import save

        save(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Diff:
        """What `save` wrote. Raises ModelError for a file that it did not write, or of another version."""
        from aligndbg._saved import load

        return load(Path(path))

    def plot(self, pair: str | None = None, kind: str | None = None, ax: Axes | None = None) -> Any:
        """Draw with matplotlib's pyplot; returns the axes.

        Without arguments, error against depth: accumulated and own relative L2 of each pair. With the name of a tensor
        (of either side), a 2 by 2 array of axes with that pair's pictures; with `kind` ("error", "histogram",
        "scatter", "heatmap", "profile") one of them, on `ax` where given, and of the first fault or the worst pair
        where no tensor is named. They show the accumulated values.

        Raises UsageError for an unknown tensor or kind, or where the run kept no pictures (`details=False`).
        """
        from aligndbg.report.plots import plot

        return plot(self, pair, kind, ax)

    def summary(self, *, all_rows: bool = False, width: int = 100, view: TableView | None = None) -> str:
        """The terminal report as plain text."""
        from aligndbg.report.terminal import render_text

        return render_text(self, all_rows=all_rows, width=width, view=view)

    def print(self, *, all_rows: bool = False, view: TableView | None = None) -> None:
        """The terminal report on stdout, coloured and as wide as the terminal."""
        from aligndbg.report.terminal import render, stdout_console

        with stdout_console() as console:
            render(self, console, all_rows=all_rows, view=view)

    def raise_if_diverged(self, *, allow_inconclusive: bool = False) -> None:
        """Raise DivergedError unless the verdict is aligned (or inconclusive, where allowed)."""
        fine = {Verdict.ALIGNED, Verdict.INCONCLUSIVE} if allow_inconclusive else {Verdict.ALIGNED}
        if self.verdict not in fine:
            raise DivergedError(self.summary(), self)

    def __repr__(self) -> str:
        """One line; the arrays that a Diff holds would fill screens, and every notebook that shows one."""
        sides = f"{self.reference.path} against {self.candidate.path}"
        return f"<Diff {self.verdict}: {len(self.pairs)} pairs, faults: {len(self.faults)}; {sides}>"

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        from aligndbg.report.html import fragment

        return fragment(self)


def _over(m: Measurement) -> bool:
    return m.status is Status.UNKNOWN and "own error unknown" in m.reason


def _badness(value: float) -> float:
    return float("inf") if value != value else value
