import threading
import time

import pytest

from aligndbg.core.threads import in_threads


def test_results_come_in_the_order_of_the_items() -> None:
    first_may_end = threading.Event()

    def work(k: int) -> int:
        if k == 0:
            first_may_end.wait(1)
        else:
            first_may_end.set()
        return k * k

    assert list(in_threads(work, range(20))) == [k * k for k in range(20)]


def test_an_error_ends_the_work_and_is_raised() -> None:
    begun = []

    def work(k: int) -> int:
        begun.append(k)
        if k == 2:
            raise ValueError("two")
        time.sleep(0.005)
        return k

    with pytest.raises(ValueError, match="two"):
        list(in_threads(work, range(1000)))
    assert len(begun) < 1000


def test_what_is_worked_on_at_a_time_fits_the_budget_but_for_what_is_larger_than_it() -> None:
    lock, held, most = threading.Lock(), 0, 0

    def work(size: int) -> int:
        nonlocal held, most
        with lock:
            held += size
            most = max(most, held)
        time.sleep(0.002)
        with lock:
            held -= size
        return size

    sizes = [3, 9, 3, 3, 8, 1, 2, 3, 3, 10] * 3
    assert list(in_threads(work, sizes, size=int, memory_budget=10)) == sizes
    assert most <= 10
    most = 0
    assert list(in_threads(work, [20, 1, 30, 2], size=int, memory_budget=10)) == [20, 1, 30, 2]
    assert most == 30
