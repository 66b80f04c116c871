"""A TFLite file that faults are planted into; the unchanged and the changed operator run in LiteRT."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from plants import Array, NotHere, Plantable, Site

__all__ = ["TfliteFile", "edits", "names"]

Edit = Callable[["TfliteFile", Any, np.random.Generator, float, Array], str]
EDITS: dict[str, dict[str, Edit]] = {}  # operator -> kind -> what does it


def edits(kind: str, *ops: str) -> Callable[[Edit], Edit]:
    """Registers what plants a fault of one kind into these operators."""

    def register(edit: Edit) -> Edit:
        for op in ops:
            EDITS.setdefault(op, {})[kind] = edit
        return edit

    return register


@cache
def names(enum: str) -> dict[int, str]:
    """Value -> name of one of the schema's enums."""
    return {v: k for k, v in vars(getattr(schema, enum)).items() if isinstance(v, int)}


class TfliteFile:
    """One TFLite model; only its main subgraph is changed."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graph = model.subgraphs[0]

    @classmethod
    def open(cls, path: Path) -> TfliteFile:
        return cls(schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0))

    def save(self, path: Path) -> None:
        path.write_bytes(_pack(self.model))

    def sites(self) -> list[Site]:
        keys = self.keys()
        found = []
        for op in self.graph.operators:
            word = self.word(op)
            found += [Site(kind, word, keys[op.outputs[0]]) for kind in EDITS.get(word, {})]
        return found

    def inputs(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        keys = self.keys()
        return {keys[i]: (self.shape(i), self.dtype(i)) for i in self.graph.inputs}

    def taken(self, name: str, value: Array) -> Array:
        index = self.keys().index(name)
        dtype, quant = self.dtype(index), self.graph.tensors[index].quantization
        if not np.issubdtype(dtype, np.integer) or quant is None or quant.scale is None:  # indices are as they are
            return value.astype(dtype)
        limits = np.iinfo(dtype)
        steps = np.round(value / float(quant.scale[0])) + int(quant.zeroPoint[0])
        return np.clip(steps, limits.min, limits.max).astype(dtype)

    def values(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        keys = self.keys()
        made = [o for op in self.graph.operators for o in op.outputs]
        found = _run(_pack(self.model), [feeds[keys[i]] for i in self.graph.inputs], self.graph.inputs, made)
        return {**feeds, **{keys[i]: value for i, value in found.items()}}

    def evaluate(self, tensor: str, values: Mapping[str, Array]) -> Array:
        keys = self.keys()
        target = keys.index(tensor)
        producers = {o: k for k, op in enumerate(self.graph.operators) for o in op.outputs}
        needed: set[int] = set()
        feeds: dict[int, Array] = {}
        todo = [target]
        while todo:
            index = todo.pop()
            if index < 0 or self.stored(index) is not None:
                continue
            if keys[index] in values and index != target:
                feeds[index] = values[keys[index]]
            elif index in producers and producers[index] not in needed:
                needed.add(producers[index])
                todo += list(self.graph.operators[producers[index]].inputs)
        part = self._part(sorted(needed), list(feeds), target)
        return _run(part, list(feeds.values()), list(feeds), [target])[target]

    def _part(self, operators: list[int], inputs: list[int], output: int) -> bytes:
        """A model of these operators alone, every tensor under its old index."""
        graph = copy.copy(self.graph)
        graph.operators = [self.graph.operators[k] for k in operators]
        graph.inputs, graph.outputs = inputs, [output]
        read = {i for op in graph.operators for i in op.inputs if i >= 0}
        kept = {self.graph.tensors[i].buffer for i in read}
        model = copy.copy(self.model)
        model.subgraphs = [graph, *self.model.subgraphs[1:]]
        model.buffers = [b if k in kept else schema.BufferT() for k, b in enumerate(self.model.buffers)]
        model.signatureDefs, model.metadata, model.metadataBuffer = None, None, None
        return _pack(model)

    def planted(self, site: Site, rng: np.random.Generator, amount: float, value: Array) -> tuple[Plantable, str]:
        changed = TfliteFile(copy.deepcopy(self.model))
        op = changed.graph.operators[changed.producer(site.tensor)]
        return changed, EDITS[site.op_type][site.kind](changed, op, rng, amount, value)

    def reach(self, tensor: str) -> dict[str, list[str]]:
        keys = self.keys()
        out: dict[str, list[str]] = {tensor: []}
        for op in self.graph.operators:
            for i in {keys[i] for i in op.inputs if i >= 0 and keys[i] in out}:
                out[i] += [keys[o] for o in op.outputs]
                for o in op.outputs:
                    out.setdefault(keys[o], [])
        return out

    def op_name(self, tensor: str) -> str:
        index = self.producer(tensor)
        return f"{self.word(self.graph.operators[index])}:{index}"

    def producer(self, tensor: str) -> int:
        keys = self.keys()
        for k, op in enumerate(self.graph.operators):
            if any(keys[i] == tensor for i in op.outputs):
                return k
        raise NotHere(f"nothing writes {tensor}")

    def keys(self) -> list[str]:
        """Tensor index -> its name, told apart by `#index` where there are several."""
        names = [t.name.decode("utf-8", "backslashreplace") for t in self.graph.tensors]
        counts = Counter(names)
        return [n if n and counts[n] == 1 else f"{n}#{i}" for i, n in enumerate(names)]

    def word(self, op: Any) -> str:
        code = self.model.operatorCodes[op.opcodeIndex]
        return names("BuiltinOperator").get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")

    def shape(self, index: int) -> tuple[int, ...]:
        shape = self.graph.tensors[index].shape
        return () if shape is None else tuple(int(d) for d in shape)

    def dtype(self, index: int) -> np.dtype[Any]:
        return np.dtype(names("TensorType")[self.graph.tensors[index].type].lower())

    def stored(self, index: int) -> Array | None:
        """A constant's value, None where an operator or a feed gives it."""
        data = self.model.buffers[self.graph.tensors[index].buffer].data
        if not isinstance(data, np.ndarray) or not data.size:
            return None
        return data.view(self.dtype(index)).reshape(self.shape(index))

    def constant(self, op: Any, slot: int) -> Array:
        """The stored value an operator reads at `slot`. Raises NotHere where it is computed or absent."""
        value = self.stored(op.inputs[slot]) if slot < len(op.inputs) and op.inputs[slot] >= 0 else None
        if value is None:
            raise NotHere("not stored")
        return value

    def set_constant(self, op: Any, slot: int, value: Array) -> None:
        """Give this operator, and no other, another constant."""
        index = self.own(op, slot)
        self.graph.tensors[index].shape = list(value.shape)
        self.graph.tensors[index].buffer = self.buffer(value)

    def own(self, op: Any, slot: int) -> int:
        """The index of the tensor read at `slot`, made a copy first where others read it too."""
        index = int(op.inputs[slot])
        readers = sum(list(other.inputs).count(index) for other in self.graph.operators)
        if readers > 1:
            index = self.tensor(copy.deepcopy(self.graph.tensors[index]))
            op.inputs = [index if k == slot else int(i) for k, i in enumerate(op.inputs)]
        return index

    def tensor(self, table: Any) -> int:
        """Add a tensor, under a name that no other has."""
        taken = {t.name for t in self.graph.tensors}
        table.name = next(n for k in range(1, 1 << 30) if (n := table.name + f"_{k}".encode()) not in taken)
        self.graph.tensors.append(table)
        return len(self.graph.tensors) - 1

    def buffer(self, value: Array) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def opcode(self, word: str) -> int:
        number = getattr(schema.BuiltinOperator, word)
        for k, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
                return k
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


def _pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _run(packed: bytes, feeds: list[Array], inputs: Any, fetch: list[int]) -> dict[int, Array]:
    """Tensors by index. Those that LiteRT does not hand out are left out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that keeping every tensor takes memory
            runtime = Interpreter(model_content=packed, experimental_preserve_all_tensors=True, num_threads=1)
        for index, value in zip(inputs, feeds, strict=True):
            runtime.resize_tensor_input(int(index), value.shape)
        runtime.allocate_tensors()
        for index, value in zip(inputs, feeds, strict=True):
            runtime.set_tensor(int(index), value)
        runtime.invoke()
    except (RuntimeError, ValueError) as error:
        raise NotHere(f"LiteRT refuses the change: {error}") from error
    found = {}
    for index in fetch:
        try:
            found[int(index)] = runtime.get_tensor(int(index)).copy()
        except ValueError:  # a tensor without data, such as one of a body that was not run
            continue
    return found
