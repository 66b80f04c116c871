"""Errors a user can act on: the fact, the context, one hint. Each ends the command line with exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AligndbgError",
    "FeedError",
    "MissingDependencyError",
    "ModelError",
    "RuntimeCrashError",
    "UnsupportedError",
    "UsageError",
    "nearest",
]


class AligndbgError(Exception):
    """Base of every error raised on purpose.

    `fact` says what happened, `context` where (a file, a tensor, an option), `hint` what to do next.
    """

    def __init__(self, fact: str, *, context: str = "", hint: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.context = context
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.context}: {self.fact}" if self.context else self.fact
        return f"{head}\n  hint: {self.hint}" if self.hint else head

    def with_context(self, context: str) -> AligndbgError:
        """The same error, placed; inner code raises short facts and the caller that knows the file adds it."""
        return self if self.context else type(self)(self.fact, context=context, hint=self.hint)

    def __reduce__(self) -> tuple[object, ...]:  # errors cross the worker's pipe
        return (_rebuild, (type(self), self.fact, self.context, self.hint))


def _rebuild(kind: type[AligndbgError], fact: str, context: str, hint: str) -> AligndbgError:
    return kind(fact, context=context, hint=hint)


class UsageError(AligndbgError):
    """A bad argument: an unknown name, option, kind of model or pattern."""


class FeedError(UsageError):
    """A feed or an override that the model cannot take: wrong name, shape, dtype, or a non-finite value."""


class ModelError(AligndbgError):
    """A model or trace file that is missing, truncated, or that its runtime refuses."""


class UnsupportedError(AligndbgError):
    """The backend cannot do this (override in a control-flow body, tap inside an engine, ...)."""


class MissingDependencyError(AligndbgError):
    """A package that the backend needs is not installed."""


class RuntimeCrashError(AligndbgError):
    """The runtime's process died or ran past its time limit; the caller's process goes on."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """`did you mean a, b?` for a hint, or the first names there are when nothing is near."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.6)
    if close:
        return "did you mean " + ", ".join(close) + "?"
    shown = ", ".join(names[: 2 * count])
    more = f", ... ({len(names)} in all)" if len(names) > 2 * count else ""
    return f"known: {shown}{more}" if names else "there are none"
