"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aligndbg.core.errors import UsageError
from aligndbg.core.files import replacing

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and devices as POSIX has them")


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


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with replacing(path) as file:
            file.write(b"x" * 100_000)

    for path in (tmp_path / "no" / "f", tmp_path, Path("/dev/full")):
        with pytest.raises(UsageError, match="cannot write"):
            write(path)
