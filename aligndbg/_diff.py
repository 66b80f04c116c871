"""The result of one diff: what every report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligndbg._types import Cause, Coverage, Fault, Matching, Measurement, ModelInfo, Status, Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Diff", "DivergedError"]


class DivergedError(AssertionError):
    """Raised by `Diff.raise_if_diverged`; its text is the short report."""


@dataclass(frozen=True)
class Diff:
    """Everything one run found. There is no truth value: ask `.verdict`.

    `pairs` are in the reference's execution order. `outputs` names the reference tensors that are model outputs.
    `causes` are of the pair as a whole (fed apart, another network, ...); each fault has its own.
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
    warnings: tuple[str, ...] = ()

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

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained HTML page; written to `path` too where given."""
        from aligndbg.report.html import to_html
        from aligndbg.report.json_ import write_text

        text = to_html(self)
        if path is not None:
            write_text(path, text)
        return text

    def summary(self, *, all_rows: bool = False, width: int = 100) -> str:
        """The terminal report as plain text."""
        from aligndbg.report.terminal import render_text

        return render_text(self, all_rows=all_rows, width=width)

    def print(self, *, all_rows: bool = False) -> None:
        """The terminal report on stdout, coloured and as wide as the terminal."""
        from aligndbg.report.terminal import render, stdout_console

        with stdout_console() as console:
            render(self, console, all_rows=all_rows)

    def raise_if_diverged(self, *, allow_inconclusive: bool = False) -> None:
        """Raise DivergedError unless the verdict is aligned (or inconclusive, where allowed)."""
        fine = {Verdict.ALIGNED, Verdict.INCONCLUSIVE} if allow_inconclusive else {Verdict.ALIGNED}
        if self.verdict not in fine:
            raise DivergedError(self.summary())

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        from aligndbg.report.html import fragment

        return fragment(self)


def _over(m: Measurement) -> bool:
    return m.status is Status.UNKNOWN and "own error unknown" in m.reason


def _badness(value: float) -> float:
    return float("inf") if value != value else value
