"""The JSON of schema aligndbg.diff/1 (DESIGN 7): keys may be added, none renamed."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from aligndbg.core.jsonable import plain_value
from aligndbg.core.types import Coverage, Fault, Layout, LayoutKind, ModelInfo, Region, Skipped, Unmatched
from aligndbg.measure.results import Measurement
from aligndbg.result import Result

__all__ = ["SCHEMA", "as_dict", "metrics_dict", "to_json"]

SCHEMA = "aligndbg.diff/1"


def as_dict(diff: Result) -> dict[str, Any]:
    """The document as plain dicts, lists, strings and numbers; non-finite numbers are "nan", "inf", "-inf"."""
    document = {
        "schema": SCHEMA,
        "verdict": diff.verdict,
        "verdict_reason": diff.verdict_reason,
        "reference": _side(diff.reference, diff.matching.coverage_reference, len(diff.matching.skipped_reference)),
        "candidate": _side(diff.candidate, diff.matching.coverage_candidate, len(diff.matching.skipped_candidate)),
        "coverage": {side: asdict(c) for side, c in diff.coverage.items()},
        "pairs": [_pair(m, m.pair.reference in diff.outputs) for m in diff.pairs],
        "unmatched": {
            "reference": [_unmatched(u) for u in diff.matching.unmatched_reference],
            "candidate": [_unmatched(u) for u in diff.matching.unmatched_candidate],
        },
        "skipped": {
            "reference": [_skipped(s) for s in diff.matching.skipped_reference],
            "candidate": [_skipped(s) for s in diff.matching.skipped_candidate],
        },
        "exact": list(diff.exact),
        "faults": [_fault(f) for f in diff.faults],
        "corrected": diff.corrected,
        "causes": list(diff.causes),
        "truncated": diff.truncated,
        "checks": diff.checks,
        "inputs": list(diff.inputs),
        "timing": diff.timing,
        "memory": diff.memory,
        "warnings": list(diff.warnings),
    } | ({"samples": list(diff.samples)} if diff.samples else {})
    plain = plain_value(document)
    assert isinstance(plain, dict)
    return plain


def to_json(diff: Result) -> str:
    return json.dumps(as_dict(diff), indent=1, allow_nan=False) + "\n"


def _side(info: ModelInfo, coverage: Coverage, skipped: int) -> dict[str, Any]:
    return {
        "path": info.path,
        "backend": info.backend,
        "version": info.version,
        "options": dict(info.options),
        "tensors": sum(asdict(coverage).values()) + skipped,
    }


def _pair(m: Measurement, output: bool) -> dict[str, Any]:
    return {
        "reference": m.pair.reference,
        "candidate": m.pair.candidate,
        "reference_op": m.reference_op,
        "candidate_op": m.candidate_op,
        "method": m.pair.method,
        "confidence": m.pair.confidence,
        "evidence": m.pair.evidence,
        "layout": _layout(m.pair.layout),
        "status": m.status,
        "reason": m.reason,
        "output": output,
        "metrics": metrics_dict(m.metrics),
        "isolated": metrics_dict(m.isolated) if m.isolated is not None else None,
    } | ({"samples": m.samples} if m.samples is not None else {})


def metrics_dict(metrics: Any) -> dict[str, Any]:
    """Every metric but `joint`, which is no number a person reads."""
    return {f.name: getattr(metrics, f.name) for f in fields(metrics) if f.name != "joint"}


def _layout(layout: Layout) -> dict[str, Any]:
    return {
        "kind": layout.kind,
        "from_shape": layout.from_shape,
        "permutation": layout.permutation,
        "alternatives": layout.alternatives if layout.kind is LayoutKind.AMBIGUOUS else [],
        "reference_shape": layout.reference_shape,
        "candidate_shape": layout.candidate_shape,
    }


def _unmatched(u: Unmatched) -> dict[str, Any]:
    return {"name": u.name, "op": u.op, "class": u.kind, "reason": u.reason}


def _skipped(s: Skipped) -> dict[str, Any]:
    return {"name": s.name, "op": s.op, "reason": s.reason}


def _region(region: Region) -> dict[str, Any]:
    return {"nodes": region.nodes, "inputs": region.inputs, "outputs": region.outputs}


def _fault(fault: Fault) -> dict[str, Any]:
    return {
        "reference": fault.reference,
        "candidate": fault.candidate,
        "reference_op": fault.reference_op,
        "candidate_op": fault.candidate_op,
        "reference_scope": fault.reference_scope,
        "candidate_scope": fault.candidate_scope,
        "isolated_error": fault.isolated_error,
        "isolated_unit": fault.isolated_unit,
        "region": {"reference": _region(fault.region_reference), "candidate": _region(fault.region_candidate)},
        "cause": fault.cause,
        "effect": fault.effect,
        "hidden": fault.hidden,
    }
