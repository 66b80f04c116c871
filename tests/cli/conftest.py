"""The command line run in this process, and files to feed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligndbg.cli.main import main
from command_line import Done, channels_last, image


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """`run("diff", ...)` -> Done; a usage error of argparse is an exit code like any other."""

    def call(*argv: str | Path) -> Done:
        capsys.readouterr()
        try:
            code = main([str(a) for a in argv])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text must not depend on the machine that runs the tests."""
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    """Files to feed, good and bad, in the reference's layout."""
    x = image()
    nan = x.copy()
    nan[0, 1, 2, 3] = np.nan
    np.savez(tmp_path / "x.npz", input=x)
    np.savez(tmp_path / "other_name.npz", pixels=x, input=x)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "nan.npy", nan)
    np.save(tmp_path / "last.npy", channels_last(x))
    np.save(tmp_path / "as_it_lies.npy", x.reshape(1, 32, 40, 3))
    np.save(tmp_path / "bgr.npy", channels_last(x)[..., ::-1])
    np.save(tmp_path / "scaled.npy", channels_last(x) * 2 - 1)
    np.save(tmp_path / "flipped.npy", channels_last(x)[:, :, ::-1])
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04 and no more")
    return tmp_path
