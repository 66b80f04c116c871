"""Error against depth as the geometry of an SVG: one point a pair and series, the error on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aligndbg.measure.results import Measurement
from aligndbg.report.words import clean, number
from aligndbg.result import Result

__all__ = ["Chart", "Point", "charts"]

WIDTH, HEIGHT = 960.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 12.0, 26.0, 30.0
MOST_DECADES = 14


@dataclass(frozen=True)
class Point:
    """One pair's error; `kind` is "" or, where the axis has no place for it, "zero" or "undefined"."""

    x: float
    y: float
    pair: int
    status: str
    kind: str
    title: str


@dataclass(frozen=True)
class Chart:
    """`decades` are (y, exponent) of the axis; `path` joins the accumulated errors, broken where undefined."""

    title: str
    width: float
    height: float
    left: float
    right: float
    zero: float
    bottom: float
    decades: tuple[tuple[float, int], ...]
    depths: tuple[tuple[float, int], ...]
    accumulated: tuple[Point, ...]
    isolated: tuple[Point, ...]
    path: str


def charts(diff: Result) -> list[Chart]:
    """The chart of relative L2; for quantized models that of steps too."""
    if not diff.pairs:
        return []
    out = [_chart(diff.pairs, "rel_l2", "relative L2 error")]
    if any(m.metrics.lsb_max is not None for m in diff.pairs):
        out.append(_chart(diff.pairs, "lsb_max", "largest difference in quantization steps (LSB)"))
    return out


def _chart(pairs: Sequence[Measurement], metric: str, title: str) -> Chart:
    def value(metrics: object) -> float | None:
        found = getattr(metrics, metric, None)
        return None if found is None else float(found)

    series = [[value(m.metrics) for m in pairs], [value(m.isolated) for m in pairs]]
    low, high = _exponents([v for each in series for v in each if v is not None])
    zero, bottom = HEIGHT - BOTTOM - 8, HEIGHT - BOTTOM
    step = (zero - 14 - TOP) / (high - low)

    def place(v: float) -> tuple[float, str]:
        if v != v or math.isinf(v):
            return TOP - 12, "undefined"
        if v < 10.0**low:
            return zero, "zero"
        return TOP + (high - math.log10(v)) * step, ""

    def across(k: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (k + 0.5) / len(pairs)

    points: list[tuple[Point, ...]] = []
    for label, values in zip(("accumulated", "own"), series, strict=True):
        found = []
        for k, v in enumerate(values):
            if v is not None:
                y, kind = place(v)
                name = clean(pairs[k].pair.reference)
                text = f"{k}: {name} ({pairs[k].status})\n{label} {number(v) if v == v else 'undefined'}"
                found.append(Point(round(across(k), 1), round(y, 1), k, str(pairs[k].status), kind, text))
        points.append(tuple(found))
    return Chart(
        title=title,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        zero=zero,
        bottom=bottom,
        decades=tuple((round(TOP + (high - e) * step, 1), e) for e in range(low, high + 1, -(-(high - low) // 7))),
        depths=tuple((round(across(k), 1), k) for k in range(0, len(pairs), _step(len(pairs)))),
        accumulated=points[0],
        isolated=points[1],
        path=_path(points[0]),
    )


def _step(count: int) -> int:
    """A round step between about ten labels."""
    magnitude = int(10 ** math.floor(math.log10(max(1, count / 10))))
    return next(k * magnitude for k in (1, 2, 5, 10) if k * magnitude >= count / 10)


def _exponents(values: Sequence[float]) -> tuple[int, int]:
    """The decades that hold every positive value, at most MOST_DECADES: what is below counts as zero."""
    positive = [v for v in values if v > 0 and math.isfinite(v)]
    if not positive:
        return -8, 0
    high = math.ceil(math.log10(max(positive)))
    low = max(math.floor(math.log10(min(positive))), high - MOST_DECADES)
    return min(low, high - 2), high


def _path(points: Sequence[Point]) -> str:
    parts, pen = [], "M"
    for p in points:
        if p.kind == "undefined":
            pen = "M"
            continue
        parts.append(f"{pen}{p.x:g} {p.y:g}")
        pen = "L"
    return "".join(parts)
