"""Constants of a recording, which nobody knows."""

from __future__ import annotations

from pathlib import Path

from causes import Planted, conv, explained_from_the_reference_alone


def test_a_bias_that_a_recorded_candidate_lacks(tmp_path: Path) -> None:
    explained_from_the_reference_alone(tmp_path, Planted("missing_bias", "missing_bias", conv(), conv(bias=False)))
