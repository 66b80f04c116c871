"""Where NaN and Inf begin that an isolated run does not show: given the other side's value, nothing makes them.

A sum that underflows to zero is off by next to nothing, and what divides by it is given the other side's sum: both are
within their limits by themselves, and the outputs are NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from aligndbg.core.types import Array
from aligndbg.locate.experiments import Cut, Experiments
from aligndbg.locate.thresholds import MOST_FAULTS

__all__ = ["beginnings"]


def beginnings(
    experiments: Experiments, suspects: Sequence[Cut], faults: Iterable[Cut], outputs: Collection[str]
) -> list[Cut]:
    """The pairs, the earliest first, that are NaN or Inf on one side only although all before them is corrected, and
    that are felt: it shows in what is computed from them, or they are `outputs` of the follower.

    `suspects` are what is not finite on one side, in execution order. Runs nothing where there are none.
    """
    found: list[Cut] = []
    known, names = list(faults), [c.follower for c in suspects]
    wrong = _unlike(experiments, suspects, experiments.tried(names, known)) if suspects else []
    for cut in suspects:
        if cut not in wrong or len(found) == MOST_FAULTS:
            continue
        others = (c for c in suspects if c != cut)
        left = _unlike(experiments, others, experiments.tried(names, [*known, cut]))
        if len(left) < len(wrong) - 1 or cut.follower in outputs:
            found.append(cut)
            known.append(cut)
            wrong = left
    return found


def _unlike(experiments: Experiments, cuts: Iterable[Cut], got: Mapping[str, Array]) -> list[Cut]:
    """Those whose two values are not finite at as many places."""
    return [c for c in cuts if c.follower in got and _finite(experiments.leading(c.leader)) != _finite(got[c.follower])]


def _finite(value: Array) -> int:
    return int(np.count_nonzero(np.isfinite(value))) if value.dtype.kind not in "iu" else value.size
