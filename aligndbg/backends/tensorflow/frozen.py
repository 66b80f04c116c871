"""A concrete function as a graph without variables, whose inputs and outputs have the names that its users know."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aligndbg.backends.base import short_path
from aligndbg.backends.tensorflow.expand import expanded, needed, without_copies, written_inputs
from aligndbg.core.errors import ModelError, UnsupportedError, UsageError, nearest

__all__ = ["END", "Frozen", "first_line", "of_function", "of_graph_def"]

_HANDLES = (20, 21)  # DataType: resource, variant
_VARIABLES = frozenset({"VariableV2", "VarHandleOp", "Variable", "ReadVariableOp"})
END = re.compile(r"Identity(_\d+)?")  # which tracing puts before each output of a function


@dataclass(frozen=True)
class Frozen:
    """`inputs` and `outputs` map what users call them to tensors of the graph (`node:0`).

    `layers` says, for the name of a Keras layer, its class; `lines`, for the name of an operator, the source line that
    wrote it.
    """

    graph_def: Any
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    layers: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)


def of_function(
    function: Any, path: str, outputs: tuple[str, ...] = (), layers: Mapping[str, str] | None = None
) -> Frozen:
    """A ConcreteFunction, frozen. `outputs` are names of results that have no keys.

    Raises UnsupportedError for one that reads variables which it changes, or what is no constant, ModelError for one
    that cannot be frozen.
    """
    written = written_inputs(function.graph.as_graph_def())
    try:
        with _quiet():
            frozen = _converted(function, written)
    except Exception as error:  # whatever TensorFlow raises for what it cannot freeze
        raise ModelError(f"TensorFlow cannot freeze it: {first_line(error)}", context=path) from error
    fed = [tensor for tensor in frozen.inputs if tensor.dtype.name not in ("resource", "variant")]
    tensors = [tensor.name for tensor in frozen.outputs]
    graph_def = needed(without_copies(expanded(frozen.graph.as_graph_def())), tensors, [t.op.name for t in fed])
    _refuse_resources(graph_def, written, path)
    names = _output_names(function, tensors, outputs)
    return Frozen(
        graph_def,
        dict(zip(_input_names(function, fed), (t.name for t in fed), strict=True)),
        dict(zip(names, tensors, strict=True)),
        layers or {},
        dict(_lines(function.graph)),
    )


def _converted(function: Any, written: set[str]) -> Any:
    """The function with its variables as constants, but for those that are written: a constant cannot be."""
    from tensorflow.python.framework import convert_to_constants as tensorflows

    if not written:
        return tensorflows.convert_variables_to_constants_v2(function, lower_control_flow=False)
    data = tensorflows._FunctionConverterDataInEager(function, False, False, variable_names_denylist=written)
    return tensorflows._construct_concrete_function(function, *tensorflows._replace_variables_by_constants(data))


def _refuse_resources(graph_def: Any, written: set[str], path: str) -> None:
    """What the outputs are computed from must be constants, now that variables are."""
    left = [n.name for n in graph_def.node if n.op == "Placeholder" and n.attr["dtype"].type in _HANDLES]
    changed = sorted(written & set(left))
    if changed:
        fact = f"it changes the variables that it reads ({', '.join(changed)}): no two runs of it are the same"
        raise UnsupportedError(fact, context=path, hint="save a signature that only reads them, as inference does")
    if left:
        fact = f"it reads what is no constant: {', '.join(left)} (a table that is looked up, an iterator)"
        raise UnsupportedError(fact, context=path, hint="save a signature that starts behind it")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TensorFlow warns of collections that it does not write."""
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def of_graph_def(graph_def: Any, path: str, outputs: str) -> Frozen:
    """A frozen graph from a file: its placeholders are fed; its outputs are what nothing reads, unless said.

    Raises UsageError for an output that is not there, UnsupportedError for a graph that still has variables.
    """
    variables = [n.name for n in graph_def.node if n.op in _VARIABLES]
    if variables:
        fact = f"not frozen: it reads {len(variables)} variables whose values lie elsewhere ({variables[0]}, ...)"
        raise UnsupportedError(fact, context=path, hint="freeze it, or give the SavedModel folder")
    graph_def = expanded(graph_def)
    read = {i.removeprefix("^").split(":")[0] for node in graph_def.node for i in node.input}
    fed = [node.name for node in graph_def.node if node.op == "Placeholder"]
    silent = ("Const", "NoOp", "Placeholder", "Assert")
    ends = [node.name for node in graph_def.node if node.name not in read and node.op not in silent]
    if outputs:
        names = {node.name for node in graph_def.node}
        for name in outputs.split(","):
            if name.split(":")[0] not in names:
                fact = f"no output is called {name!r}"
                raise UsageError(fact, context=path, hint=f"its ends are {', '.join(ends)}; {nearest(name, names)}")
        ends = outputs.split(",")
    if not ends:
        raise ModelError("a graph without outputs", context=path, hint="say which: ?outputs=NAME,NAME")
    tensor = {name: name if ":" in name else f"{name}:0" for name in (*fed, *ends)}
    return Frozen(graph_def, {name: tensor[name] for name in fed}, {name: tensor[name] for name in ends})


def _lines(graph: Any) -> Iterator[tuple[str, str]]:
    """The innermost frame that is neither TensorFlow's, Keras's nor ours, of each operator that was traced here."""
    skipped = tuple(
        os.path.dirname(sys.modules[name].__file__ or "") + os.sep
        for name in ("tensorflow", "keras", "tf_keras", __package__)
        if name in sys.modules
    )
    for op in graph.get_operations():
        own = [f for f in op.traceback or () if not f.filename.startswith((*skipped, "<"))]
        if own:
            yield op.name, f"{short_path(own[-1].filename)}:{own[-1].lineno}"


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _input_names(function: Any, inputs: list[Any]) -> list[str]:
    """The argument names of a signature; of other functions those of the placeholders."""
    named = function.structured_input_signature[1] if function.structured_input_signature else {}
    plain = [tensor.name.split(":")[0] for tensor in inputs]
    if not function.structured_input_signature or function.structured_input_signature[0] or len(named) != len(inputs):
        return plain
    by_placeholder = {spec.name: name for name, spec in named.items() if getattr(spec, "name", None)}
    found = [by_placeholder.get(name, name) for name in plain]
    return found if len(set(found)) == len(found) else plain


def _output_names(function: Any, tensors: list[str], given: Sequence[str]) -> Sequence[str]:
    """The keys of the results, in whose order TensorFlow puts them; else those given; else the tensors' names."""
    made = function.structured_outputs
    if isinstance(made, Mapping) and len(made) == len(tensors):
        return sorted(made)
    if not isinstance(made, Mapping) and len(given) == len(tensors):
        return given
    return [name.removesuffix(":0") for name in tensors]
