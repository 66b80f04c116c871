"""Diff -> the data that the page's script draws from: plain lists and numbers, names made visible."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from aligndbg.core.types import Array, Graph, Layout, Node, Pair, Quant, TensorInfo
from aligndbg.measure.results import AxisProfile, Detail, Element, ErrorMap, Measurement, Metrics
from aligndbg.report.causes import causes_of_tensors, told
from aligndbg.report.graph_rows import rows
from aligndbg.report.words import clean, shape_text
from aligndbg.result import Result

__all__ = ["METRICS", "page_data", "script_json"]

METRICS = tuple(f.name for f in fields(Metrics) if f.name not in ("joint", "masked", "reasons", "worst_index"))
ATTRIBUTE_WIDTH = 160
LISTED_REGION = 40


def page_data(diff: Result) -> dict[str, Any]:
    """Everything about each pair and each node; `clean`ed strings, numbers of 8 digits, None for undefined."""
    left, right = (_DrawnGraph(graph) for graph in diff.graphs)
    by_candidate = {m.pair.candidate: m.pair.reference for m in diff.pairs}
    links: dict[int, int] = {}
    for candidate, reference in by_candidate.items():
        if candidate in right.places and reference in left.places:
            links[right.places[candidate]] = left.places[reference]
    row_left, row_right = rows(left.sources, right.sources, links)
    lost = [
        {u.name: str(u.kind) for u in unmatched}
        for unmatched in (diff.matching.unmatched_reference, diff.matching.unmatched_candidate)
    ]
    causes = causes_of_tensors(diff)
    pairs = [_pair(m, left, right, m.pair.reference in diff.outputs) for m in diff.pairs]
    for pair, m in zip(pairs, diff.pairs, strict=True):
        if m.pair.reference in causes:
            said = told(causes[m.pair.reference])
            pair["cause"] = f"{said.kind}: {said.summary}"
    return {
        "metrics": METRICS,
        "pairs": pairs,
        "graphs": [left.as_list(row_left, lost[0]), right.as_list(row_right, lost[1])],
        "tensors": [left.tensors, right.tensors],
    }


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _DrawnGraph:
    """One graph without the nodes that compute constants.

    `places` maps each tensor to its node's number; `tensors` holds the names and kinds that `as_list` refers to.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tensors: list[list[str]] = []
        self._numbers: dict[str, int] = {}
        self.nodes = [n for n in graph.nodes if not n.outputs or not graph.constants.issuperset(n.outputs)]
        self.places = {o: k for k, n in enumerate(self.nodes) for o in n.outputs if o}
        self.sources = [
            sorted({self.places[i] for i in n.inputs if i in self.places and self.places[i] < k})
            for k, n in enumerate(self.nodes)
        ]

    def as_list(self, row: list[int], lost: Mapping[str, str]) -> list[dict[str, Any]]:
        return [
            self._node(node, self.sources[k], row[k], next((lost[o] for o in node.outputs if o in lost), ""))
            for k, node in enumerate(self.nodes)
        ]

    def _node(self, node: Node, sources: list[int], row: int, lost: str) -> dict[str, Any]:
        out: dict[str, Any] = {
            "op": clean(node.op_type),
            "name": clean(node.name),
            "row": row,
            "src": sources,
            "in": [self._tensor(i) for i in node.inputs if i][:LISTED_REGION],
            "out": [self._tensor(o) for o in node.outputs if o][:LISTED_REGION],
        }
        if node.canonical != node.op_type:
            out["is"] = clean(node.canonical)
        if node.attributes:
            out["at"] = [[clean(str(k)), _short(v)] for k, v in node.attributes.items()]
        if node.scope:
            out["scope"] = clean(node.scope)
        if lost:
            out["lost"] = lost
        return out

    def _tensor(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.tensors)
            self.tensors.append(self._described(name))
        return self._numbers[name]

    def _described(self, name: str) -> list[str]:
        info = self.graph.tensors.get(name, TensorInfo(name))
        shape = "" if info.shape is None else f"[{', '.join('?' if d is None else str(d) for d in info.shape)}]"
        kind = " ".join(word for word in (info.dtype, shape, _quant(info.quant)) if word)
        return [clean(name), clean(kind) + (", constant" if name in self.graph.constants else "")]


def _quant(quant: Quant | None) -> str:
    if quant is None:
        return ""
    if quant.scale.size == 1:
        return f"scale {float(quant.scale[0]):.4g}, zero point {int(quant.zero_point[0])}"
    return f"{quant.scale.size} scales along axis {quant.axis}"


def _short(value: Any) -> str:
    """An attribute in one short line; large arrays by what they are."""
    if isinstance(value, np.ndarray) and value.size > 16:
        return f"{value.dtype} array {'x'.join(map(str, value.shape))}"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return clean(str(value), ATTRIBUTE_WIDTH)


def _pair(m: Measurement, left: _DrawnGraph, right: _DrawnGraph, output: bool) -> dict[str, Any]:
    pair = m.pair
    return {
        "r": clean(pair.reference),
        "c": clean(pair.candidate),
        "nodes": [left.places.get(pair.reference, -1), right.places.get(pair.candidate, -1)],
        "ops": [clean(m.reference_op), clean(m.candidate_op)],
        "status": str(m.status),
        "reason": clean(m.reason),
        "output": output,
        "found": f"{pair.method}, confidence {pair.confidence:.2g}",
        "evidence": clean(pair.evidence),
        "layout": _layout(pair.layout),
        "shape": list(pair.layout.reference_shape),
        "m": [_number(getattr(m.metrics, name)) for name in METRICS],
        "i": None if m.isolated is None else [_number(getattr(m.isolated, name)) for name in METRICS],
        "why": {name: clean(text) for name, text in m.metrics.reasons.items()},
        "detail": None if m.detail is None else _detail(m.detail, pair),
    } | (
        {"samples": {k: clean(v) if isinstance(v, str) else _number(v) for k, v in m.samples.items()}}
        if m.samples
        else {}
    )


def _layout(layout: Layout) -> str:
    both = f"{shape_text(layout.reference_shape)} ~ {shape_text(layout.candidate_shape)}"
    moved = f", axes {list(layout.permutation)}" if list(layout.permutation) != sorted(layout.permutation) else ""
    doubt = f", {len(layout.alternatives)} other orders fit as well" if layout.alternatives else ""
    return f"{layout.kind}: {both}{moved}{doubt}"


def _detail(d: Detail, pair: Pair) -> dict[str, Any]:
    low, high = float(d.edges[0]), float(d.edges[-1])
    return {
        "range": [_number(low), _number(high)],
        "counts": [d.counts_reference.tolist(), d.counts_candidate.tolist()],
        "points": _bytes((d.points - low) / (high - low)),
        "profiles": [_profile(p) for p in d.profiles],
        "maps": [_map(m) for m in d.maps],
        "limit": [_number(d.atol), _number(d.rtol)],
        "bad": d.bad,
        "first": [_element(e, pair.layout) for e in d.first],
        "worst": [_element(e, pair.layout) for e in d.worst],
    }


def _bytes(shares: Array) -> str:
    """Numbers of 0 to 1 as bytes 0 to 254, base64; what is not finite is 255."""
    finite = np.where(np.isfinite(shares), np.clip(shares, 0, 1), 0)
    stored = np.where(np.isfinite(shares), np.rint(finite * 254), 255).astype(np.uint8)
    return base64.b64encode(stored.tobytes()).decode()


def _scaled(values: Array) -> tuple[float, str]:
    """The largest finite value, and all as shares of it."""
    greatest = float(np.max(values, where=np.isfinite(values), initial=0.0))
    return greatest, _bytes(values / (greatest or 1.0))


def _profile(p: AxisProfile) -> dict[str, Any]:
    greatest, cells = _scaled(p.values)
    return {"axis": p.axis, "size": p.size, "step": p.step, "max": _number(greatest), "cells": cells}


def _map(m: ErrorMap) -> dict[str, Any]:
    greatest, cells = _scaled(m.values)
    return {"axes": m.axes, "steps": m.steps, "size": m.values.shape, "max": _number(greatest), "cells": cells}


def _element(e: Element, layout: Layout) -> list[Any]:
    there = _candidate_index(e.index, layout)
    return [list(e.index), None if there == e.index else list(there), _number(e.reference), _number(e.candidate)]


def _candidate_index(index: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """Where the candidate holds the element that is at `index` in the reference's shape."""
    if not index:
        return (0,) * len(layout.candidate_shape)
    moved = [layout.from_shape[axis] for axis in layout.permutation]
    place = np.unravel_index(np.ravel_multi_index(index, layout.reference_shape), moved)
    source = [0] * len(layout.permutation)
    for axis, value in zip(layout.permutation, place, strict=True):
        source[axis] = int(value)
    flat = np.ravel_multi_index(source, layout.from_shape)
    return tuple(int(i) for i in np.unravel_index(flat, layout.candidate_shape))


def _number(value: Any) -> float | int | str | None:
    if value is None or isinstance(value, int):
        return value
    value = float(value)
    if math.isnan(value):
        return None
    return float(f"{value:.8g}") if math.isfinite(value) else str(value)
