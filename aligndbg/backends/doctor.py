"""Which backends work here: each one's packages, found and really imported in a child process, or how to get them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from aligndbg.backends.registry import REGISTRY, Entry, outside

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["BackendState", "check_backends", "render_doctor"]


@dataclass(frozen=True)
class BackendState:
    """Whether one backend works here, and in words why or with what."""

    entry: Entry
    works: bool
    text: str
    details: tuple[str, ...] = ()

    @property
    def broken(self) -> bool:
        """True where the base install should have brought what is missing; an extra is the user's choice."""
        return not self.works and not self.entry.extra and self.entry.package == "aligndbg"


def check_backends() -> list[BackendState]:
    """The state of each registered backend, and of those that other packages bring."""
    others, failures = outside()
    entries = [*REGISTRY.values(), *others.values()]
    states = [BackendState(entry, *(_probed(entry) if entry.probe else _state(entry))) for entry in entries]
    return states + [BackendState(Entry(name, "", package=""), False, text) for name, text in failures.items()]


def render_doctor(states: Iterable[BackendState], console: Console) -> None:
    """One line a backend, and one for each further thing that it needs."""
    from rich.text import Text

    for state in states:
        mark = ("ok  ", "green") if state.works else ("no  ", "red")
        console.print(Text.assemble(mark, f"{state.entry.name:<10} {state.text}"))
        for line in state.details:
            console.print(Text(f"{'':15}{line}"))


def _state(entry: Entry) -> tuple[bool, str]:
    missing = [name for name in entry.needs if find_spec(name) is None]
    package = entry.package
    install = f'pip install "{package}[{entry.extra}]"' if entry.extra else f"pip install --force-reinstall {package}"
    if missing:
        return False, f"{entry.summary}: {', '.join(missing)} is not installed; {install}"
    failure = _import_failure(entry.needs)
    if failure:
        return False, f"{entry.summary}: {failure}"
    versions = ", ".join(f"{n} {_version(n)}" for n in entry.needs)
    kinds = f"  ({' '.join(entry.suffixes)})" if entry.suffixes else ""
    return True, f"{entry.summary}{kinds}{': ' + versions if versions else ''}"


def _probed(entry: Entry) -> tuple[bool, str, tuple[str, ...]]:
    """What the backend's own probe prints, in a child: `ok` or `no`, a tab, and a line of text."""
    works, text = _state(entry)
    if not works:
        return works, text, ()
    module, _, function = entry.probe.partition(":")
    code = f"from {module} import {function} as probe; probe()"
    done = _child(code)
    told = [line.split("\t", 1) for line in done.stdout.splitlines() if line.startswith(("ok\t", "no\t"))]
    if done.returncode or not told:
        return False, f"{entry.summary}: {_last_words(done)}", ()
    kinds = " ".join(entry.suffixes)
    return all(state == "ok" for state, _ in told), f"{entry.summary}  ({kinds})", tuple(line for _, line in told)


def _child(code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own; one that takes two minutes is told of as having failed."""
    try:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(error.cmd, 1, "", "it takes over two minutes")


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"importing it ended with code {done.returncode}"


def _import_failure(names: tuple[str, ...]) -> str:
    """The last line of what importing them says, in a child: a broken native library may kill its process."""
    if not names:
        return ""
    done = _child("import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import " + ", ".join(names))
    return _last_words(done) if done.returncode else ""


def _version(name: str) -> str:
    found = metadata.packages_distributions().get(name)
    return metadata.version(found[0]) if found else "?"
