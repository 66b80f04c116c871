"""The worker: what crosses, what a death or a hang looks like, and that nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest

from aligndbg.backends.registry import Entry
from aligndbg.backends.worker import channel
from aligndbg.backends.worker.child import WINDOW_COUNT
from aligndbg.backends.worker.client import WorkerBackend
from aligndbg.core.arrays import Lazy
from aligndbg.core.errors import FeedError, ModelError, RuntimeCrashError, UsageError

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and unlinked files as POSIX has them")

MODULE = """
import ctypes, os, subprocess, sys, time
from types import MappingProxyType
import numpy as np
from aligndbg.backends.base import BaseBackend
from aligndbg.core.errors import FeedError
from aligndbg.core.types import Graph, ModelInfo, Node

class Odd(BaseBackend):
    '''Gives back what it is fed; behaves as the options and the fetched names say.'''
    capabilities = frozenset({"graph", "run"})

    def __init__(self, target, options):
        self.info = ModelInfo(target, "odd", str(os.getpid()), dict(options))
        self.asked = 0
        act(options.get("open", ""))

    def graph(self):
        act(self.info.options.get("graph", ""))
        attributes = MappingProxyType({"table": np.arange(40000), "pid": os.getpid()})
        return Graph((Node("Op", "op", (), ("a",), attributes),), outputs=("a",))

    def run(self, feeds, fetch, overrides=None):
        for name in fetch:
            act(name)
            if name == "count":
                yield name, np.array(self.asked)
            elif name == "learn":
                self.info = ModelInfo(self.info.path, "odd", self.info.version, {"learnt": str(len(feeds))})
            elif name == "spawn":
                yield name, np.array(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
            elif name.startswith("big"):
                self.asked += 1
                yield name, np.full(1 << 20, self.asked, np.uint8)
        for name, array in {**feeds, **(overrides or {})}.items():
            yield name, array

    def release(self):
        self.asked = -1

    def close(self):
        pass

def act(word):
    if word == "segfault":
        print("about to fail", file=sys.stderr, flush=True)
        ctypes.string_at(0)
    elif word == "abort":
        os.abort()
    elif word == "exit":
        os._exit(7)
    elif word == "hang":
        time.sleep(60)
    elif word == "nap":
        time.sleep(0.1)
    elif word == "noise":
        print("python noise", flush=True)
        os.write(1, b"native noise" * 1000)
    elif word == "feed_error":
        raise FeedError("too small", hint="larger")
    elif word == "bug":
        [][3]
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., WorkerBackend]]:
    (tmp_path / "odd_backend.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    made: list[WorkerBackend] = []

    def make(timeout: float | None = None, **options: str) -> WorkerBackend:
        made.append(WorkerBackend(Entry("odd", "odd_backend:Odd"), "some.model", options, timeout))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def odd(make: Callable[..., WorkerBackend]) -> WorkerBackend:
    return make()


def folders_of(worker: WorkerBackend) -> list[Path]:
    assert worker._child is not None
    return [Path(folder) for folder in worker._child.folders]


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # nobody may be there to reap an orphan
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


ARRAYS: dict[str, Any] = {
    "small": np.arange(6, dtype=np.float32).reshape(2, 3),
    "large": np.arange(100_000, dtype=np.int64),
    "scalar": np.array(3, np.uint8),
    "empty": np.empty((0, 4), np.float16),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j], np.complex64),
    "nan": np.array([np.nan, -0.0, np.inf]),
    "bfloat16": np.linspace(-1, 1, 100_000).astype(ml_dtypes.bfloat16),
    "float8": np.linspace(-1, 1, 7).astype(ml_dtypes.float8_e4m3fn).reshape(7, 1),
    "int4": np.arange(-8, 8).astype(ml_dtypes.int4),
    "fortran": np.asfortranarray(np.arange(90_000.0).reshape(300, 300)),
    "strided": np.arange(400_000, dtype=np.int32)[::4],
    "big_endian": np.arange(5, dtype=">f4"),
    "text": np.array(["a", "bü"]),
    "objects": np.array(["a", None], object),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_cross_both_ways(odd: WorkerBackend, name: str) -> None:
    array = ARRAYS[name]
    got = dict(odd.run({name: array}, (), {"again": array}))
    for value in got.values():
        assert (value.dtype, value.shape) == (array.dtype, array.shape)
        assert value.tolist() == array.tolist() if array.dtype.hasobject else value.tobytes() == array.tobytes()
    assert list(got) == [name, "again"]


def test_arrays_are_the_callers_own_and_outlive_the_worker(odd: WorkerBackend) -> None:
    feed = np.ones(100_000)
    got = dict(odd.run({"x": feed}, ()))["x"]
    got += 1
    assert feed.sum() == 100_000
    assert dict(odd.run({"x": feed}, ()))["x"].sum() == 100_000
    odd.close()
    assert got.sum() == 200_000


@POSIX
def test_no_file_stays_while_arrays_are_held(odd: WorkerBackend) -> None:
    got = dict(odd.run({str(i): np.full(100_000, i) for i in range(5)}, ()))
    assert [value[0] for value in got.values()] == [0, 1, 2, 3, 4]
    assert [list(folder.iterdir()) for folder in folders_of(odd)] == [[]] * len(folders_of(odd))


def test_without_room_in_shared_memory_the_temporary_folder_serves(
    odd: WorkerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "SHM_RESERVE", 1 << 62)
    assert dict(odd.run({"x": np.ones(100_000)}, ()))["x"].sum() == 100_000


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
def test_a_full_disk_is_an_error_and_not_a_crash(odd: WorkerBackend) -> None:
    odd.ready()
    child = odd._child
    assert child is not None
    child.channel.folders = (child.folders[-1],)
    os.symlink("/dev/full", os.path.join(child.folders[-1], "down1"))
    with pytest.raises(ModelError, match="no room"):
        list(odd.run({"x": np.ones(100_000)}, ()))
    assert dict(odd.run({"x": np.ones(100_000)}, ()))["x"].sum() == 100_000


def test_the_graph_crosses_once(odd: WorkerBackend) -> None:
    graph = odd.graph()
    assert graph.nodes[0].attributes["table"].sum() == np.arange(40000).sum()
    assert odd.graph() is graph
    assert (odd.info.path, odd.info.backend, odd.capabilities) == ("some.model", "odd", {"graph", "run"})


def test_what_the_backend_learns_by_running_crosses(odd: WorkerBackend) -> None:
    first = odd.graph()
    assert "learnt" not in odd.info.options
    list(odd.run({"x": np.zeros(1)}, ["learn"]))
    assert odd.info.options["learnt"] == "1"
    assert odd.graph() is not first  # this backend makes a new one each time
    assert odd.capabilities == {"graph", "run"}


def test_what_the_runtime_prints_does_not_reach_the_caller(
    odd: WorkerBackend, capfd: pytest.CaptureFixture[str]
) -> None:
    assert dict(odd.run({}, ("noise", "count")))["count"] == 0
    assert capfd.readouterr() == ("", "")


# ---- back-pressure and runs left early


def test_the_child_stays_a_window_ahead(odd: WorkerBackend) -> None:
    values = odd.run({}, [f"big{i}" for i in range(100)])
    assert [int(next(values)[1][0]) for _ in range(3)] == [1, 2, 3]
    values.close()  # type: ignore[attr-defined]
    made = int(dict(odd.run({}, ["count"]))["count"])
    assert 3 <= made <= 3 + WINDOW_COUNT + 1


def test_a_run_left_to_the_garbage_collector(odd: WorkerBackend) -> None:
    next(odd.run({}, [f"big{i}" for i in range(100)]))
    gc.collect()
    assert "count" in dict(odd.run({}, ["count"]))


def test_a_run_never_read(odd: WorkerBackend) -> None:
    odd.run({}, [f"big{i}" for i in range(30)])
    assert list(dict(odd.run({}, ["count"]))) == ["count"]
    assert [list(folder.iterdir()) for folder in folders_of(odd)] == [[]] * len(folders_of(odd))


def test_a_new_run_ends_the_old_one(odd: WorkerBackend) -> None:
    old = odd.run({}, [f"big{i}" for i in range(100)])
    next(old)
    assert "count" in dict(odd.run({}, ["count"]))
    with pytest.raises(UsageError, match="ended by a later request"):
        next(old)


def test_overrides_past_the_bound_wait_on_disk(odd: WorkerBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = channel.Channel.write_segment, []

    def watched(channel: channel.Channel, flat: Any) -> str:
        written.append(Path(write(channel, flat)).parent)
        return str(written[-1] / f"{channel._side}{channel._count}")

    monkeypatch.setattr(channel.Channel, "write_segment", watched)
    overrides = {str(k): np.full(100_000, k, np.uint8) for k in range(5)}
    odd.bound(250_000)
    got = dict(odd.run({"x": np.full(100_000, 9, np.uint8)}, (), overrides))
    assert {name: int(array[0]) for name, array in got.items()} == {"x": 9} | {str(k): k for k in range(5)}
    memory, disk = folders_of(odd)
    assert written == [memory, memory, disk, disk, disk, memory]  # the feed is no override


def test_overrides_are_made_one_at_a_time_and_not_kept(odd: WorkerBackend) -> None:
    alive: list[int] = []

    class Counted(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            alive.remove(id(self))

    def make(k: int) -> Any:
        made = np.full(1 << 18, k, np.uint8).view(Counted)
        alive.append(id(made))
        assert len(alive) <= 2  # this one, and the one that is being sent
        return made

    given = Lazy({f"t{k}": partial(make, k) for k in range(6)})
    found = dict(odd.run({}, ["count"], given.but({"t0"}).over({"t1": np.zeros(1), "other": np.ones(3)})))
    assert not alive
    assert found.keys() == {"count", "t1", "t2", "t3", "t4", "t5", "other"}
    assert all((found[f"t{k}"] == k).all() for k in range(1, 6))
    assert dict(odd.run({}, ["count"])).keys() == {"count"}  # none of them is left for the next run


def test_what_is_kept_from_run_to_run_can_be_released(odd: WorkerBackend) -> None:
    values = odd.run({}, ["big"] * 40)  # begun, and not read to its end
    next(values)
    odd.release()
    assert dict(odd.run({}, ["count"]))["count"] == -1


def test_a_worker_that_has_not_opened_its_model_has_nothing_to_release(make: Callable[..., WorkerBackend]) -> None:
    make(open="exit").release()


def test_a_closed_worker_says_so(odd: WorkerBackend) -> None:
    values = odd.run({}, ["big1", "big2"])
    next(values)
    odd.close()
    odd.close()
    with pytest.raises(UsageError, match="closed"):
        next(values)
    with pytest.raises(UsageError, match="closed"):
        odd.graph()


# ---- errors


def test_errors_cross_as_themselves(odd: WorkerBackend) -> None:
    with pytest.raises(FeedError) as caught:
        list(odd.run({}, ["feed_error"]))
    assert (caught.value.fact, caught.value.context, caught.value.hint) == ("too small", "some.model", "larger")
    assert "count" in dict(odd.run({}, ["count"]))


def test_other_errors_say_where_they_come_from(odd: WorkerBackend) -> None:
    with pytest.raises(ModelError, match=r"unexpected IndexError: list index out of range") as caught:
        list(odd.run({}, ["bug"]))
    assert "odd_backend.py" in caught.value.fact
    assert caught.value.context == "some.model"


def test_errors_of_opening_surface_at_first_use_and_stay(make: Callable[..., WorkerBackend]) -> None:
    worker = make(open="feed_error")
    for use in (worker.ready, worker.graph, lambda: worker.info, lambda: worker.run({}, ())):
        with pytest.raises(FeedError, match="too small"):
            use()


@POSIX
@pytest.mark.parametrize(
    ("word", "says"), [("segfault", "SIGSEGV.*about to fail"), ("abort", "SIGABRT"), ("exit", "exit code 7")]
)
def test_a_death_is_an_error_and_the_next_call_goes_on(odd: WorkerBackend, word: str, says: str) -> None:
    before, pid = folders_of(odd), odd.info.version
    with pytest.raises(RuntimeCrashError, match=says) as caught:
        list(odd.run({}, ["big1", word]))
    assert caught.value.context == "some.model"
    assert "next call starts a fresh one" in caught.value.hint
    assert not any(folder.exists() for folder in before)
    assert "count" in dict(odd.run({}, ["count"]))
    assert odd.info.version != pid


@POSIX
def test_a_death_while_opening(make: Callable[..., WorkerBackend]) -> None:
    worker = make(open="segfault")
    for _ in range(2):
        with pytest.raises(RuntimeCrashError, match="SIGSEGV"):
            worker.ready()


@POSIX
def test_killed_from_outside_hints_at_memory(odd: WorkerBackend) -> None:
    os.kill(int(odd.info.version), signal.SIGKILL)
    with pytest.raises(RuntimeCrashError, match="SIGKILL") as caught:
        list(odd.run({}, ["count"]))
    assert "memory" in caught.value.hint


@pytest.mark.parametrize("where", ["open", "graph", "run"])
def test_a_hang_ends_at_the_time_limit(make: Callable[..., WorkerBackend], where: str) -> None:
    hang = {} if where == "run" else {where: "hang"}
    worker = make(timeout=0.8 if where == "open" else 5, **hang)
    if where != "open":
        worker.ready()
        worker._timeout = worker._left = 0.3
    started = time.monotonic()
    with pytest.raises(RuntimeCrashError, match=r"ran past 0\.\d s"):
        worker.graph() if where != "run" else list(worker.run({}, ["hang"]))
    assert time.monotonic() - started < 4


def test_the_time_limit_counts_only_the_childs_time(make: Callable[..., WorkerBackend]) -> None:
    worker = make(timeout=5)
    worker.ready()
    worker._left = 0.4
    names = []
    for name, _ in worker.run({}, [f"big{i}" for i in range(10)]):
        names.append(name)
        time.sleep(0.06)  # a slow reader
    assert len(names) == 10


def test_the_time_limit_is_for_all_requests_together(make: Callable[..., WorkerBackend]) -> None:
    worker = make(timeout=30)
    worker.ready()
    worker._timeout = worker._left = 0.5

    def ask_often() -> None:
        for _ in range(20):
            list(worker.run({}, ["nap"]))

    with pytest.raises(RuntimeCrashError, match=r"ran past 0\.5 s"):
        ask_often()
    worker._timeout = 30
    assert "count" in dict(worker.run({}, ["count"]))  # a fresh child has its own time


@POSIX
def test_what_a_runtime_started_goes_with_it(make: Callable[..., WorkerBackend]) -> None:
    worker = make()
    grandchild = int(dict(worker.run({}, ["spawn"]))["spawn"])
    assert psutil.pid_exists(grandchild)
    worker.close()
    assert gone(grandchild)
    worker = make(timeout=30)
    grandchild = int(dict(worker.run({}, ["spawn"]))["spawn"])
    worker._left = 0.2
    with pytest.raises(RuntimeCrashError, match="ran past"):
        list(worker.run({}, ["hang"]))
    assert gone(grandchild)


def test_without_a_folder_for_temporary_files(
    make: Callable[..., WorkerBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(ModelError, match="no folder for temporary files") as caught:
        make().ready()
    assert "TMPDIR" in caught.value.hint


# ---- nothing left behind


@POSIX
def test_close_and_collection_leave_nothing(make: Callable[..., WorkerBackend], tmp_path: Path) -> None:
    worker = make()
    worker.ready()
    folders, pid = folders_of(worker), int(worker.info.version)
    worker.close()
    assert gone(pid)
    assert not any(folder.exists() for folder in folders)
    dropped = WorkerBackend(Entry("odd", "odd_backend:Odd"), "some.model", {})
    folders, pid = folders_of(dropped), int(dropped.info.version)
    del dropped
    gc.collect()
    assert gone(pid)
    assert not any(folder.exists() for folder in folders)


SCRIPT = """
import os, sys, signal
from aligndbg.backends.registry import Entry
from aligndbg.backends.worker.client import WorkerBackend
worker = WorkerBackend(Entry("odd", "odd_backend:Odd"), "some.model", {})
values = worker.run({}, [f"big{i}" for i in range(50)] + ["hang"])
next(values)
print(worker.info.version, *worker._child.folders, flush=True)
"""


def _orphan(tmp_path: Path, ending: str) -> tuple[int, list[Path], subprocess.CompletedProcess[str]]:
    """Runs SCRIPT and then `ending` in another Python: its child's id, its folders, how it ended."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, "-c", SCRIPT + textwrap.dedent(ending)]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=60, check=False, start_new_session=True
    )
    pid, *folders = done.stdout.splitlines()[0].split()
    return int(pid), [Path(folder) for folder in folders], done


@POSIX
@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),  # the interpreter's normal end
        ("raise ValueError", 1),
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        # as `timeout`, a CI runner or a closing terminal do: to all processes of the group
        ("os.killpg(0, signal.SIGTERM)", -signal.SIGTERM),
        ("os.killpg(0, signal.SIGKILL)", -signal.SIGKILL),
    ],
    ids=["end", "error", "os._exit", "SIGKILL", "SIGTERM_to_all", "SIGKILL_to_all"],
)
def test_the_child_does_not_outlive_its_parent(
    make: Callable[..., WorkerBackend], tmp_path: Path, ending: str, code: int
) -> None:
    pid, folders, done = _orphan(tmp_path, ending)
    assert done.returncode == code
    assert gone(pid)
    end = time.monotonic() + 5
    while any(folder.exists() for folder in folders) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(folder.exists() for folder in folders)


@POSIX
def test_ctrl_c_stops_the_child_and_the_next_call_goes_on(make: Callable[..., WorkerBackend], tmp_path: Path) -> None:
    ending = """
        import threading
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            list(worker.run({}, ["hang"]))
        except KeyboardInterrupt:
            print("interrupted", dict(worker.run({}, ["count"])), flush=True)
    """
    pid, _, done = _orphan(tmp_path, ending)
    assert "interrupted {'count': array(0)}" in done.stdout, done.stderr
    assert done.stderr == ""
    assert gone(pid)


@POSIX
def test_a_fork_of_the_parent_does_not_end_the_child(make: Callable[..., WorkerBackend], tmp_path: Path) -> None:
    ending = """
        values.close()
        if os.fork() == 0:
            sys.exit()
        os.wait()
        print(dict(worker.run({}, ["count"])).keys(), flush=True)
    """
    _, _, done = _orphan(tmp_path, ending)
    assert "dict_keys(['count'])" in done.stdout, done.stderr


def test_two_workers_start_side_by_side(make: Callable[..., WorkerBackend]) -> None:
    started = time.monotonic()
    workers = [make(), make()]
    returned = time.monotonic() - started
    for worker in workers:
        worker.ready()
    assert returned < time.monotonic() - started
    assert len({worker.info.version for worker in workers}) == 2


def test_temporary_files_of_the_runtime_go_with_it(make: Callable[..., WorkerBackend], tmp_path: Path) -> None:
    (tmp_path / "littering.py").write_text(
        textwrap.dedent("""
        import tempfile
        from aligndbg.core.types import ModelInfo
        class Litter:
            capabilities = frozenset()
            def __init__(self, target, options):
                self.info = ModelInfo(tempfile.NamedTemporaryFile(delete=False).name, "litter")
            def close(self): pass
        """)
    )
    worker = WorkerBackend(Entry("litter", "littering:Litter"), "m", {})
    path = worker.info.path
    assert os.path.exists(path)
    worker.close()
    assert not os.path.exists(path)
