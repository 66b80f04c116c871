"""TfliteModel -> Graph: which tensors are constants, which cannot be read and why, which operators cannot run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aligndbg.backends.tflite.file import READABLE, Op, TfliteModel
from aligndbg.backends.tflite.ops import canonical, module_path
from aligndbg.core.errors import UnsupportedError
from aligndbg.core.types import Array, Graph, Node, TensorInfo

__all__ = ["Analysis"]


# What a run of these leaves behind is seen by the next one: variables, tables, the state of a random generator.
_STATEFUL = frozenset(
    {
        "ASSIGN_VARIABLE",
        "HASHTABLE_IMPORT",
        "MULTINOMIAL",
        "RANDOM_STANDARD_NORMAL",
        "RANDOM_UNIFORM",
        "STABLEHLO_RNG_BIT_GENERATOR",
    }
)
# Never constants, even where constants alone feed them.
_NEVER_CONSTANT = _STATEFUL | {"HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_SIZE", "READ_VARIABLE", "VAR_HANDLE"}


@dataclass
class Analysis:
    """What is known of a model before it is run.

    `unresolved` gives the reason why LiteRT has no kernel for an operator, "" where it has one.
    """

    model: TfliteModel
    unresolved: Callable[[Op], str]

    @cached_property
    def blocked(self) -> Mapping[int, str]:
        """Operator index -> why it cannot run: no kernel, or something before it has none."""
        reasons: dict[int, str] = {}
        tainted: dict[int, str] = {}
        state = ""  # set once an operator that holds resources is blocked: what the others read is unknown then
        for op in self.model.ops:
            own = self._no_kernel(op)
            held = any(self.model.infos[i].dtype == "resource" for i in (*op.reads, *op.outputs))
            upstream = next((tainted[i] for i in op.reads if i in tainted), state if held else "")
            if not own and not upstream:
                continue
            reasons[op.index] = own or f"depends on an operator that cannot run: {upstream}"
            state = state or (own or upstream if held else "")
            variables = [i for i in op.reads if self.model.main.tensors[i].isVariable]
            tainted |= dict.fromkeys([*op.outputs, *variables], own or upstream)
        return reasons

    @cached_property
    def runnable(self) -> tuple[int, ...]:
        """The operators that are not blocked."""
        return tuple(op.index for op in self.model.ops if op.index not in self.blocked)

    @cached_property
    def shown(self) -> tuple[int, ...]:
        """The model outputs whose value can be had."""
        return tuple(i for i in self.model.outputs if i not in self.untapped)

    @cached_property
    def stored(self) -> frozenset[int]:
        """Tensors with a value in the file, zero-element ones included: those need none."""
        model = self.model
        inputs = set(model.inputs)
        return frozenset(
            i
            for i, info in enumerate(model.infos)
            if model.is_stored(i)
            or (
                0 in (info.shape or ())
                and i not in inputs
                and i not in model.producers
                and not model.main.tensors[i].isVariable
            )
        )

    @cached_property
    def derived(self) -> Mapping[int, Op]:
        """Tensors computed from stored ones alone -> the operator that does it, in execution order."""
        known: set[int] = set(self.stored)
        found: dict[int, Op] = {}
        for op in self.model.ops:
            plain = not (op.custom or op.subgraphs or op.word in _NEVER_CONSTANT or op.index in self.blocked)
            if plain and op.reads and known.issuperset(op.reads):
                known.update(op.outputs)
                found |= dict.fromkeys(op.outputs, op)
        return found

    @cached_property
    def untapped(self) -> Mapping[int, str]:
        """Tensors whose value cannot be had -> the reason."""
        reasons: dict[int, str] = {}
        for i, (info, table) in enumerate(zip(self.model.infos, self.model.main.tensors, strict=True)):
            producer = self.model.producers.get(i)
            if producer and producer.index in self.blocked:
                reasons[i] = self.blocked[producer.index]
            elif table.isVariable:
                reasons[i] = "a variable tensor: LiteRT keeps its state to itself"
            elif i in self.stored and table.sparsity is not None:
                reasons[i] = "sparse weights, stored packed"
            elif i not in self.stored and info.dtype not in READABLE:
                reasons[i] = f"a {info.dtype or 'unknown'} tensor, which LiteRT does not hand out"
            elif info.dtype in ("string", "resource", "variant", ""):
                reasons[i] = f"a {info.dtype or 'unknown'} tensor, which has no numeric value"
            elif producer is None and i not in self.stored and i not in self.model.inputs:
                reasons[i] = "no operator computes it and the file holds no value"
        return reasons

    @cached_property
    def stateful(self) -> bool:
        """True where a run leaves something behind that reset_all_variables does not clear, or a custom one may."""
        return any(op.word in _STATEFUL or op.custom for _, op in self.model.everywhere())

    @cached_property
    def keeps_state(self) -> bool:
        """True where a run leaves something that a later operator, or the next run, may read: it is run whole."""
        variables = any(table.isVariable for table in self.model.main.tensors)
        return self.stateful or variables or any(i.dtype in ("resource", "variant") for i in self.model.infos)

    @cached_property
    def graph(self) -> Graph:
        model, keys = self.model, self.model.keys
        constants = (self.stored | self.derived.keys()) - self.untapped.keys()
        tensors = {info.name: info for info in model.infos}
        untapped = {keys[i]: reason for i, reason in self.untapped.items()}
        inner = {}
        for name, info, caller in self._bodies():
            tensors[name] = info
            untapped[name] = f"inside a body of {caller.word}: only its results can be seen"
            inner[name] = caller.name
        return Graph(
            nodes=tuple(self._node(op) for op in model.ops),
            tensors=tensors,
            inputs=tuple(keys[i] for i in model.inputs),
            outputs=tuple(keys[i] for i in model.outputs),
            constants=frozenset(keys[i] for i in constants),
            untapped=untapped,
            inner=inner,
        )

    def foldable(self, index: int) -> bool:
        """True for a constant that needs no kernel: stored, or the DEQUANTIZE of a stored one.

        That is what fp16 models consist of, hundreds of them; XNNPACK never writes those tensors.
        """
        if index in self.stored:
            return True
        op, model = self.derived[index], self.model
        source = op.reads[0]
        floats = model.infos[source].dtype == "float16" or model.infos[source].quant is not None
        dense = source in self.stored and model.main.tensors[source].sparsity is None
        return op.word == "DEQUANTIZE" and dense and floats and model.infos[index].dtype == "float32"

    def fold(self, index: int) -> Array:
        """The value of a foldable constant."""
        if index in self.stored:
            return self.model.stored(index)
        source = self.derived[index].reads[0]
        value, quant = self.model.stored(source), self.model.infos[source].quant
        return value.astype(np.float32) if quant is None else quant.dequantize(value)

    def needed(self, wanted: Sequence[int]) -> frozenset[int]:
        """Indices of the operators that derived constants are computed by."""
        ops: set[int] = set()
        todo = list(wanted)
        while todo:
            op = self.derived.get(todo.pop())
            if op is not None and op.index not in ops:
                ops.add(op.index)
                todo += op.reads
        return frozenset(ops)

    def is_constant(self, index: int) -> bool:
        return index in self.stored or index in self.derived

    def check_feedable(self, index: int) -> None:
        """Raises UnsupportedError for a tensor whose type LiteRT takes no array of."""
        info = self.model.infos[index]
        if info.dtype not in READABLE:
            raise UnsupportedError(f"LiteRT takes no {info.dtype or 'unknown'} array", context=info.name)

    def _no_kernel(self, op: Op) -> str:
        inner = (reason for s in op.subgraphs if s >= 0 for reason in map(self._no_kernel, self.model.operators(s)))
        return self.unresolved(op) or next(filter(None, inner), "")

    def _node(self, op: Op) -> Node:
        keys = self.model.keys
        return Node(
            op_type=op.word,
            name=op.name,
            inputs=tuple(keys[i] if i >= 0 else "" for i in op.inputs),
            outputs=tuple(keys[i] for i in op.outputs),
            attributes=op.attributes,
            scope=module_path(next((keys[i] for i in op.outputs if i >= 0), "")),
            canonical=op.word if op.custom else canonical(op.word),
        )

    def _bodies(self) -> list[tuple[str, TensorInfo, Op]]:
        """What the operators inside bodies compute, each with the operator whose body it is."""
        found: list[tuple[str, TensorInfo, Op]] = []
        seen: set[int] = set()
        todo = [(s, op) for op in self.model.ops for s in op.subgraphs]
        while todo:
            subgraph, caller = todo.pop(0)
            if subgraph < 0 or subgraph in seen:
                continue
            seen.add(subgraph)
            found += [(name, info, caller) for name, info in self.model.body_tensors(subgraph)]
            todo += [(s, op) for op in self.model.operators(subgraph) for s in op.subgraphs]
        return found
