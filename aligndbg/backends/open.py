"""From what a user writes (a path, `backend:target`, options as a query) to an open backend."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from aligndbg.backends.base import BaseBackend, check_options
from aligndbg.backends.registry import REGISTRY, Entry, entry_of, load, outside
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
        live: Backend = _class_of(taken)(model, _known(defaults, taken))
        return live
    entry, target, options = _parse(model)
    _check_needs(entry)
    cls = _class_of(entry)
    check_options(entry.name, _options_of(entry, cls, target), options, target)
    options = _known(defaults, entry) | options
    if in_process or not entry.worker:
        return cast(Backend, cls(target, options))
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
    for entries in _sources():
        for entry in entries.values():
            if names & set(entry.objects):
                return entry
    return None


def _sources() -> Iterator[Mapping[str, Entry]]:
    """Ours, and then those of other packages, which are looked for only where ours do not do."""
    yield REGISTRY
    yield outside()[0]


def _class_of(entry: Entry) -> type[Any]:
    """Light: a backend imports its runtime when it is made."""
    try:
        cls = load(entry.target)
    except (ImportError, AttributeError) as error:
        fact = f"the {entry.name} backend cannot be loaded: {error}"
        raise UsageError(fact, hint=f"update {entry.package}, or install it again") from error
    if not (isinstance(cls, type) and issubclass(cls, BaseBackend)):
        fact = f"the {entry.name} backend cannot be used: {entry.target} is no subclass of BaseBackend"
        raise UsageError(fact, hint="subclass aligndbg.backends.base.BaseBackend, which has what one need not write")
    return cls


def _known(defaults: Mapping[str, str] | None, entry: Entry) -> dict[str, str]:
    options = _class_of(entry).OPTIONS or {}
    return {name: value for name, value in (defaults or {}).items() if name in options}


def _parse(model: str | os.PathLike[str]) -> tuple[Entry, str, dict[str, str]]:
    text = os.fspath(model)
    if isinstance(model, os.PathLike) or os.path.exists(text):  # a file of that very name wins
        return _placed(_by_path(text), text, {})
    prefixed = _PREFIX.fullmatch(text)
    target, _, query = (prefixed[2] if prefixed else text).partition("?")
    options = _parse_options(query, text)
    if not prefixed:
        return _placed(_by_path(target), target, options)
    name = prefixed[1]
    entry = entry_of(name)
    if entry is None:
        raise UsageError(f"unknown backend {name!r}", context=text, hint=nearest(name, [*REGISTRY, *outside()[0]]))
    file = target.lower().endswith((*entry.suffixes, *entry.companions.values()))
    folder = bool(entry.folders) and os.path.isdir(target)
    return _placed(entry, target, options) if file or folder else (entry, target, options)


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


def _by_path(path: str) -> Entry:
    """The backend whose folder it is, or that with the longest suffix."""
    lone: list[str] = []
    for entries in _sources():
        best = max(entries.values(), key=lambda entry: _fit(entry, path), default=None)
        if best is not None and _fit(best, path):
            return best
        lone += [os.path.basename(_main(path, *p)) for entry in entries.values() for p in _companions(entry, path)]
    _existing(path)  # a missing file or a folder is the better thing to say
    if lone:
        raise _alone(" or ".join(lone), path)
    suffix = Path(path).suffix
    fact = f"unknown kind of model {suffix!r}" if suffix else "the path does not say what kind of model it is"
    raise UsageError(fact, context=path, hint=_kinds())


def _fit(entry: Entry, path: str) -> int:
    """How many characters of a path say that it is the backend's; a companion's do where its file is there."""
    if os.path.isdir(path) and _marked(entry, path):
        return len(path)
    ends = [len(suffix) for suffix in entry.suffixes if path.lower().endswith(suffix)]
    ends += [len(pair[1]) for pair in _companions(entry, path) if os.path.exists(_main(path, *pair))]
    return max(ends, default=0)


def _placed(entry: Entry, path: str, options: dict[str, str]) -> tuple[Entry, str, dict[str, str]]:
    """What the backend is given: a folder or a file that is there, and as an option the companion that it has."""
    if entry.folders and os.path.isdir(path):
        if not _marked(entry, path):
            hint = "give the folder that holds it"
            raise ModelError(f"a folder without {' or '.join(entry.folders)}", context=path, hint=hint)
        return entry, path, options
    pairs = _companions(entry, path)
    if not pairs:
        return entry, _existing(path), options
    _existing(path)
    suffix, other = next((pair for pair in pairs if os.path.exists(_main(path, *pair))), pairs[0])
    main, option = _main(path, suffix, other), other.removeprefix(".")
    beside = path if path != main else options.get(option, main[: -len(suffix)] + other)
    if option in options:
        _existing(beside)
    for part in (main, beside):
        if not os.path.exists(part):
            raise _alone(os.path.basename(part), path, f"{path}?{option}=FILE" if part == beside else "")
    return entry, main, options | {option: beside}


def _marked(entry: Entry, folder: str) -> bool:
    return any(os.path.exists(os.path.join(folder, marker)) for marker in entry.folders)


def _companions(entry: Entry, path: str) -> list[tuple[str, str]]:
    """The pairs of suffixes of which the path may be one half."""
    return [(end, other) for end, other in entry.companions.items() if path.lower().endswith((end, other))]


def _main(path: str, suffix: str, other: str) -> str:
    return path if path.lower().endswith(suffix) else path[: -len(other)] + suffix


def _alone(missing: str, path: str, spelled: str = "") -> ModelError:
    hint = f"put it there{f', or say where it is: {spelled}' if spelled else ''}"
    return ModelError(f"a model of two files, and {missing} is not beside it", context=path, hint=hint)


def _kinds() -> str:
    others, failures = outside()
    entries = [*REGISTRY.values(), *others.values()]
    kinds = [suffix for entry in entries for suffix in entry.suffixes]
    kinds += [f"a folder with {marker}" for entry in entries for marker in entry.folders]
    names = ", ".join(entry.name for entry in entries)
    known = f"known kinds: {', '.join(kinds)}; or write backend:target, with a backend of {names}"
    return "; ".join([known, *failures.values()])


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
        what = f"{entry.package}[{entry.extra}]" if entry.extra else entry.package
        raise MissingDependencyError(
            f"the {entry.name} backend needs {' and '.join(missing)}, not installed here",
            hint=f'pip install "{what}"',
        )


def _options_of(entry: Entry, cls: type[BaseBackend], target: str) -> Mapping[str, str]:
    if cls.OPTIONS is None:
        hint = "call aligndbg from Python, with the object in place of the path"
        raise UsageError(f"a {entry.name} model is made in Python and passed as an object", context=target, hint=hint)
    return cls.OPTIONS
