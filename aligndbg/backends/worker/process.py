"""The child process of a worker: started, killed with all that it started, and what it said at its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import IO, BinaryIO, cast

from aligndbg.backends.worker.channel import Channel
from aligndbg.core.errors import ModelError, RuntimeCrashError

__all__ = ["Child"]


# The child imports from exactly where the parent does: neither `-m` (which puts the current folder first) nor
# PYTHONPATH (which puts it before the standard library) gives that.
_BOOT = "import sys; sys.path[:] = sys.argv.pop().split('\\n'); from aligndbg.backends.worker.child import main; main()"


class Child:
    """One child process, its pipes, its folders and the end of what it wrote to stderr."""

    def __init__(self, target: str, model: str, options: Mapping[str, str], cwd: str) -> None:
        self.expired = False
        self._owner = os.getpid()
        self.folders = _make_folders(model)
        paths = "\n".join(os.path.abspath(path) for path in sys.path)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, "\n".join(self.folders), paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                start_new_session=True,  # a signal to the caller's group must not take the child before it cleans up
            )
        except OSError as error:
            self._remove_folders()
            raise RuntimeCrashError(f"cannot start a worker process: {error}", context=model) from error
        self._stderr = b""
        self._drain = threading.Thread(target=self._keep_tail, args=(self.process.stderr,), daemon=True)
        self._drain.start()
        reader, writer = cast(BinaryIO, self.process.stdout), cast(BinaryIO, self.process.stdin)
        self.channel = Channel(reader, writer, "down")
        self.channel.folders = self.folders
        self.channel.send(target, model, dict(options))

    def _keep_tail(self, pipe: IO[bytes]) -> None:
        while chunk := os.read(pipe.fileno(), 1 << 16):
            self._stderr = (self._stderr + chunk)[-(8 << 10) :]

    def expire(self) -> None:
        self.expired = True
        self._kill()

    def _kill(self) -> None:
        """The child and what it started: it leads a process group of its own."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def stop(self, grace: float = 0.0) -> None:
        """Ends the child, politely for `grace` seconds, and removes its folders."""
        if os.getpid() != self._owner:  # a fork of the parent inherits this object but does not own the child
            return
        with contextlib.suppress(OSError):
            cast(BinaryIO, self.process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        self._kill()
        self.process.wait()
        self._drain.join(1.0)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None and not self._drain.is_alive():  # a grandchild may hold stderr open
                pipe.close()
        self._remove_folders()

    def _remove_folders(self) -> None:
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def obituary(self, timeout: float | None) -> tuple[str, str]:
        """(fact, hint) of a child that is gone."""
        self.stop(grace=5.0)
        if self.expired:
            return f"ran past {timeout:g} s and was stopped", "raise --timeout, or feed a smaller input"
        code = self.process.returncode
        how = f"exit code {code}"
        if code < 0:
            how = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        lines = [line.strip() for line in self._stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        said = f"; its last words: {lines[-1][:300]}" if lines else ""
        hint = "the runtime itself failed, not this process: the next call starts a fresh one"
        if how == "SIGKILL":
            hint = "something outside killed it, most often for lack of memory; the next call starts a fresh one"
        return f"the runtime's process died ({how}){said}", hint


def _make_folders(model: str) -> tuple[str, ...]:
    """Private folders for what is passed between the processes: in shared memory where there is some, and on disk."""
    made = []
    if os.path.isdir("/dev/shm"):
        with contextlib.suppress(OSError):  # read-only, or full: the disk serves
            made.append(tempfile.mkdtemp(prefix="aligndbg-", dir="/dev/shm"))
    try:
        made.append(tempfile.mkdtemp(prefix="aligndbg-"))
    except OSError as error:
        for folder in made:
            os.rmdir(folder)
        hint = "point TMPDIR at a folder with room and permission to write"
        raise ModelError(
            f"there is no folder for temporary files ({error.strerror})", context=model, hint=hint
        ) from error
    return tuple(made)
