"""Graphs before and after they are frozen: which variables are written, and what freezing leaves that nothing needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["expanded", "needed", "without_copies", "written_inputs"]

_BORDER = re.compile(r"Func/.*/(input|output)/_\d+")  # Identities that TensorFlow's inlining writes
_WRITES = re.compile(r"Assign\w*VariableOp|Resource(Apply|Scatter|Sparse)\w+")  # they change their first input
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


def expanded(graph_def: Any) -> Any:
    """A GraphDef in which no node of the main graph calls a function; bodies of While and If stay functions.

    The nodes of a call are named `call/node`. Order by control inputs is lost across the border of a call: the values
    of a frozen graph do not depend on it.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    while any(_called(node, functions) for node in graph_def.node):
        graph_def = _once(graph_def, functions)
    return graph_def


def _called(node: Any, functions: Mapping[str, Any]) -> str:
    """The function that a node calls, "" for none."""
    if node.op in functions:
        return str(node.op)
    return str(node.attr["f"].func.name) if node.op in _CALLS else ""


def _once(graph_def: Any, functions: Mapping[str, Any]) -> Any:
    """The outermost calls written out."""
    out = type(graph_def)()
    out.CopyFrom(graph_def)
    del out.node[:]
    moved: dict[str, str] = {}  # a call's output -> what computes it
    gone: set[str] = set()
    for node in graph_def.node:
        name = _called(node, functions)
        if name:
            gone.add(node.name)
            out.node.extend(_body(node, functions[name], moved))
        else:
            out.node.append(node)
    for node in out.node:
        kept = [_followed(i, moved) for i in node.input if i.removeprefix("^") not in gone or not i.startswith("^")]
        del node.input[:]
        node.input.extend(kept)
    return out


def _followed(name: str, moved: Mapping[str, str]) -> str:
    while name in moved:
        name = moved[name]
    return name


def _body(call: Any, function: Any, moved: dict[str, str]) -> Iterator[Any]:
    """The nodes of a call in the caller's words; says in `moved` what the call's outputs are now."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

    body, flat = function_def_to_graph_def(function)
    data = [i for i in call.input if not i.startswith("^")]
    given = {arg.name: data[k] for k, arg in enumerate(function.signature.input_arg)}
    inner = {node.name for node in body.node} - given.keys()

    def renamed(name: str) -> str:
        mark, plain = ("^", name[1:]) if name.startswith("^") else ("", name)
        base, colon, index = plain.partition(":")
        if base in given:
            return "" if mark else given[base]
        return f"{mark}{call.name}/{base}{colon}{index if index != '0' else ''}".removesuffix(":")

    for node in body.node:
        if node.name in inner:
            inputs = [renamed(i) for i in node.input]
            node.name = f"{call.name}/{node.name}"
            del node.input[:]
            node.input.extend(filter(None, inputs))
            yield node
    for k, arg in enumerate(function.signature.output_arg):
        made = renamed(flat[function.ret[arg.name]])
        moved[call.name if k == 0 else f"{call.name}:{k}"] = made
        moved[f"{call.name}:{k}"] = made


def without_copies(graph_def: Any) -> Any:
    """A graph that was frozen here, without the Identities that this wrote.

    They stand at the borders of what was a function, and where a variable was read: the constant gets the name of
    that place, as it says whose weight it is.
    """
    nodes = {node.name: node for node in graph_def.node}
    moved, renamed = dict[str, str](), dict[str, str]()
    for node in graph_def.node:
        if node.op != "Identity" or len(node.input) != 1 or node.input[0].startswith("^"):
            continue
        source = _followed(node.input[0], moved)
        stored = nodes.get(source)
        if _BORDER.fullmatch(node.name):
            moved[node.name] = source
        elif stored is not None and stored.op == "Const" and node.name.endswith("ReadVariableOp"):
            moved[node.name] = source
            renamed.setdefault(source, node.name)
    out = type(graph_def)()
    out.CopyFrom(graph_def)
    del out.node[:]
    for node in graph_def.node:
        if node.name not in moved:
            kept = out.node.add()
            kept.CopyFrom(node)
            kept.name = renamed.get(node.name, node.name)
            del kept.input[:]
            kept.input.extend(_read(i, moved, renamed) for i in node.input)
    return out


def _read(name: str, moved: Mapping[str, str], renamed: Mapping[str, str]) -> str:
    mark = "^" if name.startswith("^") else ""
    plain = name.removeprefix("^").removesuffix(":0")
    source = _followed(plain, moved)
    found = renamed.get(source, source)
    return f"^{found.split(':')[0]}" if mark else found


def written_inputs(graph_def: Any) -> set[str]:
    """The placeholders of variables that an operator of the graph, or of a function that it calls, changes."""
    functions = {function.signature.name: function for function in graph_def.library.function}
    known: dict[str, set[int]] = {}

    def of_function(name: str) -> set[int]:
        """The places of the arguments that a function changes."""
        if name not in known:
            known[name] = set()  # one that calls itself
            args = [arg.name for arg in functions[name].signature.input_arg]
            changed = of_nodes(functions[name].node_def)
            known[name] = {k for k, arg in enumerate(args) if arg in changed}
        return known[name]

    def of_nodes(nodes: Iterable[Any]) -> set[str]:
        found = set()
        for node in nodes:
            data = [i.split(":")[0] for i in node.input if not i.startswith("^")]
            if _WRITES.fullmatch(node.op):
                found.add(data[0])
            given = data[1:] if "If" in node.op or node.op == "Case" else data
            called = [value.func.name for value in node.attr.values() if value.func.name in functions]
            called += [f.name for value in node.attr.values() for f in value.list.func if f.name in functions]
            for name in {*called, *({node.op} & functions.keys())}:
                found.update(given[k] for k in of_function(name) if k < len(given))
        return found

    return of_nodes(graph_def.node)


def needed(graph_def: Any, outputs: Iterable[str], kept: Iterable[str]) -> Any:
    """The nodes that the outputs are computed from, and those of `kept`; without control inputs, which only say when
    something is done that no value shows."""
    nodes = {node.name: node for node in graph_def.node}
    waiting = [name.split(":")[0] for name in outputs]
    found = {*kept, *waiting}
    while waiting:
        read = {i.split(":")[0] for i in nodes[waiting.pop()].input if not i.startswith("^")} - found
        found |= read
        waiting += read
    out = type(graph_def)()
    out.CopyFrom(graph_def)
    del out.node[:]
    for node in graph_def.node:
        if node.name in found:
            added = out.node.add()
            added.CopyFrom(node)
            del added.input[:]
            added.input.extend(i for i in node.input if not i.startswith("^"))
    return out
