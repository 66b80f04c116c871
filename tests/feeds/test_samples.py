"""Where many samples come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aligndbg.core.errors import UsageError
from aligndbg.feeds.samples import list_samples


def test_the_first_samples_of_a_dataset(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((5, 2)))
    assert [sample.row for sample in list_samples(tmp_path / "d.npz", 2, 0)] == [0, 1]
    assert [sample.seed for sample in list_samples(None, 3, 7)] == [7, 8, 9]


def test_what_is_no_dataset(tmp_path: Path) -> None:
    np.savez(tmp_path / "uneven.npz", x=np.zeros((5, 2)), y=np.zeros((4, 2)))
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 2)))
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "notes.txt").touch()
    (tmp_path / "none").mkdir()
    for path, count, said in (
        ("uneven.npz", None, "4, 5 rows"),
        ("empty.npz", None, "holds no sample"),
        ("mixed", None, "'notes.txt' is not a sample"),
        ("none", None, "holds no sample"),
        ("missing", None, "not a dataset"),
        ("empty.npz", 3, "holds 0 samples, not 3"),
    ):
        with pytest.raises(UsageError, match=said):
            list_samples(tmp_path / path, count, 0)
