"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from aligndbg.core.errors import UsageError
from aligndbg.core.files import replacing, write_text

POSIX = pytest.mark.skipif(os.name != "posix", reason="links and devices as POSIX has them")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with replacing(path) as file:
        file.write(b"one")
        assert not path.exists()

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"one"
    assert [each.name for each in tmp_path.iterdir()] == ["f"]


@POSIX
def test_links_are_followed_and_devices_written(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    with replacing("/dev/null") as file:
        file.write(b"gone")
    assert not Path("/dev/null").is_file()


@POSIX
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with replacing(path) as file:
            file.write(b"x" * 100_000)

    for path in (tmp_path / "no" / "f", tmp_path, Path("/dev/full")):
        with pytest.raises(UsageError, match="cannot write"):
            write(path)


def test_a_file_is_written_whole_and_with_ordinary_rights(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        write_text(tmp_path / "a.json", "ü\n")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.json").read_bytes() == "ü\n".encode()
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


@pytest.mark.parametrize("place", ["missing/a.json", ".", "file/a.json", "x" * 300])
def test_a_place_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("old")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        write_text(place, "text")
    assert place in str(caught.value)
    assert caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match="No space left"):
        write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_relative_path_and_a_dash_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text("a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"
