"""Diff -> matplotlib figures: error against depth, and the pictures of one pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from aligndbg.core.errors import UsageError, nearest
from aligndbg.core.types import Status
from aligndbg.measure.results import Detail, Measurement
from aligndbg.report.words import clean, number
from aligndbg.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["KINDS", "plot"]

REFERENCE, CANDIDATE, FAULT = "tab:blue", "tab:orange", "tab:red"
KINDS = ("error", "histogram", "scatter", "heatmap", "profile")


def plot(diff: Result, pair: str | None = None, kind: str | None = None, ax: Axes | None = None) -> Any:
    """Draw with pyplot; see `Diff.plot`."""
    if kind is not None and kind not in KINDS:
        raise UsageError(f"there is no plot {kind!r}", hint=nearest(kind, KINDS))
    if kind == "error" or (pair is None and kind is None):
        return _error(diff, _axes(ax))
    m = _pair(diff, pair)
    if m.detail is None:
        why = "it is empty" if not m.metrics.count else "diff(..., details=False) keeps none"
        raise UsageError("there is no picture of this pair", context=f"{m.pair.reference}: {why}")
    if kind is not None:
        drawn = _axes(ax)
        DRAW[kind](drawn, m, m.detail)
        return drawn
    if ax is not None:
        raise UsageError("one axes holds one plot", hint=f"give kind, one of {', '.join(KINDS[1:])}")
    return _all(m, m.detail)


def _axes(ax: Axes | None) -> Axes:
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(8, 4.2), layout="constrained")[1] if ax is None else ax


def _pair(diff: Result, name: str | None) -> Measurement:
    """The pair of that tensor, of either side; without a name the first fault, else the worst pair."""
    if not diff.pairs:
        raise UsageError("no tensors were paired", hint="look at .matching for the reasons")
    if name is None:
        return next((m for m in diff.pairs if m.status is Status.FAULT), diff.worst(1)[0])
    found = [m for m in diff.pairs if name in (m.pair.reference, m.pair.candidate)]
    if not found:
        known = [n for m in diff.pairs for n in (m.pair.reference, m.pair.candidate)]
        raise UsageError(f"no pair has a tensor {name!r}", hint=nearest(name, known))
    return next((m for m in found if m.pair.reference == name), found[0])


def _error(diff: Result, ax: Axes) -> Axes:
    """Relative L2 of each pair in execution order; a zero lies on the lowest line, undefined values are left out."""
    from matplotlib.ticker import MaxNLocator

    accumulated = np.array([m.metrics.rel_l2 for m in diff.pairs], float)
    own = np.array([math.nan if m.isolated is None else m.isolated.rel_l2 for m in diff.pairs], float)
    both = np.concatenate([accumulated, own])
    positive = both[np.isfinite(both) & (both > 0)]
    floor = 10.0 ** (math.floor(math.log10(positive.min())) - 1) if positive.size else 1e-9
    depth = np.arange(len(diff.pairs))
    ax.plot(depth, np.maximum(accumulated, floor), "o-", color=REFERENCE, markersize=3.5, label="accumulated")
    ax.plot(depth, np.maximum(own, floor), "D", color=CANDIDATE, markersize=4, label="own (isolated)")
    faults = [k for k, m in enumerate(diff.pairs) if m.status is Status.FAULT]
    if faults:
        ax.scatter(faults, np.maximum(own[faults], floor), s=140, facecolors="none", edgecolors=FAULT, label="fault")
    ax.set_yscale("log")
    if (both == 0).any():
        ax.axhline(floor, color="gray", linewidth=0.6)
        ax.annotate("0", (0, floor), xycoords=("axes fraction", "data"), xytext=(3, 3), textcoords="offset points")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("pair, in the reference's execution order")
    ax.set_ylabel("relative L2 error")
    ax.set_title(f"{str(diff.verdict).upper()}: {_text(diff.verdict_reason, 90)}", loc="left")
    if len(diff.pairs):
        ax.legend(frameon=False)
    ax.grid(alpha=0.25)
    return ax


def _all(m: Measurement, d: Detail) -> Any:
    """The four pictures of one pair in one figure."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.6), layout="constrained")
    for ax, kind in zip(axes.flat, KINDS[1:], strict=True):
        DRAW[kind](ax, m, d)
    own = "unknown" if m.isolated is None else number(m.isolated.rel_l2)
    names = f"{_text(m.pair.reference, 60)}  ~  {_text(m.pair.candidate, 60)}"
    figure.suptitle(f"{m.status}: relative L2 {number(m.metrics.rel_l2)}, own {own}\n{names}", fontsize=10)
    return axes


def _histogram(ax: Axes, m: Measurement, d: Detail) -> None:
    ax.stairs(d.counts_reference, d.edges, fill=True, color=REFERENCE, alpha=0.5, label="reference")
    ax.stairs(d.counts_candidate, d.edges, color=CANDIDATE, linewidth=1.5, label="candidate")
    ax.set_yscale("symlog", linthresh=1)
    ax.set_title("histogram", loc="left")
    ax.legend(frameon=False)


def _scatter(ax: Axes, m: Measurement, d: Detail) -> None:
    ends = d.edges[[0, -1]]
    ax.plot(ends, ends, color="gray", linewidth=0.8)
    ax.scatter(d.points[:, 0], d.points[:, 1], s=8, color=CANDIDATE, alpha=0.7, label=f"{len(d.points)} sampled")
    worst = np.array([(e.reference, e.candidate) for e in d.worst]).reshape(-1, 2)
    ax.scatter(worst[:, 0], worst[:, 1], s=14, color=FAULT, label="largest differences")
    ax.set_xlabel("reference")
    ax.set_ylabel("candidate")
    ax.set_title("scatter", loc="left")
    ax.legend(frameon=False)


def _heatmap(ax: Axes, m: Measurement, d: Detail) -> None:
    """The last two axes, the spatial ones of NCHW; a vector has one row, no difference none."""
    ax.set_title("largest |difference|", loc="left")
    if not d.profiles:
        _nothing(ax)
    elif d.maps:
        first = d.maps[0]
        height, width = (m.pair.layout.reference_shape[a] for a in first.axes)
        _image(ax, first.values, (-0.5, width - 0.5, height - 0.5, -0.5))
        ax.set_ylabel(f"axis {first.axes[0]}")
        ax.set_xlabel(f"axis {first.axes[1]}")
    else:
        only = d.profiles[0]
        _image(ax, only.values[None, :], (-0.5, only.size - 0.5, 0.5, -0.5))
        ax.set_yticks([])
        ax.set_xlabel(f"axis {only.axis}")


def _image(ax: Axes, values: Any, extent: tuple[float, float, float, float]) -> None:
    shown = np.where(np.isfinite(values), values, np.nan)  # NaN and Inf unlike the other side stay blank
    image = ax.imshow(shown, cmap="inferno", vmin=0, extent=extent, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax)


def _profile(ax: Axes, m: Measurement, d: Detail) -> None:
    """Along each axis, over its whole length: a channel that is off stands out in one of the lines."""
    ax.set_title("largest |difference| by axis", loc="left")
    if not d.profiles:
        _nothing(ax)
        return
    for p in d.profiles:
        edges = np.minimum(np.arange(p.values.size + 1) * p.step, p.size) / p.size
        ax.stairs(p.values, edges, label=f"axis {p.axis} ({p.size})")
    ax.set_xlabel("place along the axis, 0 to 1")
    ax.legend(frameon=False)


def _nothing(ax: Axes) -> None:
    ax.text(0.5, 0.5, "no difference", ha="center", va="center", transform=ax.transAxes)


def _text(text: str, width: int) -> str:
    """A name for a title; matplotlib would take dollar signs for mathematics."""
    return clean(text, width).replace("$", r"\$")


DRAW: dict[str, Callable[[Any, Measurement, Detail], None]] = {
    "histogram": _histogram,
    "scatter": _scatter,
    "heatmap": _heatmap,
    "profile": _profile,
}
