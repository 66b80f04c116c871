"""The axis that an operator works along."""

from __future__ import annotations

from causes import FromRecordings, Planted, op


class TestAxis(FromRecordings):
    PLANTED = (Planted("axis", "axis", op("Softmax", axis=1), op("Softmax", axis=3), recorded=True),)
