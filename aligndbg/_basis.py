"""What the pairs of a diff were judged on, kept with it: enough to judge them again by other tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aligndbg.metrics import Metrics, Tolerance

__all__ = ["Basis", "Isolated", "PairBasis"]


@dataclass(frozen=True)
class PairBasis:
    """Of one pair: the limits of the noise floor, accumulated and own, and the metrics under other layouts that fit.

    `doubt` is why it is not confirmed; `layouts` holds (permutation, metrics) of an ambiguous layout's alternatives.
    """

    limits: Tolerance
    own_limits: Tolerance
    doubt: str = ""
    layouts: tuple[tuple[tuple[int, ...], Metrics], ...] = ()


@dataclass(frozen=True)
class Isolated:
    """How pairs were isolated, by reference names; see `locate.Isolation` and `locate.Standing`.

    `over_shown` is `over` without those that a tensor which could not be overridden casts its error on; `shadowed` are
    the own metrics of the latter.
    """

    forward: bool
    over: frozenset[str]
    over_shown: frozenset[str]
    shadowed: Mapping[str, Metrics]
    refused: Mapping[str, str]
    aside: frozenset[str]
    nearer: frozenset[str]
    farther: frozenset[str]
    runs: int
    beyond: Mapping[str, Metrics] = field(default_factory=dict)


@dataclass(frozen=True)
class Basis:
    """Of a run: its pairs by reference name, the user's rules, and what the verdict depends on besides the pairs.

    `values` gives the dtype of each captured value, `missing` why one is not there; reference first. `isolated` is None
    where there are no isolated errors, for the reason `why_not`.
    """

    pairs: Mapping[str, PairBasis]
    everywhere: Tolerance | None
    rules: tuple[str, ...]
    min_coverage: float
    max_faults: int
    values: tuple[Mapping[str, str], Mapping[str, str]]
    missing: tuple[Mapping[str, str], Mapping[str, str]]
    isolated: Isolated | None
    why_not: str
    weights_unknown: bool
    inputs_transposed: bool
