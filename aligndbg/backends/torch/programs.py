"""The kinds of torch programs behind one face: what they take and hold, how they run, what their calls are named."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aligndbg.backends.base import short_path
from aligndbg.backends.torch.arrays import dtype_name
from aligndbg.backends.torch.record import Namer
from aligndbg.core.errors import UsageError, nearest
from aligndbg.core.types import TensorInfo

__all__ = ["ExportedProgram", "ModuleProgram", "Program", "ScriptProgram", "program_of"]


def program_of(model: Any, inputs: str, path: str) -> Program:
    """The program of a live object. `inputs` names the parameters of forward that are fed, or says how many."""
    import torch

    if isinstance(model, torch.export.ExportedProgram):
        return ExportedProgram(model)
    if isinstance(model, torch.jit.ScriptModule):
        return ScriptProgram(model, inputs, path)
    return ModuleProgram(model, inputs, path)


class Program:
    """One network. `inputs` are what it is fed; `state` its parameters, buffers and other tensors, by name.

    `fixed_path` says that what it computes depends on the shapes of its inputs alone.
    """

    fixed_path = False
    inputs: tuple[TensorInfo, ...]
    state: dict[str, Any]
    notes: tuple[str, ...] = ()

    def run(self, feeds: Mapping[str, Any]) -> Any:
        """The program as its user would run it."""
        raise NotImplementedError

    def run_watched(self, feeds: Mapping[str, Any]) -> Any:
        """The same, in a way that the namer can follow."""
        return self.run(feeds)

    @contextmanager
    def namer(self) -> Iterator[Namer]:
        """Names for the calls of the runs within."""
        raise NotImplementedError
        yield


class ModuleProgram(Program):
    """An nn.Module. Calls are named `module.path:op@call`; the scope is the module and the source line."""

    def __init__(self, module: Any, inputs: str, path: str) -> None:
        self.module = _uncompiled(module)
        self.path = path
        self.notes = (*_compiled_notes(module), *_training_notes(self.module))
        self.state = _state(self.module)
        self.inputs = tuple(TensorInfo(name, dtype=_float_type(self.module)) for name in self._named(inputs))

    def run(self, feeds: Mapping[str, Any]) -> Any:
        import torch

        positional = [feeds[name] for name in self._extra if name in feeds]
        named = {name: value for name, value in feeds.items() if name not in self._extra}
        with torch.compiler.set_stance("force_eager"):
            if positional:
                return self.module(*named.values(), *positional)
            return self.module(**named)

    def _parameters(self) -> tuple[dict[str, Any], list[str], str, bool]:
        """forward's parameters: all, with their defaults, those without one, the name of *args, are there **kwargs."""
        listed = list(inspect.signature(self.module.forward).parameters.values())
        plain = [p for p in listed if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        starred = next((p.name for p in listed if p.kind is p.VAR_POSITIONAL), "")
        needed = [p.name for p in plain if p.default is p.empty]
        return {p.name: p.default for p in plain}, needed, starred, any(p.kind is p.VAR_KEYWORD for p in listed)

    def _named(self, inputs: str) -> list[str]:
        defaults, needed, starred, open_end = self._parameters()
        every = [*defaults]
        self._extra: list[str] = []
        if inputs.startswith("?"):  # what the other side is fed
            inputs = inputs[1:]
            asked = every[: int(inputs)] if inputs.isdecimal() else inputs.split(",")
            tensors = {*needed, *(name for name in every if defaults[name] is None)} if inputs.isdecimal() else {*every}
            inputs = inputs if {*needed} <= {*asked} <= tensors or (inputs.isdecimal() and not needed) else ""
        if inputs.isdecimal():
            count = int(inputs)
            self._extra = [f"{starred}_{k}" for k in range(count - len(every))] if starred else []
            if count > len(every) + len(self._extra):
                fact = f"{count} inputs are given, forward() takes {len(every)}: {', '.join(every)}"
                hint = "of a parameter that is a list of tensors, write a module whose forward() takes them one by one"
                raise UsageError(fact, context=self.path, hint=hint)
            return [*every[:count], *self._extra]
        wanted = [name.strip() for name in inputs.split(",") if name.strip()]
        for name in wanted:
            if name not in every and not open_end:
                raise UsageError(f"forward() has no parameter {name!r}", context=self.path, hint=nearest(name, every))
        for name in needed if wanted else ():
            if name not in wanted:
                raise UsageError(f"the input {name!r} is missing: forward() needs it", context=self.path)
        if wanted:
            return wanted
        if not needed:
            raise UsageError(
                "which inputs to feed is not known: forward() needs none of its parameters",
                context=self.path,
                hint=f"name them, as in ?inputs={','.join(every[:2]) or '2'}",
            )
        return needed

    @contextmanager
    def namer(self) -> Iterator[Namer]:
        """By hooks on all modules of the process, removed at the end. They only note which module runs."""
        import torch
        from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

        paths: dict[int, str] = {}
        for path, module in self.module.named_modules(remove_duplicate=False):
            paths.setdefault(id(module), path.replace("._orig_mod", ""))  # what torch.compile wraps
        stack: list[str] = []

        def enter(module: Any, _: Any) -> None:
            stack.append(paths.get(id(module), stack[-1] if stack else ""))

        def leave(module: Any, _: Any, __: Any) -> None:
            if stack:
                stack.pop()

        calls: Counter[tuple[str, str]] = Counter()

        def name(word: str, _: str) -> tuple[str, str]:
            path = stack[-1] if stack else ""
            calls[path, word] += 1
            return f"{path}:{word}@{calls[path, word] - 1}", _scope(path, _source_line())

        hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
        try:
            with torch.compiler.set_stance("force_eager"):  # what it imports may compute: not while one watches
                yield name
        finally:
            for hook in hooks:
                hook.remove()


class ScriptProgram(ModuleProgram):
    """A TorchScript module. Its interpreter says nothing of modules: a call is named after the weight that it reads."""

    def _parameters(self) -> tuple[dict[str, Any], list[str], str, bool]:
        plain = self.module.forward.schema.arguments[1:]
        return {a.name: a.default_value for a in plain}, [a.name for a in plain if not a.has_default_value()], "", False

    @contextmanager
    def namer(self) -> Iterator[Namer]:
        calls: Counter[tuple[str, str]] = Counter()

        def name(word: str, weight: str) -> tuple[str, str]:
            path = weight.rpartition(".")[0]
            calls[path, word] += 1
            return f"{path}:{word}@{calls[path, word] - 1}", path

        yield name


class ExportedProgram(Program):
    """A torch.export program. Calls have the names of its FX nodes."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.module = program.module()
        self.state = _state(self.module)
        chosen = any(str(getattr(node.target, "namespace", "")) == "higher_order" for node in program.graph.nodes)
        sized = any(str(symbol).startswith("u") for symbol in program.range_constraints)  # sizes read from values
        self.fixed_path = not (chosen or sized)
        values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
        specs = [spec for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
        self._specs = [(spec.arg.name, getattr(spec.arg, "value", None)) for spec in specs]
        self._fed = [name for name, _ in self._specs if hasattr(values.get(name), "dtype")]
        self.inputs = tuple(
            TensorInfo(name, tuple(_dimension(d) for d in values[name].shape), dtype_name(values[name].dtype))
            for name in self._fed
        )
        self._node: Any = None

    def _arguments(self, feeds: Mapping[str, Any]) -> tuple[Any, Any]:
        from torch.utils._pytree import tree_unflatten

        flat = [feeds.get(name, constant) for name, constant in self._specs]
        args, kwargs = tree_unflatten(flat, self.program.call_spec.in_spec)
        return args, kwargs

    def run(self, feeds: Mapping[str, Any]) -> Any:
        args, kwargs = self._arguments(feeds)
        return self.module(*args, **kwargs)

    def run_watched(self, feeds: Mapping[str, Any]) -> Any:
        from torch.fx import Interpreter

        outer = self

        class Follow(Interpreter):  # type: ignore[misc]  # torch is not typed for us
            def run_node(self, n: Any) -> Any:
                outer._node = n
                return super().run_node(n)

        args, kwargs = self._arguments(feeds)
        if kwargs:  # the module's own forward puts them in order, the interpreter does not
            from torch.utils._pytree import tree_flatten

            flat, _ = tree_flatten((args, kwargs))
            follow = Follow(self.module)
            return follow.run(*flat, enable_io_processing=False)
        return Follow(self.module).run(*args)

    @contextmanager
    def namer(self) -> Iterator[Namer]:
        inner: Counter[tuple[str, str]] = Counter()
        seen: set[str] = set()

        def name(word: str, _: str) -> tuple[str, str]:
            node = self._node
            scope = _node_scope(node)
            if node.name not in seen:
                seen.add(node.name)
                return str(node.name), scope
            inner[node.name, word] += 1
            return f"{node.name}:{word}@{inner[node.name, word] - 1}", scope

        yield name


def _dimension(size: Any) -> int | str | None:
    return size if isinstance(size, int) else str(size)


def _state(module: Any) -> dict[str, Any]:
    """Every tensor that the modules hold: parameters, buffers and plain attributes."""
    import torch

    found = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    if not isinstance(module, torch.jit.ScriptModule):
        for path, inner in module.named_modules():
            for name, value in vars(inner).items():
                if isinstance(value, torch.Tensor):
                    found.setdefault(f"{path}.{name}" if path else name, value)
    return found


def _float_type(module: Any) -> str:
    """The dtype of inputs where the module says it: half weights and nothing that looks numbers up by integers."""
    import torch

    found = {dtype_name(p.dtype) for p in module.parameters() if p.is_floating_point()}
    lookups = any(isinstance(m, torch.nn.Embedding | torch.nn.EmbeddingBag) for m in module.modules())
    return found.pop() if len(found) == 1 and not lookups and found <= {"float16", "bfloat16"} else ""


def _uncompiled(module: Any) -> Any:
    return getattr(module, "_orig_mod", module)


def _compiled_notes(module: Any) -> tuple[str, ...]:
    compiled = [n or "the module" for n, m in module.named_modules() if hasattr(m, "_orig_mod")]
    compiled += [n or "the module" for n, m in module.named_modules() if getattr(m, "_compiled_call_impl", None)]
    if not compiled:
        return ()
    return (f"torch.compile is not followed: {', '.join(compiled[:3])} runs as it was written, op by op",)


def _training_notes(module: Any) -> tuple[str, ...]:
    import torch

    nn = torch.nn
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    moved = [
        f"{name or 'the module'} ({type(m).__name__})"
        for name, m in module.named_modules()
        if getattr(m, "training", False)  # a frozen TorchScript module has no such thing
        and (
            (isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0)
            or (isinstance(m, norms) and getattr(m, "track_running_stats", False))
        )
    ]
    if not moved:
        return ()
    more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
    return (f"in training mode: {', '.join(moved[:3])}{more}; call .eval(), or open it with ?eval=yes",)


def _source_line() -> str:
    """file:line of the innermost frame that is neither torch's nor ours."""
    import torch

    skipped = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep)
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(skipped) and not name.startswith("<"):
            return f"{short_path(name)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _scope(path: str, line: str) -> str:
    return f"{path} ({line})" if path and line else path or line


def _node_scope(node: Any) -> str:
    stack = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [(file, line) for file, line in lines if "/torch/nn/" not in file] or lines
    return _scope(stack[-1] if stack else "", f"{os.path.basename(own[-1][0])}:{own[-1][1]}" if own else "")
