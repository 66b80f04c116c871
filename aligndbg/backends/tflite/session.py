"""LiteRT's interpreter: made, refused, run and read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligndbg.backends.tflite.edit import Cut
from aligndbg.core.errors import MissingDependencyError
from aligndbg.core.types import Array

__all__ = ["KERNELS", "Runtime", "Session", "missing_kernel", "one_line"]


KERNELS = {"xnn": "BUILTIN", "opt": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "ref": "BUILTIN_REF"}

_NO_KERNEL = (
    re.compile(r"builtin opcode '(?P<word>\w+)' version '(?P<version>\d+)'"),
    re.compile(r"unresolved custom op: (?P<word>.+?)\.?\n"),
    re.compile(r"(Select|Regular) TensorFlow ops?\b.*\((?P<word>Flex)", re.DOTALL),
)


@dataclass(frozen=True)
class Runtime:
    """LiteRT with one kernel set and a number of threads."""

    kernels: str
    threads: int

    def __post_init__(self) -> None:
        try:
            import ai_edge_litert.interpreter  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError(
                "ai-edge-litert is not installed", hint="pip install ai-edge-litert"
            ) from error

    def interpreter(self, model: str | bytes) -> Any:
        """An interpreter of a path or of a file's content. Raises ValueError where LiteRT refuses it."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        source = {"model_content": model} if isinstance(model, bytes) else {"model_path": model}
        return Interpreter(
            **source,
            num_threads=self.threads,
            experimental_op_resolver_type=getattr(OpResolverType, KERNELS[self.kernels]),
        )

    def refusal(self, model: str | bytes, *, allocate: bool = False) -> str:
        """What LiteRT says against a model; "" for nothing. Custom operators are looked up on `allocate` only."""
        try:
            interpreter = self.interpreter(model)
            if allocate:
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            return str(error)
        return ""

    def session(
        self,
        model: str | bytes,
        shapes: Mapping[int, tuple[int, ...]],
        cuts: Mapping[Cut, int] | None = None,
        places: Mapping[int, int] | None = None,
    ) -> Session:
        """A session with inputs resized to `shapes`; `cuts` and `places` are those of a rewritten model.

        Raises ValueError or RuntimeError where LiteRT refuses it.
        """
        interpreter = self.interpreter(model)
        made = Session(interpreter, cuts or {}, places)
        for index, shape in shapes.items():
            interpreter.resize_tensor_input(made.place(index), shape)
        interpreter.allocate_tensors()
        return made


@dataclass(frozen=True)
class Session:
    """An allocated interpreter; tensors are called by their indices in the file, see `edit.Rewritten`."""

    interpreter: Any
    cuts: Mapping[Cut, int]
    places: Mapping[int, int] | None

    def place(self, index: int) -> int:
        """The interpreter's own index of a tensor."""
        return index if self.places is None else self.places[index]

    def invoke(self, feeds: Mapping[int, Array], overrides: dict[Cut, Array]) -> dict[int, tuple[int, ...]]:
        """One run; returns the shapes, by the interpreter's indices. Overrides are taken out as they are copied."""
        # Variable tensors start at 0 every time, or the same feeds would not give the same values twice.
        self.interpreter.reset_all_variables()
        for index, value in feeds.items():
            self.interpreter.set_tensor(self.place(index), value)
        for cut, stand_in in self.cuts.items():
            value = overrides.pop(cut)
            if value.size:  # there is only one value of no elements
                self.interpreter.set_tensor(stand_in, value)
        self.interpreter.invoke()
        # Names that are no UTF-8 are left out of the details.
        return {d["index"]: tuple(map(int, d["shape"])) for d in self.interpreter.get_tensor_details()}

    def read(self, index: int, shape: tuple[int, ...] | None, dtype: str) -> Array:
        """A copy of an output. A zero-element tensor may have no memory, so it is not asked for.

        Raises ValueError where LiteRT has nothing to give.
        """
        if shape is not None and 0 in shape:
            return np.empty(shape, dtype)
        value: Array = self.interpreter.get_tensor(self.place(index))
        return value


def missing_kernel(message: str) -> tuple[str, int | None] | None:
    """The operator, and a builtin's version, that LiteRT says it has no kernel for; None if it says something else.

    ("Flex", None) stands for all TensorFlow ops: the reference kernels do not say which one they met.
    """
    found = next(filter(None, (pattern.search(message) for pattern in _NO_KERNEL)), None)
    if found is None:
        return None
    number = found.groupdict().get("version")
    return found["word"], None if number is None else int(number)


def one_line(message: str) -> str:
    """LiteRT's message without its line breaks and source paths."""
    return " ".join(re.sub(r"^\S+\.(cc|h):\d+ ", "", message, flags=re.MULTILINE).split())
