"""From what a user writes (a path, `backend:target`, options as a query) to an open backend."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from aligndbg.backends.base import BaseBackend, check_options
from aligndbg.backends.registry import REGISTRY, Entry, load
from aligndbg.backends.worker.client import WorkerBackend
from aligndbg.core.errors import MissingDependencyError, ModelError, UsageError, nearest
from aligndbg.core.types import Backend

__all__ = ["absolute", "both_opened_in", "open_model", "opened_in"]


_PREFIX = re.compile(r"([A-Za-z][\w-]+):(?!//)(.+)", re.DOTALL)  # two letters at least: C:\ is a drive


def open_model(
    model: Any,
    *,
    timeout: float | None = None,
    in_process: bool = False,
    defaults: Mapping[str, str] | None = None,
) -> Backend:
    """Opens a model: a path, `backend:target`, either with options as a query (`a.onnx?graph_optimization=all`).

    A pathlib.Path is always a path; a Backend is returned as it is. Backends that load a file into a runtime run in
    a child process, which may keep the caller waiting `timeout` seconds in all; its errors of opening surface at
    first use. With `in_process` they run here instead. A live object (an nn.Module, an ExportedProgram) always runs
    here. `defaults` are options for the backends that know them, where the model's own do not say otherwise.

    Raises UsageError for an unknown kind, backend or option, ModelError for a path that is no readable file,
    MissingDependencyError where the backend's package is not installed.
    """
    if timeout is not None and not timeout > 0:
        raise UsageError(f"timeout must be over 0 seconds, not {timeout}", hint="leave it out for no limit")
    if not isinstance(model, str | os.PathLike):
        if isinstance(model, WorkerBackend):  # asking it for more would wait for its child
            return cast(Backend, model)
        if isinstance(model, Backend):
            return model
        taken = _by_class(model)
        if taken is None:
            raise _no_model(model)
        _check_needs(taken)
        live: Backend = load(taken.target)(model, _known(defaults, taken))
        return live
    entry, target, options = _parse(model)
    _check_needs(entry)
    cls = load(entry.target)  # light: a backend imports its runtime when it is made
    check_options(entry.name, _options_of(entry, cls, target), options, target)
    options = _known(defaults, entry) | options
    if in_process or not entry.worker:
        backend: Backend = cls(target, options)
        return backend
    return cast(Backend, WorkerBackend(entry, target, options, timeout))


def opened_in(stack: ExitStack, model: Any, timeout: float | None, defaults: Mapping[str, str]) -> Backend:
    """Opens what is not open yet; `stack` closes only what was opened here."""
    backend = open_model(model, timeout=timeout, defaults=defaults)
    if backend is not model:
        stack.callback(backend.close)
    return backend


def both_opened_in(
    stack: ExitStack,
    models: tuple[Any, Any],
    timeout: float | None,
    defaults: tuple[Mapping[str, str], Mapping[str, str]],
) -> tuple[Backend, Backend]:
    """Reference and candidate; one that may be fed more than it needs is told what the reference is fed."""
    first, second = defaults
    reference = opened_in(stack, models[0], timeout, first)
    fed = {"inputs": "?" + ",".join(reference.graph().inputs)} if "graph" in reference.capabilities else {}
    return reference, opened_in(stack, models[1], timeout, fed | dict(second))


def absolute(model: str | os.PathLike[str]) -> str:
    """The same model in the words that name it from any working folder; a file that an option names stays as it is."""
    text = os.fspath(model)
    if os.path.exists(text):
        return os.path.abspath(text)
    prefixed = _PREFIX.fullmatch(text)
    at = prefixed.start(2) if prefixed else 0
    target, mark, query = text[at:].partition("?")
    file, colon, name = target.rpartition(":")  # nets.py:build
    if os.path.exists(target):
        target = os.path.abspath(target)
    elif os.path.exists(file):
        target = f"{os.path.abspath(file)}{colon}{name}"
    return f"{text[:at]}{target}{mark}{query}"


def _no_model(model: Any) -> UsageError:
    """What to say of an object that is no backend, or not all of one."""
    lacking = [name for name in vars(Backend) if not name.startswith("_") and not hasattr(model, name)]
    if not {"graph", "run"} & {*lacking}:
        fact = f"a {type(model).__name__} is no backend: it lacks {', '.join(lacking)}"
        return UsageError(fact, hint="subclass aligndbg.backends.base.BaseBackend, which has what one need not write")
    return UsageError(f"cannot open a {type(model).__name__} as a model", hint=_kinds())


def _by_class(model: Any) -> Entry | None:
    """The backend that takes live objects of this class, found by name: its framework is loaded already."""
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(model).__mro__}
    return next((entry for entry in REGISTRY.values() if names & set(entry.objects)), None)


def _known(defaults: Mapping[str, str] | None, entry: Entry) -> dict[str, str]:
    options = load(entry.target).OPTIONS or {}
    return {name: value for name, value in (defaults or {}).items() if name in options}


def _parse(model: str | os.PathLike[str]) -> tuple[Entry, str, dict[str, str]]:
    text = os.fspath(model)
    if isinstance(model, os.PathLike) or os.path.exists(text):  # a file of that very name wins
        return _by_suffix(text), _existing(text), {}
    prefixed = _PREFIX.fullmatch(text)
    target, _, query = (prefixed[2] if prefixed else text).partition("?")
    options = _parse_options(query, text)
    if not prefixed:
        return _by_suffix(target), _existing(target), options
    name = prefixed[1]
    if name not in REGISTRY:
        raise UsageError(f"unknown backend {name!r}", context=text, hint=nearest(name, REGISTRY))
    entry = REGISTRY[name]
    return entry, _existing(target) if target.lower().endswith(entry.suffixes) else target, options


def _parse_options(query: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, value = (unquote(piece) for piece in part.partition("="))
        if not equals or not key:
            raise UsageError(f"the option {part!r} is not name=value", context=text, hint="as in a.onnx?threads=1&x=y")
        if key in options:
            raise UsageError(f"the option {key!r} is given twice", context=text, hint="keep one of them")
        options[key] = value
    return options


def _by_suffix(path: str) -> Entry:
    """The backend whose longest suffix the path ends with."""
    found = [(suffix, entry) for entry in REGISTRY.values() for suffix in entry.suffixes]
    fitting = [(len(suffix), entry) for suffix, entry in found if path.lower().endswith(suffix)]
    if not fitting:
        _existing(path)  # a missing file or a folder is the better thing to say
        suffix = Path(path).suffix
        fact = f"unknown kind of model {suffix!r}" if suffix else "the path does not say what kind of model it is"
        raise UsageError(fact, context=path, hint=_kinds())
    return max(fitting, key=lambda pair: pair[0])[1]


def _kinds() -> str:
    suffixes = ", ".join(suffix for entry in REGISTRY.values() for suffix in entry.suffixes)
    return f"known kinds: {suffixes}; or write backend:target, with a backend of {', '.join(REGISTRY)}"


def _existing(path: str) -> str:
    if os.path.isdir(path):
        raise ModelError("a folder, not a model file", context=path, hint="give the model file inside it")
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise ModelError("no such file", context=path, hint=f"there is no folder {folder}")
        files = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
        raise ModelError("no such file", context=path, hint=nearest(os.path.basename(path), files))
    if not os.access(path, os.R_OK):
        raise ModelError("no permission to read it", context=path, hint="change its mode, or copy it")
    return path


def _check_needs(entry: Entry) -> None:
    missing = [need for need in entry.needs if importlib.util.find_spec(need) is None]
    if missing:
        what = f"aligndbg[{entry.extra}]" if entry.extra else "aligndbg"
        raise MissingDependencyError(
            f"the {entry.name} backend needs {' and '.join(missing)}, not installed here",
            hint=f'pip install "{what}"',
        )


def _options_of(entry: Entry, cls: type[BaseBackend], target: str) -> Mapping[str, str]:
    if cls.OPTIONS is None:
        hint = "call aligndbg from Python, with the object in place of the path"
        raise UsageError(f"a {entry.name} model is made in Python and passed as an object", context=target, hint=hint)
    return cls.OPTIONS
