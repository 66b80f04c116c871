"""A torch.export program that faults are planted into; the unchanged and the changed operator run in torch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from aligndbg.backends.torch.backend import TorchBackend
from aligndbg.backends.torch.ops import canonical
from plants import Array, NotHere, Plantable, Site

__all__ = ["TorchFile", "edits"]

Edit = Callable[["TorchFile", Any, np.random.Generator, float, Array], str]
EDITS: dict[str, dict[str, Edit]] = {}  # ATen word -> kind -> what does it


def edits(kind: str, *words: str) -> Callable[[Edit], Edit]:
    """Registers what plants a fault of one kind into these operators."""

    def register(edit: Edit) -> Edit:
        for word in words:
            EDITS.setdefault(word, {})[kind] = edit
        return edit

    return register


class TorchFile:
    """One exported program whose operators change nothing in place. Values have the names that aligndbg gives them."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.graph = program.graph_module.graph
        signature = program.graph_signature
        self._stored: dict[str, str] = {  # placeholder -> its name in the program's state or constants
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self._seen: TorchBackend | None = None

    @classmethod
    def open(cls, path: Path) -> TorchFile:
        return cls(torch.export.load(path))

    def save(self, path: Path) -> None:
        self.program.graph_module.recompile()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.export.save(self.program, path)

    def sites(self) -> list[Site]:
        found = []
        data = {node for node in self.graph.nodes if node.op == "placeholder" and node.name not in self._stored}
        for node in self.graph.nodes:
            if node.op == "call_function" and not data.isdisjoint(node.all_input_nodes):
                data.add(node)
                kinds = EDITS.get(word(node), {})
                found += [Site(kind, canonical(word(node), {}), node.name) for kind in kinds]
        return found

    def inputs(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        graph = self._backend().graph()
        infos = [graph.tensors[name] for name in graph.inputs]
        return {info.name: (info.static_shape or (), np.dtype(info.dtype)) for info in infos}

    def taken(self, name: str, value: Array) -> Array:
        return value.astype(self.inputs()[name][1])

    def values(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        backend = self._backend()
        return dict(feeds) | dict(backend.run(feeds, backend.graph().tappable()))

    def evaluate(self, tensor: str, values: Mapping[str, Array]) -> Array:
        known = {name for name in values if name != tensor}
        last = next((node for node in self.graph.nodes if _tensor(node) == tensor), None)
        if last is None:
            raise NotHere(f"nothing writes {tensor}")
        needed, todo = {last}, [last]
        while todo:
            node = todo.pop()
            fresh = set() if _tensor(node) in known else set(node.all_input_nodes) - needed
            needed |= fresh
            todo += fresh
        made: dict[Any, Any] = {}
        with torch.inference_mode():
            for node in self.graph.nodes:
                if node in needed:
                    stored = values[_tensor(node)] if _tensor(node) in known else None
                    made[node] = self._made(node, made) if stored is None else torch.from_numpy(np.array(stored))
        return cast(Array, made[last].numpy())

    def planted(self, site: Site, rng: np.random.Generator, amount: float, value: Array) -> tuple[Plantable, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, about its own classes
            changed = TorchFile(copy.deepcopy(self.program))
        node = changed.node(site.tensor)
        return changed, EDITS[word(node)][site.kind](changed, node, rng, amount, value)

    def reach(self, tensor: str) -> dict[str, list[str]]:
        consumers = self._backend().graph().consumers()
        found: dict[str, list[str]] = {}
        todo = [tensor]
        while todo:
            name = todo.pop()
            if name not in found:
                found[name] = [output for node in consumers.get(name, ()) for output in node.outputs]
                todo += found[name]
        return found

    def op_name(self, tensor: str) -> str:
        node = self._backend().graph().producers().get(tensor)
        if node is None:
            raise NotHere(f"no operator writes {tensor}")
        return node.name

    def node(self, name: str) -> Any:
        return next(node for node in self.graph.nodes if node.name == name)

    def constant(self, node: Any, slot: int) -> Array:
        """The stored value that a node reads at `slot`. Raises NotHere where it is computed or absent."""
        given = node.args[slot] if slot < len(node.args) else None
        if not isinstance(given, torch.fx.Node) or given.name not in self._stored:
            raise NotHere("not stored")
        return cast(Array, self._state(given).numpy())

    def set_constant(self, node: Any, slot: int, value: Array) -> None:
        """Give this node another constant. Raises NotHere where another reads it too."""
        given = node.args[slot]
        if len(given.users) > 1:
            raise NotHere("others read it")
        key = self._stored[given.name]
        held = self.program.state_dict if key in self.program.state_dict else self.program.constants
        before = held[key]
        after = torch.from_numpy(np.array(value, order="C")).to(before.dtype)
        held[key] = torch.nn.Parameter(after, requires_grad=before.requires_grad) if _is_parameter(before) else after

    def set_argument(self, node: Any, slot: int, value: Any) -> None:
        """Another argument at `slot`; those left out before it get what they default to."""
        given = list(node.args)
        defaults = [argument.default_value for argument in node.target._schema.arguments]
        given += defaults[len(given) : slot + 1]
        given[slot] = value
        node.args = tuple(given)

    def wrap(self, node: Any, target: Any, *more: Any) -> None:
        """What read `node` reads `target` of it, which takes over its name."""
        name = node.name
        node.name = self._fresh(name)
        with self.graph.inserting_after(node):
            outer = self.graph.call_function(target, (node, *more))
        node.replace_all_uses_with(outer, delete_user_cb=lambda user: user is not outer)
        outer.meta, outer.name = dict(node.meta), name

    def _fresh(self, stem: str) -> str:
        taken = {node.name for node in self.graph.nodes}
        return next(name for k in range(1, 1 << 30) if (name := f"{stem}_planted_{k}") not in taken)

    def _state(self, node: Any) -> Any:
        key = self._stored[node.name]
        held = self.program.state_dict if key in self.program.state_dict else self.program.constants
        return held[key].detach()

    def _made(self, node: Any, made: Mapping[Any, Any]) -> Any:
        if node.op == "placeholder":
            return self._state(node)
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: made[n])
        try:
            return node.target(*args, **kwargs)
        except RuntimeError as error:
            raise NotHere(f"torch refuses the change: {error}") from error

    def _backend(self) -> TorchBackend:
        """Of the program as it is by now: nothing is changed once it has been asked for."""
        if self._seen is None:
            self.program.graph_module.recompile()
            self._seen = TorchBackend(self.program, {"threads": "1"})
        return self._seen


def word(node: Any) -> str:
    """`aten.conv2d.default` -> "conv2d"; "" for what is no ATen operator."""
    schema = getattr(node.target, "_schema", None)
    space, _, name = schema.name.partition("::") if schema is not None else ("", "", "")
    return name if space == "aten" else ""


def _tensor(node: Any) -> str:
    """aligndbg's name for what a node gives; "" for several tensors, which have names only one by one."""
    if isinstance(node.meta.get("val"), list | tuple):
        return ""
    if word(node) or node.op != "call_function":
        return str(node.name)
    source, index = node.args  # getitem
    return f"{source.name}[{index}]" if index else str(source.name)


def _is_parameter(tensor: Any) -> bool:
    return isinstance(tensor, torch.nn.Parameter)
