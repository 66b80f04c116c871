"""The worker's side: a backend that serves its parent, until either ends."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from typing import Any, NoReturn

from aligndbg.backends.registry import load
from aligndbg.backends.worker.channel import Channel
from aligndbg.core.errors import AligndbgError, ModelError
from aligndbg.core.process_memory import give_back
from aligndbg.core.types import Array, Graph, Key

WINDOW_COUNT, WINDOW_BYTES = 8, 64 << 20  # values the child may send ahead of the consumer


_LEAVING = threading.Lock()  # in the child


def main() -> None:
    """The child's whole life. Exits by os._exit: a runtime's own teardown is slow, and may crash."""
    channel = Channel(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"), "up")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what a runtime prints must not reach the protocol
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    channel.folders = tuple(sys.argv.pop().split("\n"))
    try:
        target, model, options = channel.receive()
    except EOFError:  # the parent died while it started us
        _leave(channel, 1)
    tempfile.tempdir = os.environ["TMPDIR"] = channel.folders[-1]  # temporary files go with the session's folder
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    status = 0
    try:
        _serve(channel, inbox, target, model, options)
    except BrokenPipeError:  # the parent is gone
        status = 1
    finally:
        sys.stderr.flush()
        _leave(channel, status)


def _listen(channel: Channel, inbox: queue.SimpleQueue[Any]) -> None:
    """Moves requests to the inbox. A parent that closes, or dies, ends the child even in the middle of a run."""
    while True:
        try:
            inbox.put(channel.receive())
        except EOFError:
            break
        except Exception as error:  # a message that cannot be read here: the request fails, not the worker
            inbox.put(("unreadable", error))
    inbox.put(("close",))
    time.sleep(0.5)  # for the main thread to leave by itself
    _leave(channel, 1)


def _leave(channel: Channel, status: int) -> NoReturn:
    with _LEAVING:  # never given back: a thread that comes second must not cut the first one short
        for folder in channel.folders:  # the parent does the same, if it still lives
            for _ in range(100):  # another thread may be writing a file there
                shutil.rmtree(folder, ignore_errors=True)
                if not os.path.exists(folder):
                    break
        os._exit(status)


def _serve(channel: Channel, inbox: queue.SimpleQueue[Any], target: str, model: str, options: dict[str, str]) -> None:
    try:
        backend = load(target)(model, options)
        channel.send("ready", backend.info, backend.capabilities)
    except Exception as error:
        channel.send("error", _portable(error))
        return
    sent: Graph | None = None
    given: dict[Key, Array] = {}  # overrides, which arrive one by one before the run that they are for
    while True:
        request = inbox.get()
        if request[0] == "close":
            break
        try:
            if request[0] == "graph":
                sent = backend.graph()
                channel.send("graph", sent)
            elif request[0] == "overrides":
                given.clear()
            elif request[0] == "override":
                given[request[1]] = request[2]
            elif request[0] == "run":
                _, feeds, fetch, overridden, nbytes = request
                if nbytes is not None:
                    backend.bound(nbytes)
                _stream(channel, inbox, backend.run(feeds, fetch, _taken(given) if overridden else None))
                learnt = sent is not None and backend.graph() is not sent  # some do by running
                channel.send("end", backend.info, learnt)
            elif request[0] == "release":
                backend.release()
                give_back()
                channel.send("released")
            elif request[0] == "unreadable":
                raise request[1]
            # "ack" and "stop" that arrive after the last value was sent need no answer
        except BrokenPipeError:
            raise
        except Exception as error:
            channel.send("error", _portable(error))
        feeds = request = None
    backend.close()


def _taken(given: dict[Key, Array]) -> dict[Key, Array]:
    """All of them, for the one who asks: a backend that has copied an array may let it go."""
    taken = dict(given)
    given.clear()
    return taken


def _stream(channel: Channel, inbox: queue.SimpleQueue[Any], values: Iterator[tuple[str, Array]]) -> None:
    """Sends values, and has the next one made once the window allows; returns early when the parent says stop."""
    ahead: deque[int] = deque()
    for name, value in values:
        channel.send("value", name, value)
        ahead.append(value.nbytes)
        del value  # before the next is made
        while not inbox.empty() or len(ahead) >= WINDOW_COUNT or sum(ahead) >= WINDOW_BYTES:
            verb, *rest = inbox.get()
            if verb != "ack":
                if verb == "close":
                    inbox.put((verb,))
                return
            for _ in range(rest[0]):
                ahead.popleft()


def _portable(error: Exception) -> AligndbgError:
    """An error that can cross the pipe; one that was not raised on purpose says where it came from."""
    if isinstance(error, AligndbgError):
        return error
    if isinstance(error, MemoryError):
        return ModelError("more memory is needed than there is", hint="is the file whole? feed a smaller input")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = (str(error).strip().splitlines() or [""])[0][:300]
    where = f"{os.path.basename(frame.filename)}:{frame.lineno} in {frame.name}"
    return ModelError(
        f"unexpected {type(error).__name__}: {text} ({where})",
        hint="is the file whole? if its own runtime takes it, this is a bug of aligndbg",
    )
