"""`aligndbg doctor`: what works here, what is missing, and how to get it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from aligndbg.backends import doctor
from aligndbg.backends.doctor import check_backends, render_doctor
from aligndbg.backends.registry import REGISTRY, Entry


def only(monkeypatch: pytest.MonkeyPatch, *entries: Entry) -> None:
    monkeypatch.setattr(doctor, "REGISTRY", {entry.name: entry for entry in entries})


def test_every_backend_of_the_base_install_works_here() -> None:
    states = {state.entry.name: state for state in check_backends()}
    assert states.keys() == REGISTRY.keys()
    for name in ("onnx", "tflite", "recorded", "memory"):
        assert states[name].works
        assert not states[name].broken
    assert "onnxruntime 1." in states["onnx"].text


def test_a_missing_extra_says_how_to_get_it_and_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, Entry("ghost", "m:C", (".gh",), extra="ghosts", needs=("no_such_package_here",)))
    (state,) = check_backends()
    assert not state.works
    assert not state.broken
    assert "no_such_package_here" in state.text
    assert 'pip install "aligndbg[ghosts]"' in state.text


def test_a_missing_base_package_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, Entry("base", "m:C", needs=("no_such_package_here",)))
    assert check_backends()[0].broken


def test_a_package_that_fails_or_dies_on_import_is_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In a child process: it may take its process along."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "failing_package_here.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    (folder / "dying_package_here.py").write_text("import os; os._exit(3)")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    only(
        monkeypatch,
        Entry("failing", "m:C", needs=("failing_package_here",), extra="x"),
        Entry("dying", "m:C", needs=("dying_package_here",), extra="x"),
    )
    failing, dying = check_backends()
    assert not failing.works
    assert "libcudart.so.12" in failing.text
    assert not dying.works
    assert "3" in dying.text


def test_a_probe_tells_each_need_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("site")
    (folder / "probing_here.py").write_text(
        "def some():\n    print('ok\\tlibrary: 1.2')\n    print('noise')\n    print('no\\tdriver: none')\n"
        "def died():\n    import os; os._exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    entries = [Entry(name, "m:C", (".p",), extra="x", probe=f"probing_here:{name}") for name in ("some", "died")]
    only(monkeypatch, *entries)
    some, died = check_backends()
    assert (some.works, some.details) == (False, ("library: 1.2", "driver: none"))
    assert (died.works, died.details) == (False, ())
    assert "code 3" in died.text
    console = Console(file=io.StringIO(), width=200, color_system=None)
    render_doctor([some], console)
    assert isinstance(console.file, io.StringIO)
    assert [line.strip() for line in console.file.getvalue().splitlines()[1:]] == list(some.details)


def test_one_line_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, REGISTRY["memory"], Entry("ghost", "m:C", extra="ghosts", needs=("no_such_package_here",)))
    console = Console(file=io.StringIO(), width=200, color_system=None)
    render_doctor(check_backends(), console)
    out = console.file
    assert isinstance(out, io.StringIO)
    lines = out.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", "memory"], ["no", "ghost"]]
    assert '"aligndbg[ghosts]"' in lines[1]  # brackets are text, not markup
