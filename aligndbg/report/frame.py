"""Diff -> pandas.DataFrame, one row a pair."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligndbg.core.errors import MissingDependencyError
from aligndbg.core.files import write_bytes
from aligndbg.core.types import Cause
from aligndbg.measure.results import Metrics
from aligndbg.report.causes import causes_of_tensors
from aligndbg.report.effects import largest
from aligndbg.report.json import metrics_dict
from aligndbg.result import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "EFFECT_COLUMNS", "METRIC_COLUMNS", "SAMPLE_COLUMNS", "to_frame", "to_parquet"]

# Columns that say which pair it is: pandas' string dtype, but for confidence (float64) and output (bool).
COLUMNS = (
    "reference",
    "candidate",
    "reference_op",
    "candidate_op",
    "status",
    "reason",
    "output",
    "method",
    "confidence",
    "layout",
    "shape",
    "cause",
    "cause_summary",
)
# Columns of numbers, NaN where undefined; each appears again as `isolated_*`.
METRIC_COLUMNS = (
    "max_abs",
    "mean_abs",
    "rmse",
    "sum_diff",
    "max_rel",
    "rel_l2",
    "cosine",
    "euclid",
    "sqnr_db",
    "lsb_max",
    "lsb_mean",
    "saturated",
    "mean_reference",
    "mean_candidate",
    "std_reference",
    "std_candidate",
    "min_reference",
    "min_candidate",
    "max_reference",
    "max_candidate",
    "distinct_reference",
    "distinct_candidate",
    "nan_reference",
    "nan_candidate",
    "inf_reference",
    "inf_candidate",
    "zeros_reference",
    "zeros_candidate",
    "violations",
    "masked",  # how many elements are a mask's
)

# What a fault does at the output where that is most, relative L2: all others corrected, and only it corrected.
EFFECT_COLUMNS = ("effect_alone", "effect_corrected")
# Of several samples, how each pair's error spreads; the other columns are those of its worst sample.
SAMPLE_COLUMNS = ("worst_sample", "rel_l2_median", "rel_l2_p90", "rel_l2_p99", "rel_l2_worst")


def to_frame(diff: Result) -> pd.DataFrame:
    """COLUMNS, METRIC_COLUMNS, `isolated_` + METRIC_COLUMNS and EFFECT_COLUMNS, in that order; one row a pair,
    execution order. Of several samples SAMPLE_COLUMNS follow.

    The dtypes are the same for every diff: "string" for COLUMNS (confidence is float64, output bool), float64 for all
    others, NaN where a metric is undefined, does not apply, or the pair was not isolated.
    """
    import pandas as pd

    causes = causes_of_tensors(diff)
    effects = {f.reference: f.effect for f in diff.faults if f.effect is not None}
    rows = []
    extra = SAMPLE_COLUMNS if any(m.samples is not None for m in diff.pairs) else ()
    for m in diff.pairs:
        cause = causes.get(m.pair.reference, Cause("", ""))
        row: dict[str, Any] = {
            "reference": m.pair.reference,
            "candidate": m.pair.candidate,
            "reference_op": m.reference_op,
            "candidate_op": m.candidate_op,
            "status": str(m.status),
            "reason": m.reason,
            "output": m.pair.reference in diff.outputs,
            "method": m.pair.method,
            "confidence": m.pair.confidence,
            "layout": str(m.pair.layout.kind),
            "shape": "x".join(map(str, m.pair.layout.reference_shape)),
            "cause": cause.kind,
            "cause_summary": cause.summary,
        }
        own = _numbers(m.isolated) if m.isolated is not None else {}
        accumulated = _numbers(m.metrics)
        row |= {name: accumulated[name] for name in METRIC_COLUMNS}
        row |= {f"isolated_{name}": own.get(name) for name in METRIC_COLUMNS}
        effect = effects.get(m.pair.reference)
        row |= {f"effect_{name}": largest(getattr(effect, name, None)) for name in ("alone", "corrected")}
        row |= {name: (m.samples or {}).get(name) for name in extra}
        rows.append(row)
    columns = [*COLUMNS, *METRIC_COLUMNS, *(f"isolated_{name}" for name in METRIC_COLUMNS), *EFFECT_COLUMNS, *extra]
    frame = pd.DataFrame(rows, columns=columns)
    dtypes: dict[str, str] = dict.fromkeys(columns, "float64") | dict.fromkeys(COLUMNS, "string")
    return frame.astype(dtypes | {"confidence": "float64", "output": "bool"})


def _numbers(metrics: Metrics) -> dict[str, Any]:
    return metrics_dict(metrics) | {"masked": metrics.masked.count if metrics.masked else None}


def to_parquet(diff: Result, path: Path) -> None:
    """`to_frame` as a Parquet file, by pyarrow."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingDependencyError(
            "Parquet files need pyarrow, not installed here", hint='pip install "aligndbg[parquet]"'
        )
    stream = io.BytesIO()
    to_frame(diff).to_parquet(stream, engine="pyarrow", index=False)
    write_bytes(path, stream.getvalue())
