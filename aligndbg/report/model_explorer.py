"""Diff -> files for Google's Model Explorer: both graphs, and overlays of the errors on their nodes.

`graphs.json` is a collection of two graphs; each overlay maps a graph's id to values by output tensor, as Model
Explorer's node data has it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aligndbg.core.files import write_text
from aligndbg.core.jsonable import plain_value
from aligndbg.core.types import Cause, Graph, Node, Status
from aligndbg.measure.results import Measurement
from aligndbg.report.causes import causes_of_tensors
from aligndbg.report.words import clean, number
from aligndbg.result import Result

__all__ = ["write_model_explorer"]

INPUTS = "inputs"
COLOR = {Status.PASS: "#b7e1c0", Status.DRIFT: "#ffe08a", Status.FAULT: "#f28b82", Status.UNKNOWN: "#d7aefb"}
UNMATCHED = "#dadce0"
LONGEST = 200  # characters of an attribute


def write_model_explorer(diff: Result, folder: Path) -> list[Path]:
    """Write graphs.json, status.json, error.json and own_error.json in `folder`; the last in steps where quantized."""
    folder.mkdir(parents=True, exist_ok=True)
    documents: dict[str, Any] = {
        "graphs": {"label": "aligndbg", "graphs": [_graph(diff, side) for side in (0, 1)]},
        "status": _overlay(diff, lambda m: str(m.status), unmatched=True),
        "error": _overlay(diff, lambda m: m.metrics.rel_l2),
        "own_error": _overlay(diff, _own),
    }
    paths = [folder / f"{name}.json" for name in documents]
    for path, document in zip(paths, documents.values(), strict=True):
        write_text(path, json.dumps(plain_value(document), allow_nan=False) + "\n")
    return paths


def _own(m: Measurement) -> float | None:
    if m.isolated is None:
        return None
    steps = m.isolated.lsb_max
    return float(m.isolated.rel_l2 if steps is None else steps)


def _overlay(
    diff: Result, value: Callable[[Measurement], float | str | None], unmatched: bool = False
) -> dict[str, Any]:
    """Node data by graph id, coloured by status. A value that is undefined is shown as that word."""
    out: dict[str, Any] = {}
    sides = (("reference", diff.matching.unmatched_reference), ("candidate", diff.matching.unmatched_candidate))
    for side, lost in sides:
        results: dict[str, Any] = {}
        for m in diff.pairs:
            found = value(m)
            if found is None:
                continue
            results[getattr(m.pair, side)] = {"value": _shown(found), "bgColor": COLOR[m.status]}
        if unmatched:
            results |= {u.name: {"value": str(u.kind), "bgColor": UNMATCHED} for u in lost}
        out[side] = {"results": results}
    return out


def _shown(value: float | str) -> float | str:
    """Three digits; its tables have room for no more."""
    if isinstance(value, str):
        return value
    return float(f"{value:.3g}") if math.isfinite(value) else "undefined"


def _graph(diff: Result, side: int) -> dict[str, Any]:
    graph, name = diff.graphs[side], ("reference", "candidate")[side]
    pairs = {getattr(m.pair, name): m for m in diff.pairs}
    causes = causes_of_tensors(diff)
    sources = {t: (INPUTS, k) for k, t in enumerate(graph.inputs)}
    for i, node in enumerate(graph.nodes):
        sources |= {t: (str(i), k) for k, t in enumerate(node.outputs) if t}
    first = {"id": INPUTS, "label": "inputs", "namespace": "", "outputsMetadata": _outputs(graph, graph.inputs)}
    nodes = [
        {
            "id": str(i),
            "label": node.op_type,
            "namespace": _namespace(node),
            "attrs": [{"key": key, "value": _text(value)} for key, value in _attributes(node, pairs, 1 - side, causes)],
            "incomingEdges": _edges(node, sources),
            "outputsMetadata": _outputs(graph, node.outputs),
        }
        for i, node in enumerate(graph.nodes)
    ]
    return {"id": name, "nodes": [first, *nodes]}


def _namespace(node: Node) -> str:
    """The folders of a node's name, which Model Explorer shows as groups."""
    return "/".join(part for part in node.name.split("/")[:-1] if part and ";" not in part)


def _edges(node: Node, sources: Mapping[str, tuple[str, int]]) -> list[dict[str, str]]:
    found = ((k, sources[t]) for k, t in enumerate(node.inputs) if t in sources)
    return [
        {"sourceNodeId": source, "sourceNodeOutputId": str(output), "targetNodeInputId": str(k)}
        for k, (source, output) in found
    ]


def _outputs(graph: Graph, names: tuple[str, ...]) -> list[dict[str, Any]]:
    out = []
    for k, name in enumerate(names):
        info = graph.tensors.get(name)
        shape = "x".join("?" if d is None else str(d) for d in info.shape) if info and info.shape is not None else "?"
        attributes = {"tensor_name": name, "shape": f"{info.dtype if info else ''}[{shape}]"}
        out.append({"id": str(k), "attrs": [{"key": key, "value": value} for key, value in attributes.items()]})
    return out


def _attributes(
    node: Node, pairs: Mapping[str, Measurement], other: int, causes: Mapping[str, Cause]
) -> Iterator[tuple[str, Any]]:
    yield "name", node.name
    if node.scope:
        yield "scope", node.scope
    yield from node.attributes.items()
    for name in node.outputs:
        m = pairs.get(name)
        if m is None:
            continue
        yield "aligndbg counterpart", (m.pair.reference, m.pair.candidate)[other]
        yield "aligndbg status", f"{m.status}: {m.reason}"
        yield "aligndbg error", f"relative L2 {number(m.metrics.rel_l2)}, cosine {number(m.metrics.cosine)}"
        if m.pair.reference in causes:
            cause = causes[m.pair.reference]
            yield "aligndbg cause", f"{cause.kind}: {cause.summary}"


def _text(value: Any) -> str:
    text = clean(str(value).replace("\n", " "))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
