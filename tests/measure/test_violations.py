"""Violations of any tolerance, counted from what is kept of two tensors, against counting them one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligndbg.measure.metrics import compare
from aligndbg.measure.tolerance import Tolerance
from aligndbg.measure.violations import MAX_CORNERS, JointBuilder, JointErrors

Array = np.ndarray[Any, np.dtype[Any]]
LIMITS = [0.0, 1e-12, 1e-7, 1e-3, 0.03, 0.5, 1.0, 3.0, 1e9]


def joint_of(reference: Array, error: Array, block: int = 1 << 15) -> JointErrors:
    builder = JointBuilder()
    for start in range(0, error.size, block):
        builder.add(np.abs(reference[start : start + block]), np.abs(error[start : start + block]))
    return builder.result()


def assert_bounds(reference: Array, error: Array, joint: JointErrors, atol: float, rtol: float) -> None:
    true = int(np.count_nonzero(np.abs(error) > atol + rtol * np.abs(reference)))
    least, most = joint.violations(atol, rtol)
    assert least <= true <= most
    limit = atol + rtol * np.abs(reference)
    beyond = float(np.max(np.abs(error) - limit, initial=-np.inf, where=error != 0))
    if abs(beyond) > 2 * joint.slack * (float(np.abs(error).max()) + atol + rtol * float(np.abs(reference).max())):
        assert (least > 0) == (true > 0), "whether there is any is exact, but for what lies on the limit"
        assert (most == 0) == (true == 0)


def kinds() -> dict[str, tuple[Array, Array]]:
    rng = np.random.default_rng(0)
    r = rng.normal(size=100_000)
    return {
        "independent": (r, rng.normal(size=r.size) * 1e-3),
        "relative": (r, r * rng.normal(size=r.size) * 1e-3),
        "proportional": (r, r * 0.5),  # every point lies on the hull, but for rounding
        "concave": (r, np.cbrt(r)),  # every point is a corner
        "convex": (r, r**3),
        "equal": (r, np.zeros_like(r)),
        "one": (r, np.where(np.arange(r.size) == 70_000, 0.25, 0.0)),
        "zero reference": (np.zeros_like(r), r),
        "tiny and huge": (r * 1e-300, r * 1e300),
        "steps": (np.round(r * 8), np.round(r * 3) / 2),
    }


@pytest.mark.parametrize("kind", kinds())
def test_bounds_hold_for_every_limit(kind: str) -> None:
    reference, error = kinds()[kind]
    joint = joint_of(reference, error)
    assert len(joint.corners) <= MAX_CORNERS
    assert joint.slack < 1e-3
    for atol in LIMITS:
        for rtol in LIMITS:
            assert_bounds(reference, error, joint, atol, rtol)
    largest = float(np.abs(error).max())
    assert joint.violations(largest, 0.0) == (0, 0)
    if largest:
        assert joint.violations(np.nextafter(largest, 0), 0.0)[0] >= 1


@given(
    points=st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=40),
    atol=st.floats(0, 2e3),
    rtol=st.floats(0, 10),
    block=st.integers(1, 50),
)
def test_bounds_hold_for_any_points(points: list[tuple[float, float]], atol: float, rtol: float, block: int) -> None:
    reference, error = np.array(points).T
    joint = joint_of(reference, error, block)
    assert_bounds(reference, error, joint, atol, rtol)
    # A limit through one of the points, where rounding decides.
    r, e = points[0]
    assert_bounds(reference, error, joint, max(0.0, abs(e) - rtol * abs(r)), rtol)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_compare_keeps_them_over_any_layout(dtype: str) -> None:
    rng = np.random.default_rng(1)
    nchw = (rng.normal(size=(2, 7, 33, 65)) * 20).astype(dtype)
    nhwc = np.ascontiguousarray((nchw + (rng.normal(size=nchw.shape) > 1)).astype(dtype).transpose(0, 2, 3, 1))
    found = compare(nchw, nhwc.transpose(0, 3, 1, 2), joint=True)
    assert found.joint is not None
    for atol, rtol in [(0, 0), (0.5, 0), (1, 0), (0, 0.1), (0.5, 0.05), (3, 1)]:
        true = compare(nchw, nhwc.transpose(0, 3, 1, 2), tolerance=Tolerance(atol=atol, rtol=rtol)).violations
        least, most = found.joint.violations(atol, rtol)
        assert true is not None
        assert least <= true <= most
        assert (true == 0) == (most == 0)


def test_positions_left_out_of_the_difference_are_left_out_here() -> None:
    reference = np.array([1.0, np.nan, np.inf, 2.0])
    found = compare(reference, np.array([1.0, np.nan, np.inf, 2.5]), joint=True)
    assert found.joint is not None
    assert found.joint.violations(0.1, 0.0) == (1, 1)
    unlike = compare(reference, np.zeros(4), joint=True)
    assert unlike.joint is None  # NaN on one side: there is no difference to count in
