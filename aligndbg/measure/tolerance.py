"""What is still agreement: limits, their defaults by dtype, the user's overrides. Knows numpy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase

import numpy as np

from aligndbg.core.errors import UsageError, nearest
from aligndbg.measure.results import Masked, Metrics
from aligndbg.measure.thresholds import (
    ACCUMULATED_REL_L2,
    ACCUMULATED_ROUNDINGS,
    ACCUMULATED_SUMS,
    MIN_COSINE,
    NOISE_FLOOR,
    OWN_LSB,
    OWN_LSB_16,
    OWN_REL_L2,
    OWN_ROUNDINGS,
)

__all__ = [
    "EPSILON",
    "LIMITS",
    "QUANTIZED",
    "Tolerance",
    "ToleranceRules",
    "check_limits",
    "default_tolerance",
    "degenerate",
    "own_lsb",
    "within",
]


@dataclass(frozen=True)
class Tolerance:
    """Limits that must all hold; None is no limit.

    `atol` and `rtol` go together: |reference - candidate| <= atol + rtol * |reference| at every element.
    `max_lsb` is in quantization steps. `escape_rel` (a share of max|reference|) and `escape_abs` excuse a largest
    difference that small from every other limit: the relative error of values near zero says nothing.
    """

    atol: float | None = None
    rtol: float | None = None
    rel_l2: float | None = None
    min_cosine: float | None = None
    min_euclid: float | None = None
    min_sqnr: float | None = None
    max_lsb: float | None = None
    escape_rel: float = 0.0
    escape_abs: float = 0.0

    @property
    def is_set(self) -> bool:
        """True if there is any limit at all."""
        return any(getattr(self, name) is not None for name in LIMITS)

    def merged(self, later: Tolerance) -> Tolerance:
        """These limits, with those that `later` sets in their place."""
        chosen = {name: getattr(later if getattr(later, name) is not None else self, name) for name in LIMITS}
        return Tolerance(**chosen, escape_rel=later.escape_rel, escape_abs=later.escape_abs)


LIMITS = tuple(f.name for f in fields(Tolerance) if not f.name.startswith("escape_"))

# 2**-mantissa of what a dtype stores; ml_dtypes' names need no import this way.
EPSILON = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float8_e4m3fn": 2.0**-3,
    "float8_e4m3fnuz": 2.0**-3,
    "float8_e4m3": 2.0**-3,
    "float8_e5m2": 2.0**-2,
    "float8_e5m2fnuz": 2.0**-2,
}
# Between its smallest numbers, where rounding is no longer relative to the value.
SPACING = {"float16": 2.0**-24}
QUANTIZED = frozenset({"int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"})
# Values in 0..1 or -1..1 whatever the input: an error is to be seen against 1, not against a tensor of tiny scores.
_BOUNDED_OPS = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Erf"})


def own_lsb(*dtypes: str) -> float:
    """The quantization steps that an operator alone may be off by, of what is stored in these dtypes."""
    return OWN_LSB_16 if any(name in ("int16", "uint16") for name in dtypes) else OWN_LSB


def default_tolerance(
    dtype_reference: str, dtype_candidate: str, op: str = "", reduction: int | None = None, *, isolated: bool = False
) -> Tolerance:
    """Limits from the noise floor of the two storage dtypes, for an operator's own error (`isolated`) or accumulated.

    Floats: relative L2, wider for dtypes with fewer bits and for long sums (`reduction` elements; rounding grows with
    its root). Quantized tensors (int8, ...): a cosine accumulated, steps isolated. Other integers and booleans must be
    equal.
    """
    names = (dtype_reference, dtype_candidate)
    if any(name in QUANTIZED for name in names):
        return Tolerance(max_lsb=own_lsb(*names)) if isolated else Tolerance(min_cosine=MIN_COSINE)
    if not any(name in EPSILON for name in names):
        return Tolerance(atol=0.0, rtol=0.0)
    epsilon = max(EPSILON.get(name, 0.0) for name in names)
    rounding = max(epsilon, EPSILON["float32"])
    growth = math.sqrt(reduction) * EPSILON["float32"] if reduction else 0.0
    escape = max(NOISE_FLOOR, epsilon)
    if isolated:
        limit = max(OWN_REL_L2, OWN_ROUNDINGS * rounding, growth)
    else:
        limit = max(ACCUMULATED_REL_L2, ACCUMULATED_ROUNDINGS * rounding, ACCUMULATED_SUMS * growth)
    spacing = max(SPACING.get(name, 0.0) for name in names)
    return Tolerance(rel_l2=limit, escape_rel=escape, escape_abs=escape if op in _BOUNDED_OPS else spacing)


def within(metrics: Metrics, tolerance: Tolerance) -> tuple[bool, str]:
    """Whether every limit holds, and the first that does not (or the tightest fact) with its value.

    An undefined value (nan) is never within. `metrics` must have been made with this tolerance where it has `atol` or
    `rtol`, else violations were not counted and the answer is no.
    """
    if metrics.nonfinite_mismatch:
        return False, f"NaN or Inf on one side only, or unlike, at {metrics.nonfinite_mismatch} of {metrics.count}"
    if metrics.count == 0:
        return False, "empty"
    if not tolerance.is_set:
        raise ValueError("a Tolerance without any limit judges nothing")
    largest = max(abs(metrics.min_reference), abs(metrics.max_reference))
    escape = max(tolerance.escape_abs, tolerance.escape_rel * largest)
    mask = metrics.masked
    masks_agree = mask is None or mask.max_abs <= tolerance.escape_rel * abs(mask.mean_reference)
    if masks_agree and metrics.max_abs <= escape and escape > 0:
        return True, f"max_abs {metrics.max_abs:.3g} <= {escape:.3g}, the noise floor for values up to {largest:.3g}"
    checks = [_check(metrics, tolerance, name) for name in LIMITS if getattr(tolerance, name) is not None]
    failed = [text for holds, text in checks if not holds]
    return (False, failed[0]) if failed else (True, checks[0][1])


def _check(metrics: Metrics, tolerance: Tolerance, limit: str) -> tuple[bool, str]:
    if limit in ("atol", "rtol"):
        return _check_violations(metrics, tolerance)
    name = {"max_lsb": "lsb_max", "min_sqnr": "sqnr_db"}.get(limit, limit.removeprefix("min_"))
    value, bound = getattr(metrics, name), getattr(tolerance, limit)
    if value is None:
        return False, f"{name} is undefined (neither side is quantized)"
    if math.isnan(value):
        return False, f"{name} is undefined ({metrics.reasons.get(name, 'no reason given')})"
    holds = value >= bound if limit.startswith("min_") else value <= bound
    sign = (">=" if holds else "<") if limit.startswith("min_") else ("<=" if holds else ">")
    of_mask = "" if holds else _of_mask(metrics.masked, name, value)
    return holds, f"{name} {value:.6g} {sign} {bound:g}{of_mask}"


def _of_mask(mask: Masked | None, name: str, value: float) -> str:
    """What differs where it is the mask's huge values that do."""
    if mask is None or getattr(mask, name, None) != value:
        return ""
    return f" of a mask's {mask.count} huge values, {mask.mean_reference:.6g} against {mask.mean_candidate:.6g}"


def _check_violations(metrics: Metrics, tolerance: Tolerance) -> tuple[bool, str]:
    rule = f"{tolerance.atol or 0.0:g} + {tolerance.rtol or 0.0:g} * |reference|"
    if math.isnan(metrics.max_abs):
        return False, f"max_abs is undefined ({metrics.reasons.get('max_abs', 'no reason given')})"
    if metrics.violations is None:
        return False, metrics.reasons.get("violations", f"violations of {rule} were not counted")
    none = metrics.violations == 0
    count = "no element" if none else f"{metrics.violations} of {metrics.count} elements"
    return none, f"max_abs {metrics.max_abs:.6g}, {count} over {rule}"


def degenerate(metrics: Metrics) -> str:
    """Why these two tensors prove nothing even where they agree, or "".

    Empty, all zero on both sides, the same constant on both sides (of more than one element), non-finite. A tensor
    that is constant on one side only, or two unlike constants, are not degenerate: they are proof of a difference.
    """
    if metrics.count == 0:
        return "empty"
    if metrics.nonfinite_mismatch:
        return f"non-finite on one side only, or unlike, at {metrics.nonfinite_mismatch} of {metrics.count} positions"
    if metrics.masked is not None:  # there are two values at least
        return ""
    nonfinite = metrics.nan_reference + metrics.inf_reference
    if nonfinite == metrics.count:
        return "non-finite everywhere on both sides"
    if metrics.zeros_reference == metrics.zeros_candidate == metrics.count - nonfinite:
        return "all zero on both sides"
    constant = metrics.min_reference == metrics.max_reference and metrics.min_candidate == metrics.max_candidate
    if constant and metrics.count > 1 and metrics.max_abs <= NOISE_FLOOR * abs(metrics.max_reference):
        return "constant on both sides"
    return ""


@dataclass(frozen=True)
class _Rule:
    kind: str  # all | op | name
    pattern: str
    tolerance: Tolerance
    text: str

    def matches(self, op: str, names: Sequence[str]) -> bool:
        if self.kind == "all":
            return True
        return any(fnmatchcase(word, self.pattern) for word in ((op,) if self.kind == "op" else names))


class ToleranceRules:
    """The user's limits: for all, by operator, by tensor name (glob patterns). Later rules win, limit by limit.

    `ToleranceRules(Tolerance(min_cosine=0.99), ["op=Conv:atol=1e-3,rtol=1e-2", "name=/head/*:min_cosine=0.9"])`.
    Raises UsageError for a malformed rule.
    """

    def __init__(self, everywhere: Tolerance | None = None, specs: Iterable[str] = ()) -> None:
        first = [_Rule("all", "*", everywhere, "")] if everywhere is not None else []
        self.everywhere, self.specs = everywhere, tuple(specs)
        self._rules = (*first, *(_parse_rule(spec) for spec in self.specs))

    def resolve(self, op: str, names: Sequence[str], default: Tolerance) -> Tolerance:
        """The limits for one pair: what the user set, or `default` where no rule of theirs applies.

        A user's limit replaces the defaults as a whole: `min_cosine=0.9` is not held to the noise floor as well.
        """
        chosen = Tolerance()
        for rule in self._rules:
            if rule.matches(op, names):
                chosen = chosen.merged(rule.tolerance)
        return chosen if chosen.is_set else default

    def unused(self, ops: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
        """The rules whose pattern matches no operator and no name, as they were written."""
        words = {"op": tuple(ops), "name": tuple(names)}
        return tuple(
            rule.text
            for rule in self._rules
            if rule.kind != "all" and not any(fnmatchcase(word, rule.pattern) for word in words[rule.kind])
        )


def _parse_rule(text: str) -> _Rule:
    """`op=PATTERN:limit=value,...`, `name=PATTERN:...` or `limit=value,...`; the pattern itself may hold a colon."""
    form = "write op=Conv:atol=1e-3, name=/head/*:min_cosine=0.9 or atol=1e-3,rtol=1e-2"
    kind, equals, rest = text.partition("=")
    if kind not in ("op", "name"):
        return _Rule("all", "*", _parse_limits(text, form), text)
    pattern, colon, limits = rest.rpartition(":")
    if not equals or not colon or not pattern:
        raise UsageError(f"the tolerance {text!r} names no limit", hint=form)
    return _Rule(kind, pattern, _parse_limits(limits, form), text)


def _parse_limits(text: str, form: str) -> Tolerance:
    values: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (word.strip() for word in part.partition("="))
        if not equals:
            raise UsageError(f"the tolerance limit {part!r} has no value", hint=form)
        if name not in LIMITS:
            raise UsageError(f"there is no tolerance limit {name!r}", hint=nearest(name, LIMITS))
        try:
            values[name] = float(number)
        except ValueError:
            raise UsageError(f"the tolerance limit {name}={number!r} is not a number", hint=form) from None
        if np.isnan(values[name]) or (values[name] < 0 and name not in ("min_cosine", "min_euclid", "min_sqnr")):
            raise UsageError(f"the tolerance limit {name}={number} is out of range", hint=form)
    return Tolerance(**values)


def check_limits(limits: Mapping[str, float | None], min_coverage: float | None) -> None:
    """Raises UsageError for a number that can be no limit."""
    if min_coverage is not None and not 0 <= min_coverage <= 1:
        raise UsageError(f"min_coverage is {min_coverage}", hint="give a share, 0 to 1")
    for name, value in limits.items():
        if value is not None and (value != value or (value < 0 and not name.startswith("min_"))):
            raise UsageError(f"{name} is {value}", hint="give a number, 0 or more")
