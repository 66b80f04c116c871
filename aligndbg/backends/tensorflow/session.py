"""TensorFlow sessions: the frozen graph as it is, and once more with a placeholder on each edge.

An override feeds the placeholder, whose default is what the model computes: so the value stays the model's own, one
reader or all of them see another, and TensorFlow computes nothing that is not read any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from aligndbg.backends.base import Kept
from aligndbg.core.types import Array

__all__ = ["Edge", "Plain", "Tapped", "owned"]

Edge = tuple[str, str]  # a tensor, in TensorFlow's words, and the node that reads it
CALLS_KEPT = 4  # each is the part of the graph that it needs, made ready to run; without the weights


class Plain:
    """The graph as it is."""

    def __init__(self, graph_def: Any, grappler: bool, threads: int) -> None:
        import tensorflow as tf

        self.graph = tf.Graph()
        with self.graph.as_default():
            tf.import_graph_def(graph_def, name="")
        self._session = tf.compat.v1.Session(graph=self.graph, config=_config(grappler, threads))
        self._calls: Kept[Any] = Kept(CALLS_KEPT)

    def run(self, fetch: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The tensors of `fetch`, by TensorFlow's names."""
        call = self._calls.get_or_make((*fetch, "", *feeds), lambda: self._call(fetch, feeds))
        found: list[Array] = call(*feeds.values())
        return found

    def _call(self, fetch: Iterable[str], feeds: Iterable[str]) -> Any:
        """What `Session.run` would keep for ever, one for each set of fetches and feeds."""
        from tensorflow.core.protobuf.config_pb2 import CallableOptions

        return self._session._make_callable_from_options(CallableOptions(fetch=fetch, feed=feeds))

    def close(self) -> None:
        self._calls.clear()
        self._session.close()


class Tapped(Plain):
    """With a placeholder on each edge that leads out of the tensors of `open_`."""

    def __init__(self, graph_def: Any, graph: Any, open_: Collection[str], threads: int) -> None:
        with_edges, self.edges = _with_placeholders(graph_def, graph, open_)
        super().__init__(with_edges, grappler=False, threads=threads)
        self._of: dict[str, list[str]] = {}
        for (tensor, _), placeholder in self.edges.items():
            self._of.setdefault(tensor, []).append(placeholder)

    def placeholders(self, tensor: str, node: str = "") -> list[str]:
        """Those between a tensor and all that read it, or one."""
        return [self.edges[tensor, node]] if node else self._of.get(tensor, [])


def owned(values: Sequence[Array], held: Iterable[Array]) -> list[Array]:
    """The results of one run as arrays of their own.

    TensorFlow hands out one piece of memory as several tensors (a copy, a reshape, a part), and that of what it was fed
    or has stored. What shares no memory with other results or with `held` is not copied.
    """
    starts = ((a.__array_interface__["data"][0], a.nbytes, k) for k, a in enumerate((*values, *held)) if a.nbytes)
    shared, end, last = set[int](), 0, -1
    for start, nbytes, k in sorted(starts):
        if start < end:
            shared.update((last, k))
        if start + nbytes > end:
            end, last = start + nbytes, k
    own = (a.flags.writeable and not a.dtype.hasobject for a in values)
    return [a if fine and k not in shared else np.array(a) for k, (a, fine) in enumerate(zip(values, own, strict=True))]


def _config(grappler: bool, threads: int) -> Any:
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1, device_count={"GPU": 0}
    )
    if not grappler:
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        config.graph_options.optimizer_options.opt_level = -1
    return config


def _with_placeholders(graph_def: Any, graph: Any, open_: Collection[str]) -> tuple[Any, dict[Edge, str]]:
    """The graph with a PlaceholderWithDefault for each (tensor, reader), and the placeholders' tensors."""
    edited = type(graph_def)()
    edited.CopyFrom(graph_def)
    edges: dict[Edge, str] = {}
    for node in list(edited.node):
        for slot, source in enumerate(node.input):
            tensor = source if ":" in source else f"{source}:0"
            if source.startswith("^") or tensor not in open_:
                continue
            if (tensor, node.name) not in edges:
                name = f"aligndbg/edge_{len(edges)}"
                edges[tensor, node.name] = f"{name}:0"
                added = edited.node.add(name=name, op="PlaceholderWithDefault", input=[source])
                added.attr["dtype"].type = graph.get_tensor_by_name(tensor).dtype.as_datatype_enum
                added.attr["shape"].shape.unknown_rank = True
            node.input[slot] = edges[tensor, node.name].removesuffix(":0")
    return edited, edges
