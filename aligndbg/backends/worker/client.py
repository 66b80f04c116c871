"""Runs a file-based backend in a child process that may crash or hang without taking the caller along."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from aligndbg.backends.registry import Entry
from aligndbg.backends.worker.process import Child
from aligndbg.core.errors import AligndbgError, RuntimeCrashError, UsageError
from aligndbg.core.types import Array, Graph, Key, ModelInfo, Overrides

__all__ = ["WorkerBackend"]


ACK_COUNT, ACK_BYTES = 4, 1 << 20  # the parent acknowledges in batches, each well inside the window


class WorkerBackend:
    """A registered backend in a child process, with the same interface.

    The constructor returns at once, so that several workers start side by side; errors of opening surface at first
    use, or in `ready()`. `timeout` bounds the seconds that one child may keep the caller waiting, all requests
    together: the time that the caller takes between them does not count. When the child dies or is stopped the call
    raises RuntimeCrashError, and the next one starts a fresh child. One run at a time: a new request ends a run that
    was not read to its end.
    """

    def __init__(self, entry: Entry, target: str, options: Mapping[str, str], timeout: float | None = None) -> None:
        self._args = (entry.target, target, dict(options), os.getcwd())
        self._path, self._timeout = target, timeout
        self._failure: AligndbgError | None = None
        self._about: tuple[ModelInfo, frozenset[str]] | None = None
        self._graph: Graph | None = None
        self._run: object | None = None  # the run whose end has not been received
        self._leftover = False  # a stopped run's last values are still in the pipe
        self._closed = False
        self._bound: int | None = None
        self._child: Child | None = None
        self._start()

    @property
    def info(self) -> ModelInfo:
        return self._ready()[0]

    @property
    def capabilities(self) -> frozenset[str]:
        return self._ready()[1]

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return None if self._child is None else self._child.process.pid

    def ready(self) -> None:
        """Waits until the child has opened the model. Raises what its opening raised."""
        self._ready()

    def graph(self) -> Graph:
        if self._graph is None:
            self._request("graph")
            self._graph = self._receive()[1]
        return self._graph

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """As Backend.run. The child starts computing at once, and stays at most a few values ahead of the reader.

        Overrides are read one at a time, and none is held here once it is sent. Those past the bound go by disk.
        """
        self._request("overrides")
        sent = 0
        for name in overrides or ():
            array = np.asarray(cast(Mapping[Key, Array], overrides)[name])
            sent += array.nbytes
            self._send("override", name, array, to_disk=self._bound is not None and sent > self._bound)
            del array  # before the next is made
        arrays = {name: np.asarray(value) for name, value in feeds.items()}
        self._send("run", arrays, tuple(fetch), overrides is not None, self._bound)
        self._run = token = object()
        return self._values(token)

    def bound(self, nbytes: int) -> None:
        """As `Backend.bound`."""
        self._bound = nbytes

    def release(self) -> None:
        """As `Backend.release`; a child that is not there holds nothing."""
        if self._child is not None and self._about is not None:
            self._request("release")
            self._receive()

    def close(self) -> None:
        self._closed, self._run = True, None
        if self._child is not None:
            self._finalizer.detach()
            self._child.stop(grace=0.5)
            self._child = None

    def _start(self) -> Child:
        self._about = self._graph = self._run = None
        self._leftover = False
        self._left = self._timeout or 0.0
        self._child = Child(*self._args)
        self._finalizer = weakref.finalize(self, self._child.stop)
        return self._child

    def _ready(self) -> tuple[ModelInfo, frozenset[str]]:
        if self._closed:
            raise UsageError("the model is closed", context=self._path)
        if self._failure is not None:
            raise self._failure
        if self._child is None:
            self._start()
        if self._about is None:
            try:
                _, info, capabilities = self._receive()
            except RuntimeCrashError:
                raise
            except AligndbgError as error:
                self._failure = error
                self._drop()
                raise
            self._about = (info, capabilities)
        return self._about

    def _request(self, *message: Any) -> None:
        self._ready()
        if self._run is not None:
            self._stop_run()
        while self._leftover:
            self._leftover = self._receive(raises=False)[0] not in ("end", "error")
        self._send(*message)

    def _stop_run(self) -> None:
        self._run, self._leftover = None, True
        self._send("stop")

    def _values(self, token: object) -> Iterator[tuple[str, Array]]:
        count = size = 0
        try:
            while True:
                if self._run is not token:
                    fact = "the model is closed" if self._closed else "this run was ended by a later request"
                    raise UsageError(fact, context=self._path)
                kind, *rest = self._receive()
                if kind == "end":
                    self._run = None
                    return
                name, value = rest
                count, size = count + 1, size + value.nbytes
                yield name, value
                del value, rest  # the reader may drop it while we wait for the next
                if (count >= ACK_COUNT or size >= ACK_BYTES) and self._run is token:
                    self._send("ack", count)
                    count = size = 0
        finally:
            if self._run is token:
                with contextlib.suppress(RuntimeCrashError):  # nobody waits for this run: the next call starts afresh
                    self._stop_run()

    def _send(self, *message: Any, to_disk: bool = False) -> None:
        def send(child: Child) -> None:
            child.channel.to_disk = to_disk
            child.channel.send(*message)

        self._exchange(send)

    def _receive(self, raises: bool = True) -> tuple[Any, ...]:
        message: tuple[Any, ...] = self._exchange(lambda child: child.channel.receive())
        if message[0] == "end":
            _, info, learnt = message
            self._about = (info, self._ready()[1])
            self._graph = None if learnt else self._graph
        if message[0] == "error" and raises:
            self._run = None
            raise message[1].with_context(self._path)
        return message

    def _exchange(self, action: Any) -> Any:
        """One blocking step with the child, under the time limit; a child that fails it is taken down."""
        child = self._child
        assert child is not None
        started = time.monotonic()
        timer = None
        if self._timeout is not None:
            timer = threading.Timer(max(self._left, 0.0), child.expire)
            timer.daemon = True
            timer.start()
        try:
            return action(child)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            fact, hint = child.obituary(self._timeout)
            self._drop()
            raise RuntimeCrashError(fact, context=self._path, hint=hint) from None
        except AligndbgError:  # an array that could not be sent: nothing has been written yet
            raise
        except BaseException:  # interrupted in the middle of a message: the stream is of no more use
            self._drop()
            raise
        finally:
            if timer is not None:
                timer.cancel()
                self._left -= time.monotonic() - started

    def _drop(self) -> None:
        """Forgets the child, dead or alive; the next call starts another."""
        child, self._child = self._child, None
        self._run, self._leftover = None, False
        if child is not None:
            self._finalizer.detach()
            child.stop()
