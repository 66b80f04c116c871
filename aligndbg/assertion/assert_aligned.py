"""`assert_aligned`: a diff whose failure text says what is wrong, where, and how to see it again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aligndbg.api import Diff, DivergedError, Verdict, diff
from aligndbg.assertion.baseline import read_baseline, snapshot, worse, write_baseline
from aligndbg.assertion.command_line import command

__all__ = ["assert_aligned"]

SHOWN = 10  # regressions against a baseline that are listed
WIDTH = 96


def assert_aligned(
    reference: Any,
    candidate: Any,
    inputs: Any = None,
    *,
    allow_inconclusive: bool = False,
    baseline: str | os.PathLike[str] | None = None,
    update_baseline: bool = False,
    html: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Diff:
    """`diff(reference, candidate, inputs, **options)`, raising DivergedError unless the verdict is aligned.

    With `baseline` (a file) the result is held against an accepted one instead: it must not be worse. A baseline is
    written where `update_baseline` is true and it changed, and even then this fails, so that no new baseline goes
    unseen. `html` writes the page of the result, whatever it is. `folder` is where arrays are saved on failure, for the
    command that repeats the run.
    """
    __tracebackhide__ = True
    found = diff(reference, candidate, inputs, **{"details": html is not None} | options)
    if html is not None:
        found.to_html(Path(html))
    if baseline is None:
        aligned = found.verdict is Verdict.ALIGNED or (allow_inconclusive and found.verdict is Verdict.INCONCLUSIVE)
        complaints = [] if aligned else [""]
    else:
        complaints = _held_against(Path(baseline), found, update_baseline)
    if not complaints:
        return found
    parts = [*filter(None, complaints), found.summary(width=WIDTH)]
    if found.verdict is Verdict.INCONCLUSIVE and baseline is None:
        parts.append("inconclusive is no agreement; allow_inconclusive=True lets it pass")
    line = command(reference, candidate, inputs, options, None if folder is None else Path(folder))
    parts.append(f"reproduce: {line}" if line else "reproduce: run this test; live models and arrays have no command")
    if html is not None:
        parts.append(f"report:    {html}")
    raise DivergedError("\n".join(parts), found)


def _held_against(path: Path, found: Diff, update: bool) -> list[str]:
    """What to say against the result; nothing where it is no worse than the baseline."""
    now, before = snapshot(found), read_baseline(path)
    if update and now != before:
        write_baseline(path, now)
        return [f"the baseline {path} was {'written' if before is None else 'updated'}: look at it, and run again"]
    if before is None:
        return [f"there is no baseline {path}: run once with update_baseline=True (pytest --aligndbg-update)"]
    findings = list(worse(now, before))
    if not findings:
        return []
    more = [f"  and {len(findings) - SHOWN} more"] if len(findings) > SHOWN else []
    return [f"worse than the baseline {path}:", *(f"  {text}" for text in findings[:SHOWN]), *more]
