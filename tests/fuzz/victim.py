"""Runs command lines given on stdin in this one process, and says how each ended: what the fuzzer tries to break."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import traceback


def main() -> None:
    from aligndbg.cli.main import main as aligndbg

    answers = sys.stdout
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        started = time.monotonic()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code: object = aligndbg(json.loads(line))
            except SystemExit as left:
                code = left.code
            except BaseException:
                code = None
                traceback.print_exc()
        answer = {"code": code, "seconds": time.monotonic() - started, "out": out.getvalue(), "err": err.getvalue()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
