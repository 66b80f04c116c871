"""Which backends work here: each one's packages, found and really imported in a child process, or how to get them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from aligndbg._registry import REGISTRY, Entry

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["BackendState", "check_backends", "render_doctor"]


@dataclass(frozen=True)
class BackendState:
    """Whether one backend works here, and in words why or with what."""

    entry: Entry
    works: bool
    text: str

    @property
    def broken(self) -> bool:
        """True where the base install should have brought what is missing; an extra is the user's choice."""
        return not self.works and not self.entry.extra


def check_backends() -> list[BackendState]:
    """The state of each registered backend."""
    return [BackendState(entry, *_state(entry)) for entry in REGISTRY.values()]


def render_doctor(states: Iterable[BackendState], console: Console) -> None:
    """One line a backend."""
    from rich.text import Text

    for state in states:
        mark = ("ok  ", "green") if state.works else ("no  ", "red")
        console.print(Text.assemble(mark, f"{state.entry.name:<10} {state.text}"))


def _state(entry: Entry) -> tuple[bool, str]:
    missing = [name for name in entry.needs if find_spec(name) is None]
    install = f'pip install "aligndbg[{entry.extra}]"' if entry.extra else "pip install --force-reinstall aligndbg"
    if missing:
        return False, f"{entry.summary}: {', '.join(missing)} is not installed; {install}"
    failure = _import_failure(entry.needs)
    if failure:
        return False, f"{entry.summary}: {failure}"
    versions = ", ".join(f"{n} {_version(n)}" for n in entry.needs)
    kinds = f"  ({' '.join(entry.suffixes)})" if entry.suffixes else ""
    return True, f"{entry.summary}{kinds}{': ' + versions if versions else ''}"


def _import_failure(names: tuple[str, ...]) -> str:
    """The last line of what importing them says, in a child: a broken native library may kill its process."""
    if not names:
        return ""
    code = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import " + ", ".join(names)
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "importing it takes over two minutes"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"importing it ended with code {done.returncode}"


def _version(name: str) -> str:
    found = metadata.packages_distributions().get(name)
    return metadata.version(found[0]) if found else "?"
