"""Inputs from files: which file goes to which input, and what is refused."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from aligndbg.core.errors import UsageError
from aligndbg.core.types import TensorInfo
from aligndbg.feeds.files import load_inputs
from feed_cases import X, values


def test_npz_by_name_npy_by_name_and_the_remaining_one(tmp_path: Path) -> None:
    a, b, c = TensorInfo("a", (2,), "float32"), TensorInfo("b=:0", (2,), "int32"), TensorInfo("c", (2,), "float32")
    np.savez(tmp_path / "a.npz", a=np.float32([1, 2]))
    np.save(tmp_path / "b.npy", np.int64([3, 4]))
    np.save(tmp_path / "c=1.npy", np.float64([0.1, 2]))
    notes: list[str] = []
    specs = [str(tmp_path / "c=1.npy"), str(tmp_path / "a.npz"), f"b=:0={tmp_path / 'b.npy'}"]
    feeds = load_inputs(specs, [a, b, c], notes=notes)
    assert {name: (x.dtype.name, x.tolist()) for name, x in feeds.items()} == {
        "a": ("float32", [1, 2]),
        "b=:0": ("int32", [3, 4]),
        "c": ("float32", [np.float32(0.1), 2]),
    }
    assert [note.split(" was ")[0] for note in notes] == ["the input 'b=:0'", "the input 'c'"]


def test_a_single_array_goes_to_a_single_input_under_any_name(tmp_path: Path) -> None:
    x = values(1, 3, 4, 5)
    np.savez(tmp_path / "x.npz", whatever=x)
    np.testing.assert_array_equal(load_inputs([str(tmp_path / "x.npz")], [X])["x"], x)


def test_bfloat16_survives_numpys_files(tmp_path: Path) -> None:
    x = values(4).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "x.npy", x)
    loaded = load_inputs([str(tmp_path / "x.npy")], [TensorInfo("x", (4,), "bfloat16")])["x"]
    assert loaded.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(loaded.view(np.uint16), x.view(np.uint16))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["missing.npy"], "there is no such file"),
        (["y=a.npy"], "no input 'y'"),
        (["a.npy"], "cannot be told"),
        (["x=a.npy", "x=a.npy"], "given twice"),
        (["x=a.npy"], "no value is given for the input 'mask'"),
        (["other.npz"], "no input 'msk'"),
        (["x=broken.npy", "mask=a.npy"], "cannot be read"),
        (["x=broken.npz"], "cannot be read"),
        (["x=pickled.npy"], "cannot be read"),
        (["x=notes.txt"], "the kind of input file .txt is unknown"),
        (["x=broken.png"], "the image cannot be read"),
        ([], "no input is given"),
    ],
)
def test_bad_files_are_usage_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, specs: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.zeros((1, 3, 4, 5), np.float32))
    np.savez("other.npz", x=np.zeros((1, 3, 4, 5), np.float32), msk=np.zeros(1))
    np.save("pickled.npy", np.array([{}], object), allow_pickle=True)
    for name in ("broken.npy", "broken.npz", "broken.png", "notes.txt"):
        Path(name).write_bytes(b"PK\x03\x04 not what it says")
    with pytest.raises(UsageError, match=message):
        load_inputs(specs, [X, TensorInfo("mask", (1,), "int64")])
