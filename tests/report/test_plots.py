"""Diff.plot: what is drawn is what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest

import aligndbg
from aligndbg import MemoryBackend
from aligndbg.core.errors import UsageError
from aligndbg.diff_result import Diff


@pytest.fixture(autouse=True)
def no_window() -> Iterator[None]:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_error_against_depth(diverged: Diff) -> None:
    ax = diverged.plot()
    accumulated = ax.get_lines()[0].get_ydata()
    assert accumulated[1:] == pytest.approx([m.metrics.rel_l2 for m in diverged.pairs[1:]])
    assert 0 < accumulated[0] < 0.1 * min(accumulated[1:])  # no error at all lies on the lowest line
    assert ax.get_yscale() == "log"
    assert "fault" in [text.get_text() for text in ax.get_legend().get_texts()]
    ax.figure.canvas.draw()


def test_undefined_errors_are_left_out(silent: Diff) -> None:
    ax = silent.plot()
    assert np.isnan(ax.get_lines()[0].get_ydata()[-1])
    ax.figure.canvas.draw()


def test_the_pictures_of_one_pair(diverged: Diff) -> None:
    axes = diverged.plot("shifted")
    assert axes.shape == (2, 2)
    assert [ax.get_title(loc="left") for ax in axes.flat] == [
        "histogram",
        "scatter",
        "largest |difference|",
        "largest |difference| by axis",
    ]
    image = axes[1, 0].get_images()[0]
    assert np.allclose(image.get_array(), 0.5)
    axes[0, 0].figure.canvas.draw()


@pytest.mark.parametrize("kind", ["error", "histogram", "scatter", "heatmap", "profile"])
def test_one_picture_on_axes_of_ones_own(diverged: Diff, kind: str) -> None:
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert diverged.plot(kind=kind, ax=ax) is ax
    assert diverged.plot("y", kind) is not ax


def test_equal_empty_and_dollar_names_are_drawn(aligned: Diff, silent: Diff) -> None:
    for diff in (aligned, silent):
        diff.plot("y")[0, 0].figure.canvas.draw()
    first = aligned.pairs[0]
    dollars = replace(aligned, pairs=(replace(first, pair=replace(first.pair, reference="$a_$b$ ^")),))
    dollars.plot("$a_$b$ ^")[0, 0].figure.canvas.draw()


def test_what_cannot_be_drawn_says_why(diverged: Diff, make_network: Callable[..., MemoryBackend]) -> None:
    with pytest.raises(UsageError, match="no pair has a tensor 'shiftet'") as caught:
        diverged.plot("shiftet")
    assert "shifted" in caught.value.hint
    with pytest.raises(UsageError, match="no plot 'heat'"):
        diverged.plot(kind="heat")
    with pytest.raises(UsageError, match="no tensors were paired"):
        replace(diverged, pairs=()).plot(kind="scatter")
    bare = aligndbg.diff(make_network(), make_network(), details=False)
    with pytest.raises(UsageError, match="details=False"):
        bare.plot("y")
    with pytest.raises(UsageError, match="one axes"):
        diverged.plot("y", ax=diverged.plot())
