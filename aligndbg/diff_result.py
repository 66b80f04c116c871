"""`Diff`: a result that can report itself, in every form there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligndbg.core.types import Verdict
from aligndbg.report.table import TableView
from aligndbg.result import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Diff", "DivergedError"]


class DivergedError(AssertionError):
    """Raised by `Diff.raise_if_diverged` and `assert_aligned`; its text is the short report, `diff` the result."""

    def __init__(self, text: str, diff: Diff | None = None) -> None:
        super().__init__(text)
        self.diff = diff


class Diff(Result):
    """What `aligndbg.diff` found. The reports are made when they are asked for: `.to_html()`, `.plot()`, ..."""

    def to_frame(self) -> pd.DataFrame:
        """One row a pair; see `aligndbg.report.frame.COLUMNS`."""
        from aligndbg.report.frame import to_frame

        return to_frame(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """The JSON of schema aligndbg.diff/1; written to `path` too where given."""
        from aligndbg.core.files import write_text
        from aligndbg.report.json import to_json

        text = to_json(self)
        if path is not None:
            write_text(path, text)
        return text

    def to_csv(self, path: str | Path) -> None:
        """`to_frame()` as CSV."""
        from aligndbg.core.files import write_text

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
        from aligndbg.core.files import write_text
        from aligndbg.report.html import to_html

        text = to_html(self)
        if path is not None:
            write_text(path, text)
        return text

    def save(self, path: str | Path) -> None:
        """The whole result in one file, for `Diff.load` and `aligndbg judge`. Raises UsageError."""
        from aligndbg.report.saved import save

        save(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Diff:
        """What `save` wrote. Raises ModelError for a file that it did not write, or of another version."""
        from aligndbg.report.saved import load

        return load(Path(path), Diff)

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
