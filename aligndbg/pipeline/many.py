"""Runs a diff on many samples: here, in several processes, or on a Dask cluster. One function does a share of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from aligndbg.backends.open import absolute, both_opened_in
from aligndbg.core.clock import Clock, Progress
from aligndbg.core.errors import AligndbgError, MissingDependencyError, RuntimeCrashError, UsageError
from aligndbg.core.threads import one_blas_thread
from aligndbg.core.types import Backend
from aligndbg.core.version import __version__
from aligndbg.diff_result import Diff
from aligndbg.feeds.plan import InputOptions
from aligndbg.feeds.samples import Sample, options_of
from aligndbg.pipeline.merge import Partial, merge, result_of, worst_sample
from aligndbg.pipeline.once import Settings, diff_once

__all__ = ["Job", "run_here", "run_on_dask", "run_on_workers"]


SHARES = 4  # a worker gets its samples in about so many shares: a slow one delays no more than that
CONNECT = 10  # seconds to reach a scheduler


@dataclass(frozen=True)
class Job:
    """What is done to every sample. It crosses to other processes, so `models` are paths or `backend:target` there."""

    models: tuple[Any, Any]
    defaults: tuple[Mapping[str, str], Mapping[str, str]]  # how each is opened, where it does not say itself
    options: InputOptions
    settings: Settings
    timeout: float | None
    version: str = __version__

    def portable(self) -> Job:
        """With paths that hold in any working folder. Raises UsageError for models that are open objects."""
        for model in self.models:
            if not isinstance(model, str | os.PathLike):
                hint = "pass paths or backend:target, or leave out workers and scheduler"
                raise UsageError(f"a {type(model).__name__} cannot be sent to another process", hint=hint)
        return replace(self, models=(absolute(self.models[0]), absolute(self.models[1])))

    def opened(self, stack: ExitStack, timeout: float | None) -> tuple[Backend, Backend]:
        """Both models; `stack` closes what was opened here."""
        return both_opened_in(stack, self.models, timeout, self.defaults)


def run_share(job: Job, samples: Sequence[Sample], progress: Progress | None = None) -> Partial:
    """Opens both models, compares them on these samples, and keeps what the result needs."""
    if job.version != __version__:
        raise UsageError(f"a worker has aligndbg {__version__}, this side {job.version}", hint="install the same")
    found = None
    limit = None if job.timeout is None else job.timeout * len(samples)
    with ExitStack() as stack, one_blas_thread():
        ref, cand = job.opened(stack, limit)
        for side in (ref, cand):
            if len(samples) > 1 and "run" not in side.capabilities:
                raise UsageError("a trace is of one input", context=side.info.path, hint="leave samples out")
        for sample in samples:
            settings = replace(
                job.settings, checks=job.settings.checks and sample.index == 0, repro=None, repeated=len(samples) > 1
            )
            options = options_of(sample, job.options, ref.graph(), cand.graph())
            try:
                diff = diff_once(ref, cand, options, settings, Clock(progress, limit=job.timeout))
            except AligndbgError as error:
                raise error.with_context(f"sample {sample.name}") from None  # it may be the same error
            one = Partial.of(sample.index, sample.name, diff)
            found = one if found is None else merge(found, one)
    assert found is not None
    return found


def run_here(job: Job, samples: Sequence[Sample], progress: Progress | None) -> Diff:
    return _result(job, samples, [run_share(job, samples, progress)])


def _result(job: Job, samples: Sequence[Sample], partials: list[Partial]) -> Diff:
    """The result; where the faults' operators are asked for, the worst sample is run once more to write its own."""
    found = result_of(partials)
    if job.settings.repro is not None and found.faults:
        worst = next(sample for sample in samples if sample.index == worst_sample(partials))
        with ExitStack() as stack:
            ref, cand = job.opened(stack, job.timeout)
            options = options_of(worst, job.options, ref.graph(), cand.graph())
            diff_once(ref, cand, options, replace(job.settings, checks=False, details=False), Clock(None))
    return found


def _shares(samples: Sequence[Sample], workers: int) -> list[list[Sample]]:
    size = max(1, -(-len(samples) // (workers * SHARES)))
    return [list(samples[at : at + size]) for at in range(0, len(samples), size)]


def _gather(done: Iterator[tuple[int, Partial]], total: int, progress: Progress | None) -> list[Partial]:
    partials, count = [], 0
    for size, partial in done:
        partials.append(partial)
        count += size
        if progress:
            progress("samples", count, total)
    return partials


def run_on_workers(job: Job, samples: Sequence[Sample], workers: int, progress: Progress | None) -> Diff:
    """The same in `workers` processes of this machine. Raises RuntimeCrashError where one of them dies."""
    from concurrent.futures import as_completed
    from concurrent.futures.process import BrokenProcessPool

    job = job.portable()
    with _pool(workers) as submit:
        shares = {submit(run_share, job, share): len(share) for share in _shares(samples, workers)}
        try:
            done = ((shares[f], f.result()) for f in as_completed(shares))
            partials = _gather(done, len(samples), progress)
        except BrokenProcessPool as error:
            hint = 'out of memory? use fewer workers; in a script, call it under `if __name__ == "__main__":`'
            raise RuntimeCrashError("a sample worker's process died", hint=hint) from error
    return _result(job, samples, partials)


@contextmanager
def _pool(workers: int) -> Iterator[Callable[..., Any]]:
    """A process pool whose processes end with the block, whatever ends it, and with this process, however it ends."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_follow_parent)
    try:
        yield pool.submit
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        ours = set(multiprocessing.active_children()) - before
        for process in ours:
            process.terminate()
        for process in ours:
            process.join()


def _follow_parent() -> None:
    """In a worker: Ctrl-C is the parent's to answer, and a parent that dies takes the worker along."""
    import multiprocessing
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run_on_dask(job: Job, samples: Sequence[Sample], scheduler: str, progress: Progress | None) -> Diff:
    """The same on a Dask cluster, whose workers see the same files under the same paths. Raises UsageError."""
    job = job.portable()
    try:
        from distributed import CancelledError, Client, KilledWorker, as_completed
    except ImportError:
        raise MissingDependencyError(
            "a scheduler needs dask.distributed", hint='pip install "aligndbg[dask]"'
        ) from None
    try:
        client = Client(scheduler, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        hint = "as in tcp://host:8786; is `dask scheduler` running there?"
        raise UsageError(f"the scheduler cannot be reached: {error}", context=scheduler, hint=hint) from error
    with client:
        workers = len(client.nthreads())
        if not workers:
            raise UsageError("the scheduler has no workers", context=scheduler, hint="start `dask worker` there")
        shares = {client.submit(run_share, job, share, pure=False): len(share) for share in _shares(samples, workers)}
        try:
            done = as_completed(list(shares), loop=client.loop)
            partials = _gather(((shares[f], f.result()) for f in done), len(samples), progress)
        except (KilledWorker, CancelledError, OSError) as error:
            hint = "its workers' logs say why; out of memory?"
            raise RuntimeCrashError(f"the cluster lost a share: {error}", context=scheduler, hint=hint) from error
        finally:
            client.cancel(list(shares))
    return _result(job, samples, partials)
