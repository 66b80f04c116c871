"""The shape that all hypotheses share: which changes to try, and the best one that explains the error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.core.types import Cause
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.costs import ON_REFERENCE

__all__ = ["Hypothesis", "Tested", "other_side"]


def other_side(side: str) -> str:
    return "candidate" if side == "reference" else "reference"


@dataclass
class Tested:
    """What the trials of one fault have shown so far: the best explanation, its weight, what each hypothesis did."""

    cause: Cause | None = None
    weight: float = math.inf
    out_of_time: bool = False
    not_tried: tuple[str, ...] = ()  # for want of time
    tried: dict[str, tuple[float, str]] = field(default_factory=dict)  # the best error that it reached, and how

    def add(self, name: str, case: Case, trial: Trial, after: float) -> None:
        if name not in self.tried or after < self.tried[name][0]:
            self.tried[name] = after, trial.summary
        weight = weigh(case, trial, after)
        if case.explains(trial, after) and weight < self.weight:
            self.weight, self.cause = weight, _cause(name, case, trial, after)


class Hypothesis:
    """One idea of what went wrong. A subclass says when it may hold and which trials would prove it."""

    name = ""
    from_files = False  # its trials put in what the other side's file holds

    def applies(self, case: Case) -> bool:
        """Cheap: whether there is anything to try."""
        raise NotImplementedError

    def trials(self, case: Case) -> Iterator[Trial]:
        """Changes to be tested, each against the fault's own tensors."""
        raise NotImplementedError

    def test(self, case: Case, so_far: Tested) -> None:
        """Adds what these trials show; those that cannot beat the best explanation are not run. Raises OutOfTimeError.

        Where proposing more takes an operator that cannot be run, they end, and what was found stands.
        """
        with suppress(CannotEvaluateError):
            for trial in self.trials(case):
                if not self.from_files and case.flat(other_side(trial.side)):
                    continue
                if trial.cost < so_far.weight:
                    with suppress(CannotEvaluateError):
                        so_far.add(self.name, case, trial, case.after(trial))


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
