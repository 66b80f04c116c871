"""The entry point: signals, errors and exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from aligndbg.cli.arguments import USAGE, parser
from aligndbg.cli.commands import COMMANDS
from aligndbg.cli.output import complain

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name from a model may be more than the terminal can write
        sys.stdout.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    from aligndbg.core.errors import AligndbgError

    with _stoppable() as received:
        try:
            return COMMANDS[args.command](args)
        except AligndbgError as error:
            complain(error)
            return USAGE
        except MemoryError:
            print("aligndbg: error: out of memory\n  hint: --max-memory, or a smaller input", file=sys.stderr)
            return USAGE
        except BrokenPipeError:  # the reader has gone, after the result was made
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            number = received[0] if received else signal.SIGINT
            print(
                f"aligndbg: interrupted ({number.name}); an output that was not complete is not there", file=sys.stderr
            )
            return 128 + number


@contextmanager
def _stoppable() -> Iterator[list[signal.Signals]]:
    """Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt, so that children and temporary files go; a second one kills.

    Yields the signals received. One that is ignored (nohup) stays so; in another thread than the main one nothing is
    changed.
    """
    received: list[signal.Signals] = []
    kinds = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {kind: signal.getsignal(kind) for kind in kinds}
    before = {kind: handler for kind, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def stop(number: int, _: Any) -> NoReturn:
        received.append(signal.Signals(number))
        for kind in before:
            signal.signal(kind, signal.SIG_DFL)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    try:
        for kind in before:
            signal.signal(kind, stop)
        yield received
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


if __name__ == "__main__":
    sys.exit(main())
