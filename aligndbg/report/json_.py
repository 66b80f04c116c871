"""The JSON of schema aligndbg.diff/1 (DESIGN 7): keys may be added, none renamed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aligndbg._files import replacing
from aligndbg._types import Coverage, Fault, Layout, LayoutKind, Measurement, ModelInfo, Region, Skipped, Unmatched

if TYPE_CHECKING:
    from aligndbg._diff import Diff

__all__ = ["SCHEMA", "as_dict", "to_json", "write_bytes", "write_text"]

SCHEMA = "aligndbg.diff/1"


def as_dict(diff: Diff) -> dict[str, Any]:
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
        "faults": [_fault(f) for f in diff.faults],
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


def to_json(diff: Diff) -> str:
    return json.dumps(as_dict(diff), indent=1, allow_nan=False) + "\n"


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes all of it or nothing: a reader never sees half a file. Raises UsageError."""
    with replacing(path) as file:
        file.write(data)


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
    }


def plain_value(value: Any) -> Any:
    """Enums, tuples, dataclasses, numpy values and non-finite floats as JSON has them."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return plain_value(value.item())
    if isinstance(value, np.ndarray):
        return plain_value(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_value(getattr(value, f.name)) for f in fields(value)}
    if hasattr(value, "items"):
        return {plain_value(str(k)): plain_value(v) for k, v in value.items()}
    return [plain_value(v) for v in value]
