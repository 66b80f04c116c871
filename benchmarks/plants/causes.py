"""Which causes are right for which plant, and how they came out: the confusion table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from plants import Plant

if TYPE_CHECKING:
    from plants.bench import Finding, Trial

__all__ = ["confusion", "is_right", "table"]

# Planted kind -> kinds of cause that name it. Several where the plant is both: one row of padding moved on an axis with
# a stride shifts the window; a channel's weights times a factor are a weight and a scale.
RIGHT = {
    "weight_channel": {"weight"},
    "scale": {"scale", "quantization_scale"},
    "bias_channel": {"bias"},
    "missing_bias": {"missing_bias"},
    "dtype_rounding": {"precision"},
    "padding": {"padding"},
    "stride_offset": {"padding", "stride_offset"},
    "missing_activation": {"missing_activation"},
    "extra_activation": {"extra_activation"},
    "activation": {"activation", "approximation"},
    "epsilon": {"epsilon"},
    "norm_channel": {"weight", "bias"},
    "axis": {"axis"},
    "softmax_beta": {"scale"},
    "operand_order": {"operand_order"},
    "concat_order": {"operand_order"},
    "transposed": {"layout"},
    "resize_mode": {"resize_mode"},
    "pool_mode": {"pool_mode"},
}
CONSTANT = {
    "Add": {"bias", "epsilon"},
    "AddV2": {"bias", "epsilon"},
    "Sub": {"bias"},
    "Mul": {"scale"},
    "Div": {"scale"},
    "RealDiv": {"scale"},
    "Pow": {"weight"},
    "PRelu": {"activation"},
    "Clip": {"activation"},
}
# Seen from the candidate: what the reference lacks, the candidate has too much.
MIRRORED = {"missing_activation": "extra_activation", "extra_activation": "missing_activation"}


def is_right(plant: Plant, side: str, cause: str) -> bool:
    site = plant.site
    kind = "missing_activation" if plant.detail.endswith("-> Identity") else site.kind  # one replaced by nothing
    kind = MIRRORED.get(kind, kind) if side == "reference" else kind
    if kind == "constant":
        return cause in CONSTANT[site.op_type.capitalize() if site.op_type.isupper() else site.op_type]
    return cause in RIGHT[kind]


def confusion(done: Sequence[Trial]) -> dict[str, dict[str, int]]:
    """Planted kind (as seen from the candidate) -> cause -> count, over the located faults; right ones as `right`."""
    rows: dict[str, Counter[str]] = {}
    for trial in done:
        for f in trial.findings:
            if f.located:
                rows.setdefault(f.plant.site.kind, Counter())[_verdict(f, trial.side)] += 1
    return {kind: dict(rows[kind]) for kind in sorted(rows)}


def _verdict(finding: Finding, side: str) -> str:
    if is_right(finding.plant, side, finding.cause):
        return "right"
    return finding.cause if finding.cause in ("", "unexplained") else f"wrong: {finding.cause}"


def table(rows: dict[str, dict[str, int]]) -> str:
    """Markdown: located, right, unexplained, wrong by kind, with a line of totals."""
    lines = ["| planted | located | right | unexplained | wrong |", "|---|---|---|---|---|"]
    sums: Counter[str] = Counter()
    for kind, counts in [*rows.items(), ("all", None)]:
        if counts is not None:
            wrong = {k: n for k, n in counts.items() if k.startswith("wrong")}
            found = Counter(
                located=sum(counts.values()),
                right=counts.get("right", 0),
                unexplained=counts.get("unexplained", 0) + counts.get("", 0),
                wrong=sum(wrong.values()),
            )
            sums += found
            named = ", ".join(f"{k.removeprefix('wrong: ')} {n}" for k, n in wrong.items())
        else:
            found, named = sums, str(sums["wrong"])
        cells = (found["located"], found["right"], found["unexplained"], named or "0")
        lines.append(f"| {kind} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
