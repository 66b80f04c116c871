"""The shape that all hypotheses share: which changes to try, and the best one that explains the error."""

from __future__ import annotations

import math
from collections.abc import Iterator

from aligndbg._evaluate import CannotEvaluateError
from aligndbg._types import Cause
from aligndbg.explain._case import Case, Trial

__all__ = ["Hypothesis", "other_side", "weigh"]


def other_side(side: str) -> str:
    return "candidate" if side == "reference" else "reference"


class Hypothesis:
    """One idea of what went wrong. A subclass says when it may hold and which trials would prove it."""

    name = ""

    def applies(self, case: Case) -> bool:
        """Cheap: whether there is anything to try."""
        raise NotImplementedError

    def trials(self, case: Case) -> Iterator[Trial]:
        """Changes to be tested, each against the fault's own tensors."""
        raise NotImplementedError

    def test(self, case: Case) -> Cause | None:
        """The best trial that explains the error. What was tried goes to `case.tried`."""
        best: tuple[float, Trial, float] | None = None
        for trial in self.trials(case):
            try:
                after = case.after(trial)
            except CannotEvaluateError:
                continue
            case.note(self.name, trial, after)
            if case.explains(after, trial.floor) and (best is None or weigh(case, trial, after) < best[0]):
                best = weigh(case, trial, after), trial, after
        if best is None:
            return None
        weight, trial, after = best
        summary = f"{trial.summary}; {trial.change or 'with that undone'}, the error falls from {_say(case, case.before)} to {_say(case, after)}"
        details = {"hypothesis": self.name, "changed_side": trial.side, "weight": weight, **trial.details}
        return Cause(trial.kind, summary, case.before, after, details)


def weigh(case: Case, trial: Trial, after: float) -> float:
    """Simplicity first: ten times the error, over the noise, is worth as much as one more number to be chosen."""
    noise = 1.0 if case.grid is not None else case.floor / 10
    on_reference = 0.05 if trial.side == "reference" else 0.0  # of two equal ones, tell what to change in the candidate
    return trial.cost + on_reference + max(0.0, math.log10(max(after, 1e-300) / noise))


def _say(case: Case, error: float) -> str:
    return f"{error:.2g}" + (" LSB" if case.unit == "lsb" else "")
