"""The shape that all hypotheses share: which changes to try, and the best one that explains the error."""

from __future__ import annotations

import math
from collections.abc import Iterator

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.core.types import Cause
from aligndbg.explain.case import Case, OutOfTimeError, Trial
from aligndbg.explain.costs import ON_REFERENCE

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
        """The best explanation so far, after these trials; those that cannot beat it are not run."""
        try:  # what the trials search for is evaluated, too
            for trial in self.trials(case):
                if trial.cost < case.best:
                    self._try(case, trial)
        except OutOfTimeError:
            case.out_of_time = True
        except CannotEvaluateError:
            pass  # the search for more trials ends here; what was found stands
        return case.found

    def _try(self, case: Case, trial: Trial) -> None:
        try:
            after = case.after(trial)
        except CannotEvaluateError:
            return
        case.note(self.name, trial, after)
        weight = weigh(case, trial, after)
        if case.explains(trial, after) and weight < case.best:
            case.best, case.found = weight, _cause(self.name, case, trial, after)


def _cause(name: str, case: Case, trial: Trial, after: float) -> Cause:
    fall = f"the error falls from {_say(case, case.before)} to {_say(case, after)}"
    details = {"hypothesis": name, "changed_side": trial.side, **trial.details}
    return Cause(trial.kind, f"{trial.summary}; {trial.change}, {fall}", case.before, after, details)


def weigh(case: Case, trial: Trial, after: float) -> float:
    """Simplicity first: ten times the error, over the noise, is worth as much as one more number to be chosen."""
    noise = 1.0 if case.quant is not None else case.floor / 10
    on_reference = ON_REFERENCE if trial.side == "reference" else 0.0
    return trial.cost + on_reference + max(0.0, math.log10(max(after, 1e-300) / noise))


def _say(case: Case, error: float) -> str:
    text = f"{error:.0f}" if 99.5 <= error < 1000 else f"{error:.2g}"
    return text + (" LSB" if case.unit == "lsb" else "")
