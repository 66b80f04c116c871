"""The store: every dtype back bit for bit, within its budget, read only."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligndbg.core.errors import UsageError
from aligndbg.trace.store import Store
from traces import DTYPES, same, sample


@pytest.mark.parametrize("budget", [None, 0, 100])
def test_a_store_gives_back_every_dtype(budget: int | None) -> None:
    arrays = {f"{dtype}{shape}": sample(dtype, shape) for dtype in DTYPES for shape in ((3, 5), (), (0, 2))}
    with Store(budget) as store:
        for name, array in arrays.items():
            store.put(name, array)
        assert list(store) == list(arrays)
        assert all(same(store[name], array) for name, array in arrays.items())
        assert store.nbytes == sum(array.nbytes for array in arrays.values())
        assert (store.spilled_bytes > 0) == (budget is not None)


@given(
    st.integers(0, 2000),
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 7), max_size=3)), max_size=9),
)
def test_a_store_stays_within_its_budget(budget: int, specs: list[tuple[np.dtype[Any], list[int]]]) -> None:
    with Store(budget) as store:
        for i, (dtype, shape) in enumerate(specs):
            store.put(str(i), sample(dtype, tuple(shape)))
        assert store.resident_bytes <= budget
        assert store.resident_bytes + store.spilled_bytes == store.nbytes
        assert all(same(store[str(i)], sample(dtype, tuple(shape))) for i, (dtype, shape) in enumerate(specs))


@pytest.mark.parametrize("budget", [None, 0])
def test_what_a_store_gives_is_read_only_and_outlives_it(budget: int | None) -> None:
    store = Store(budget)
    store.put("x", np.arange(1000.0))
    value = store["x"]
    store.close()
    assert value.sum() == 499500
    with pytest.raises(ValueError, match="read-only"):
        value[0] = 1
    assert len(store) == store.nbytes == 0
    with pytest.raises(KeyError):
        store["x"]


def test_spilled_arrays_keep_their_layouts() -> None:
    with Store(0) as store:
        store.put("fortran", np.asfortranarray(np.arange(12).reshape(3, 4)))
        store.put("strided", np.arange(100)[::7])
        assert store["fortran"].tolist() == np.arange(12).reshape(3, 4).tolist()
        assert store["strided"].tolist() == list(range(0, 100, 7))


def test_spilled_arrays_are_read_while_others_are_put() -> None:
    """By one thread; where reading moved the file's position, what is put would land in the wrong place."""
    arrays = {str(k): np.full(5000, k, np.int32) for k in range(400)}
    over = threading.Event()
    with Store(0) as store:
        store.put("first", np.arange(5000))

        def read() -> None:
            while not over.is_set():
                assert store["first"][-1] == 4999

        reader = threading.Thread(target=read)
        reader.start()
        for name, array in arrays.items():
            store.put(name, array)
        over.set()
        reader.join()
        assert all(same(store[name], array) for name, array in arrays.items())


def test_text_stays_in_memory() -> None:
    with Store(0) as store:
        store.put("text", np.array(["a", "b"], object))
        assert store["text"].tolist() == ["a", "b"]


def test_a_name_twice_is_refused() -> None:
    store = Store()
    store.put("x", np.zeros(1))
    with pytest.raises(UsageError, match="'x' is in the store already"):
        store.put("x", np.zeros(1))


def test_no_room_to_spill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="no room to spill the 8 bytes of 'x'"):
        Store(0).put("x", np.zeros(1))
