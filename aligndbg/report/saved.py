"""A result as a file: its dataclasses as MessagePack, compressed. Nothing in such a file is ever executed."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from aligndbg.core.errors import ModelError
from aligndbg.core.files import write_bytes
from aligndbg.core.types import Array, Graph, ModelInfo
from aligndbg.core.version import __version__
from aligndbg.result import Result

__all__ = ["load", "save"]

FORMAT = "aligndbg.saved/2"
_ARRAY = 1  # the MessagePack extension that holds an array, as .npy has it
_LARGEST_ATTRIBUTE = 4096  # elements; a constant's value among a node's attributes is not kept whole


Kind = TypeVar("Kind", bound=Result)


@dataclass(frozen=True)
class _Head:
    format: str
    version: str


def save(diff: Result, path: Path) -> None:
    import msgspec

    kept = replace(
        diff,
        reference=_named(diff.reference),
        candidate=_named(diff.candidate),
        graphs=(_light(diff.graphs[0]), _light(diff.graphs[1])),
    )
    data = msgspec.msgpack.encode({"format": FORMAT, "version": __version__, "diff": kept}, enc_hook=_encode)
    write_bytes(path, gzip.compress(data, compresslevel=6, mtime=0))


def load(path: Path, kind: type[Kind]) -> Kind:
    """What `save` wrote, as a `kind` of Result. Raises ModelError."""
    import msgspec

    try:
        data = gzip.decompress(path.read_bytes())
        head = msgspec.msgpack.decode(data, type=_Head, ext_hook=_decode)
        if head.format != FORMAT:
            raise ModelError(
                f"written by aligndbg {head.version} as {head.format}; this one reads {FORMAT}",
                context=str(path),
                hint="run the diff again, or use that version",
            )
        file: Any = msgspec.defstruct("File", [("format", str), ("version", str), ("diff", kind)])
        found: Kind = msgspec.msgpack.decode(data, type=file, ext_hook=_decode, dec_hook=_as_is).diff
        return found
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise _not_saved(path, str(error)) from None
        raise ModelError(error.strerror or str(error), context=str(path), hint="give what --save wrote") from None
    except (EOFError, zlib.error, ValueError, msgspec.MsgspecError) as error:
        raise _not_saved(path, str(error)) from None


def _not_saved(path: Path, why: str) -> ModelError:
    return ModelError(f"not a saved diff ({why})", context=str(path), hint="give what `aligndbg diff --save` wrote")


def _named(info: ModelInfo) -> ModelInfo:
    """A path need not be UTF-8; then it is written as JSON has it."""
    return replace(info, path=info.path.encode("utf-8", "backslashreplace").decode())


def _light(graph: Graph) -> Graph:
    """The graph without large arrays among its nodes' attributes."""

    def short(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.size > _LARGEST_ATTRIBUTE:
            return f"{value.dtype} array of shape {value.shape}"
        return value

    nodes = tuple(replace(n, attributes={k: short(v) for k, v in n.attributes.items()}) for n in graph.nodes)
    return replace(graph, nodes=nodes)


def _encode(value: Any) -> Any:
    import msgspec

    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        stream = io.BytesIO()
        plain = (
            value if value.dtype.kind in "biufcSU" else value.astype(np.float64)
        )  # ml_dtypes' are not numpy's to name
        np.lib.format.write_array(stream, plain, allow_pickle=False)
        return msgspec.msgpack.Ext(_ARRAY, stream.getvalue())
    if hasattr(value, "items"):
        return dict(value)
    raise NotImplementedError(f"a {type(value).__name__} cannot be saved")


def _decode(code: int, data: memoryview) -> Array:
    if code != _ARRAY:
        raise ValueError(f"unknown extension {code}")
    found: Array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return found


def _as_is(kind: Any, value: Any) -> Any:
    """Arrays come decoded already; anything else that has no plain form is refused."""
    if not isinstance(value, np.ndarray):
        raise ValueError(f"expected an array, found a {type(value).__name__}")
    return value
