"""What backends do alike: options in words, checks of names, feeds and overrides, and the sessions that are kept."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from aligndbg.backends.segments import share
from aligndbg.core.errors import FeedError, UnsupportedError, UsageError, nearest
from aligndbg.core.types import Array, Graph, Key, ModelInfo, Overrides, TensorInfo

__all__ = [
    "BaseBackend",
    "Kept",
    "check_array",
    "check_names",
    "check_options",
    "checked_feeds",
    "checked_overrides",
    "choice",
    "count",
    "digest",
    "sessions_kept",
    "short_path",
    "tensor_of",
    "yes",
]


Made = TypeVar("Made")
SESSIONS_KEPT = 2  # a plain and a tapped one, or two of other overrides
LARGE_FILE = 64 << 20  # bytes of weights from which only the last session is kept: each packs its own copy


class BaseBackend:
    """A `Backend` to subclass: `graph` and `run` are its own, the rest has defaults that fit who keeps nothing.

    A class in the registry is made as `cls(target, options)`, in a child process of its own. `OPTIONS` says what each
    option of the query means; it is None where a model is made in Python and passed as an object.
    """

    OPTIONS: ClassVar[Mapping[str, str] | None] = None
    info: ModelInfo
    capabilities: frozenset[str]
    pid: int | None = None
    _bound: int | None = None

    def graph(self) -> Graph:
        raise NotImplementedError

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]:
        raise NotImplementedError

    def bound(self, nbytes: int) -> None:
        """As `Backend.bound`. What was kept for segments of another size is let go."""
        if share(nbytes) != share(self._bound):
            self.release()
        self._bound = nbytes

    def release(self) -> None:
        """As `Backend.release`."""

    def close(self) -> None:
        self.release()


class Kept(OrderedDict[Any, Made], Generic[Made]):
    """What was made for the last `most` keys: sessions, engines."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def get_or_make(self, key: Any, make: Callable[[], Made]) -> Made:
        if key not in self:
            self.make_room()
            self[key] = make()
        self.move_to_end(key)
        return self[key]

    def make_room(self) -> None:
        """The oldest goes before a new one takes memory."""
        while len(self) >= self.most:
            self.popitem(last=False)


def sessions_kept(weight_bytes: int) -> int:
    """How many sessions of a file with so many bytes of weights are kept."""
    return 1 if weight_bytes > LARGE_FILE else SESSIONS_KEPT


# Options: words of a query. Each raises UsageError.


def check_options(backend: str, known: Mapping[str, str], options: Iterable[str], path: str = "") -> None:
    for name in options:
        if name not in known:
            hint = nearest(name, known) if known else "it takes none"
            raise UsageError(f"the {backend} backend has no option {name!r}", context=path, hint=hint)


def choice(options: Mapping[str, str], name: str, default: str, known: Collection[str]) -> str:
    value = options.get(name, default)
    if value not in known:
        raise UsageError(f"{name}={value!r} is not known", hint=f"one of {', '.join(known)}")
    return value


def count(options: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    value = options.get(name, str(default))
    if not (value.isascii() and value.isdecimal() and int(value) >= least):
        what = f"a number of {least} or more" if least else "a number"
        raise UsageError(f"{name}={value!r} is not {what}", hint=f"for example {name}=4")
    return int(value)


def yes(options: Mapping[str, str], name: str) -> bool:
    return choice(options, name, "no", ("yes", "no")) == "yes"


# Names and arrays: what `run` is given.


def check_names(
    graph: Graph, known: Collection[str], fetch: Iterable[str], overrides: Iterable[Key], path: str
) -> None:
    """Raises UnsupportedError for what cannot be tapped, UsageError for an unknown fetch, FeedError for an override."""
    for names, what, kind in ((fetch, "fetch", UsageError), (overrides, "override", FeedError)):
        for key in names:
            name = tensor_of(key)
            if name in graph.untapped:
                raise UnsupportedError(f"it cannot be fetched or overridden: {graph.untapped[name]}", context=name)
            if name not in known:
                fact = f"cannot {what} {name!r}: there is no such tensor"
                raise kind(fact, context=path, hint=nearest(name, known))
            if isinstance(key, tuple):
                _check_edge(graph, *key, path)


def tensor_of(key: Key) -> str:
    """The tensor that is overridden, for all that read it or for one."""
    return key if isinstance(key, str) else key[0]


def _check_edge(graph: Graph, name: str, node: str, path: str) -> None:
    if node not in graph.places():
        fact = f"cannot override what {node!r} reads: there is no such node"
        raise FeedError(fact, context=path, hint=nearest(node, graph.places()))
    if name not in graph.node(node).inputs:
        fact = f"cannot override what {node!r} reads of {name!r}: it does not read it"
        raise FeedError(fact, context=path, hint=f"it reads {', '.join(filter(None, graph.node(node).inputs))}")


def checked_overrides(
    graph: Graph, known: Collection[str], overrides: Mapping[Any, Array] | None, path: str
) -> dict[Key, Array]:
    """The overrides as arrays, at once. Raises what `check_names` does, and FeedError for one that does not fit."""
    check_names(graph, known, (), overrides or (), path)
    arrays = {key: np.asarray(array) for key, array in (overrides or {}).items()}
    for key, array in arrays.items():
        name = tensor_of(key)
        check_array(f"override of {name!r}", graph.tensors.get(name, TensorInfo(name)), array, path)
    return arrays


def checked_feeds(
    graph: Graph, feeds: Mapping[str, Array], path: str, needed: Collection[str] | None = None
) -> dict[str, Array]:
    """The feeds as arrays. Raises FeedError for one that is unknown or unfit, or missing and `needed` (None: all)."""
    for name in feeds:
        if name not in graph.inputs:
            constant = " (it is a constant: override it instead)" if name in graph.constants else ""
            raise FeedError(f"no input is called {name!r}{constant}", context=path, hint=nearest(name, graph.inputs))
    arrays = {}
    for name in graph.inputs:
        info = graph.tensors.get(name, TensorInfo(name))
        if name in feeds:
            arrays[name] = np.asarray(feeds[name])
            check_array(f"input {name!r}", info, arrays[name], path)
        elif needed is None or name in needed:
            fact = f"input {name!r} is missing: expected {_spell(info.dtype, info.shape)}"
            raise FeedError(fact, context=path, hint=f"inputs: {', '.join(graph.inputs)}")
    return arrays


def check_array(what: str, info: TensorInfo, array: Array, path: str) -> None:
    """Raises FeedError unless the array has the dtype and the shape of the tensor, as far as they are known."""
    dtype = "string" if array.dtype.kind in "OUS" else array.dtype.name
    fits = not info.dtype or dtype == info.dtype
    if info.shape is not None:
        fits = fits and len(info.shape) == array.ndim
        pairs = zip(info.shape, array.shape, strict=False)
        fits = fits and all(size == known for known, size in pairs if isinstance(known, int))
    if not fits:
        expected = _spell(info.dtype, info.shape)
        raise FeedError(f"{what}: expected {expected}, got {_spell(dtype, array.shape)}", context=path)


def digest(array: Array) -> bytes:
    """Tells arrays of one dtype and shape apart."""
    return hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()


def _spell(dtype: str, shape: Sequence[int | str | None] | None) -> str:
    dims = "of any shape" if shape is None else "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
    return f"{dtype or 'any type'} {dims}"


def short_path(path: str) -> str:
    """Relative where that is short; in Jupyter the cell that was run, `In[3]`, instead of its temporary file."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    cell = shell.compile.format_code_name(path) if shell is not None else None
    if cell is not None:
        return str(cell[1])
    here = os.path.relpath(path) if os.path.isabs(path) else path
    return os.path.basename(path) if here.startswith("..") else here
