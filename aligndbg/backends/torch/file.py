"""From a path or `module:factory` to a live program. Nothing is unpickled that could run code, unless it is trusted."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from aligndbg.core.errors import AligndbgError, ModelError, UsageError, nearest

__all__ = ["load"]


TRUST = "only if you trust the file: --trust, or ?trust=yes, lets it run the code that is pickled in it"


def load(target: str, weights: str, trust: bool, device: str) -> Any:
    """The ExportedProgram, ScriptModule or nn.Module behind what a user wrote.

    Raises UsageError for what is not a network, ModelError for what cannot be read.
    """
    factory = target.rpartition(":")
    if factory[0] and factory[2].isidentifier() and not os.path.exists(target):
        return _from_factory(target, factory[0], factory[2], weights, trust, device)
    if weights:
        raise UsageError("weights= is for a factory", context=target, hint="as in torch:nets.py:build?weights=state.pt")
    if target.endswith(".py"):
        raise UsageError(
            "which function or class of it makes the network is not said", context=target, hint=_makers(target)
        )
    if not os.path.isfile(target):
        hint = "write a .pt2 or TorchScript file, or file.py:factory, or package.module:factory"
        raise ModelError("no such file", context=target, hint=hint)
    return _from_file(target, trust, device)


def _from_file(path: str, trust: bool, device: str) -> Any:
    import torch

    kind = _kind(path)
    try:
        if kind == "pt2":
            _register_quantizers(path)
            with _no_pickles(trust):
                return torch.export.load(path)
        if kind == "script":
            return torch.jit.load(path, map_location=device)
        saved = _unpickled(path, trust, device)
    except AligndbgError:
        raise
    except Exception as error:  # whatever the loaders raise for a file that they refuse
        if kind == "pt2" and "weights_only" in str(error):
            raise UsageError("the file holds pickled Python code", context=path, hint=TRUST) from error
        raise ModelError(f"torch cannot read it: {_first_line(error)}", context=path) from error
    if isinstance(saved, torch.nn.Module):
        return saved
    raise _no_network(saved, path)


def _register_quantizers(path: str) -> None:
    """torch knows the operators of its own quantized programs only once the module that defines them is imported."""
    with zipfile.ZipFile(path) as archive:
        programs = [name for name in archive.namelist() if name.endswith(".json")]
        if any(b"quantized_decomposed" in archive.read(name) for name in programs):
            with contextlib.suppress(ImportError):  # loading tells what is missing
                importlib.import_module("torch.ao.quantization.fx._decomposed")


def _kind(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.split("/", 1)[-1] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError):
        return "pt2" if path.endswith(".pt2") else "pickle"
    if any(name.startswith("code/") for name in names) and "constants.pkl" in names:
        return "script"
    exported = "archive_format" in names or any(name.endswith("serialized_exported_program.json") for name in names)
    return "pt2" if exported or path.endswith(".pt2") else "pickle"


def _unpickled(path: str, trust: bool, device: str) -> Any:
    """What a torch.save file holds, as tensors in plain containers; anything else only when trusted."""
    import pickle

    import torch

    try:
        return torch.load(path, map_location=device, weights_only=not trust)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) and "Unsupported global" not in str(error):
            raise  # no pickle at all
        raise UsageError("the file holds pickled Python code, not only weights", context=path, hint=TRUST) from error


@contextlib.contextmanager
def _no_pickles(trust: bool) -> Iterator[None]:
    """torch.export.load falls back to full unpickling by itself; this is the switch that torch.load has against it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    if not trust:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _no_network(saved: Any, path: str) -> UsageError:
    if isinstance(saved, Mapping) and "engine" in saved and "input_names" in saved:
        return UsageError(
            "a torch2trt file: a TensorRT engine, not a network that torch can run",
            context=path,
            hint="write its engine to a file, open('m.engine', 'wb').write(torch.load(path)['engine']), and give that; "
            "or give the module it was made from",
        )
    if isinstance(saved, Mapping):
        return UsageError(
            "weights without a network",
            context=path,
            hint=f"say what builds it: torch:file.py:factory?weights={path}",
        )
    return UsageError(f"a {type(saved).__name__}, not a network", context=path)


def _from_factory(target: str, where: str, name: str, weights: str, trust: bool, device: str) -> Any:
    import torch

    module = _imported(where, target)
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{where} has no {name!r}", context=target, hint=nearest(name, known))
    made = getattr(module, name)
    if not isinstance(made, torch.nn.Module | torch.export.ExportedProgram):
        if not callable(made):
            raise UsageError(f"{name!r} is a {type(made).__name__}, no factory", context=target)
        try:
            made = made()
        except AligndbgError:
            raise
        except Exception as error:
            raise _users(error, f"{name}() failed", target) from error
    if not isinstance(made, torch.nn.Module | torch.export.ExportedProgram):
        raise UsageError(f"{name}() gives a {type(made).__name__}, not an nn.Module", context=target)
    if weights:
        _load_weights(made, weights, trust, device)
    return made


def _imported(where: str, target: str) -> Any:
    """The module, with the folders on the path that running it would put there."""
    is_file = where.endswith(".py")
    folder = os.path.dirname(os.path.abspath(where)) if is_file else os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if is_file and not os.path.isfile(where):
        above = os.path.join(os.path.pardir, where)
        hint = f"there is {above}" if not os.path.isabs(where) and os.path.isfile(above) else ""
        raise ModelError("no such file", context=where, hint=hint)
    try:
        if not is_file:
            return importlib.import_module(where)
        name = os.path.splitext(os.path.basename(where))[0]
        spec = importlib.util.spec_from_file_location(name, where)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(name, module)
        spec.loader.exec_module(module)
        return module
    except Exception as error:
        raise _users(error, f"{where} cannot be imported", target) from error


def _load_weights(module: Any, path: str, trust: bool, device: str) -> None:
    if not os.path.isfile(path):
        raise ModelError("no such file", context=path)
    try:
        saved = _unpickled(path, trust, device)
    except AligndbgError:
        raise
    except Exception as error:
        raise ModelError(f"torch cannot read it: {_first_line(error)}", context=path) from error
    nested = saved.get("state_dict") if isinstance(saved, Mapping) else None
    try:
        module.load_state_dict(nested if isinstance(nested, Mapping) else saved)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"the weights do not fit: {_first_line(error, 3)}", context=path) from error


def _users(error: Exception, what: str, target: str) -> ModelError:
    import traceback

    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})"
    known = frames[-1].filename not in (__file__, importlib.__file__)  # else nothing of the user's has run
    return ModelError(f"{what}: {type(error).__name__}: {_first_line(error)}{where if known else ''}", context=target)


def _makers(path: str) -> str:
    """The functions and classes of a Python file, which is not run for it."""
    example = f"as in torch:{path}:build"
    try:
        with open(path, "rb") as file:
            body = ast.parse(file.read()).body
    except (OSError, SyntaxError, ValueError):
        return example
    names = [item.name for item in body if isinstance(item, ast.FunctionDef | ast.ClassDef)]
    return f"{example}; it has {', '.join(names[:8])}" if names else example


def _first_line(error: Exception, count: int = 1) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:count])[:300] or type(error).__name__
