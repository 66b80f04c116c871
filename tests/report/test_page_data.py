"""The data that the page's script draws from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aligndbg.core.types import Layout, LayoutKind
from aligndbg.diff_result import Diff
from aligndbg.measure.detail import detail
from aligndbg.measure.metrics import compare
from aligndbg.report.page_data import page_data


def test_an_elements_place_in_the_candidate(aligned: Diff) -> None:
    """NCHW against NHWC: the index is worked back through the layout."""
    r = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    c = np.ascontiguousarray(r.transpose(0, 2, 3, 1))
    c[0, 2, 1, 1] += 5
    layout = Layout(LayoutKind.PERMUTE, c.shape, (0, 3, 1, 2), r.shape, c.shape)
    moved = layout.to_reference(c)
    metrics = compare(r, moved)
    m = aligned.pairs[0]
    m = replace(m, metrics=metrics, pair=replace(m.pair, layout=layout), detail=detail(r, moved, metrics, (1.0, 0.0)))
    (element,) = page_data(replace(aligned, pairs=(m,)))["pairs"][0]["detail"]["first"]
    assert element == [[0, 1, 2, 1], [0, 2, 1, 1], 21, 26]
