"""The rows of clean and planted diffs as Markdown."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from zoo.clean import CONVERTERS, is_false
from zoo.files import PAIRS

__all__ = ["causes_table", "clean_table", "false_list", "planted_list", "planted_table", "trial_text"]

Row = dict[str, Any]
GRADES = ("exact", "region", "near", "missed")
CAUSES = ("right", "unexplained", "wrong")


def _table(headings: Sequence[str], lines: Iterable[Sequence[Any]], left: int = 1) -> str:
    ruler = ["---"] * left + ["--:"] * (len(headings) - left)
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in (headings, ruler, *lines))


def clean_table(rows: Sequence[Row]) -> str:
    """A line a pair of builds, and one of all."""
    headings = ("pair", "nets", "aligned", "false", "the converter's", "tensors", "accounted, mean", "least")
    headings += ("isolated runs", "experiments", "seconds, median", "most")
    pairs = [*(pair for pair in PAIRS if any(r["pair"] == pair for r in rows)), "all"]
    return _table(headings, [_pair(p, [r for r in rows if p in (r["pair"], "all")]) for p in pairs])


def _pair(pair: str, rows: Sequence[Row]) -> list[Any]:
    told = [r for r in rows if "error" not in r]
    shares = [r["accounted"] for r in told] or [0.0]
    seconds = [r["seconds"] for r in rows] or [0.0]
    return [
        pair.replace("~", " : "),
        len(rows),
        sum(r["verdict"] == "aligned" for r in rows),
        sum(map(is_false, rows)),
        sum(bool(r.get("faults")) and (r["net"], r["pair"]) in CONVERTERS and not is_false(r) for r in rows),
        sum(r["tensors"] for r in told),
        f"{statistics.fmean(shares):.2%}",
        f"{min(shares):.1%}",
        _mean(told, "isolation_runs"),
        _mean(told, "experiments"),
        f"{statistics.median(seconds):.1f}",
        f"{max(seconds):.1f}",
    ]


def _mean(rows: Sequence[Row], key: str) -> str:
    known = [r[key] for r in rows if r.get(key) is not None]
    return f"{statistics.fmean(known):.1f}" if known else "-"


def false_list(rows: Sequence[Row]) -> str:
    """What is false in clean diffs, each with the command that repeats it."""
    lines = []
    for row in filter(is_false, rows):
        said = (
            row.get("error") or f"{row['verdict']}, {len(row['faults'])} faults, {row['accounted']:.0%} accounted for"
        )
        lines.append(f"- {row['net']} {row['pair']}: {said}")
        for fault in row.get("faults", ()):
            where = " : ".join(f"{op} {at}" for op, at in zip(fault["operators"], fault["at"], strict=True))
            lines.append(f"    - {where} ({fault['error']}), {fault['cause']}: {fault['summary']}")
        lines.append(f"    - `{row['command']}`")
    return "\n".join(lines)


def planted_table(rows: Sequence[Row]) -> str:
    """A line for each seed and number of faults. Grades and causes are of the solid plants."""
    headings = ("seed", "faults", "trials", "failed", "solid plants", *GRADES, "invented")
    headings += (
        *(f"cause {name}" for name in CAUSES),
        "regions run",
        "weak found",
        "masked, hidden",
        "experiments",
        "seconds, median",
    )
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["trial"] // 100_000, row["faults"]), []).append(row)
    return _table(headings, [_group(*key, groups[key]) for key in sorted(groups)])


def _group(seed: int, faults: int, rows: Sequence[Row]) -> list[Any]:
    done = [row for row in rows if "plants" in row]
    every = [plant for row in done for plant in row["plants"]]
    solid = [plant for plant in every if plant["strength"] == "solid"]
    weak = [plant for plant in every if plant["strength"] == "weak"]
    return [
        seed,
        faults,
        len(done),
        sum("error" in row for row in rows),
        len(solid),
        *(sum(plant["grade"] == name for plant in solid) for name in GRADES),
        sum(len(row["invented"]) for row in done),
        *(sum(plant["cause"] == name for plant in solid) for name in CAUSES),
        _ran(every),
        f"{sum(plant['grade'] in GRADES[:2] for plant in weak)} of {len(weak)}",
        len(every) - len(solid) - len(weak),
        _mean(done, "experiments"),
        f"{statistics.median([row['seconds'] for row in done] or [0]):.1f}",
    ]


def _ran(plants: Sequence[Row]) -> str:
    """Located faults whose regions could be computed alone on both sides, of those whose cause was sought."""
    sought = [plant["not_run"] for plant in plants if plant.get("not_run") is not None]
    ran = sum(not reasons for reasons in sought)
    return f"{ran} of {len(sought)} ({ran / len(sought):.1%})" if sought else "-"


def causes_table(rows: Sequence[Row]) -> str:
    """A line for each kind of solid plant: how many are located, and what was said of them."""
    solid = [p for row in rows for p in row.get("plants", ()) if p["strength"] == "solid"]
    counts: dict[str, Counter[str]] = {}
    for plant in solid:
        counts.setdefault(plant["kind"], Counter()).update([plant["grade"], plant["cause"]])
    return _table(
        ("planted", *GRADES, *CAUSES),
        [(kind, *(counts[kind][name] for name in (*GRADES, *CAUSES))) for kind in sorted(counts)],
    )


def trial_text(row: Row) -> str:
    lines = [f"{row['net']} {row['pair']} [{row['side']}] {row['trial']}: {row.get('verdict', 'no diff')}"]
    lines += [row[key] for key in ("error", "nothing") if key in row]
    for plant in row.get("plants", ()):
        lines.append(f"{plant['grade']:8}{plant['strength']:7}{plant['plant']}")
        lines += [f"        by {plant['by']}"] if plant["by"] else []
        lines += [f"        {plant['cause']} {plant['said']}"] if plant["said"] else []
        lines += [f"        not run: {side}: {why}" for side, why in (plant.get("not_run") or {}).items()]
    lines += [f"INVENTED {text}" for text in row.get("invented", ())]
    return "\n    ".join(lines)


def planted_list(rows: Sequence[Row]) -> str:
    """Trials with a solid plant not located, a fault invented, a wrong cause or no diff; how to repeat each."""
    lines = []
    for row in rows:
        solid = [p for p in row.get("plants", ()) if p["strength"] == "solid"]
        told = [f"{p['grade']}: {p['plant']}; {p['by']}" for p in solid if p["grade"] in GRADES[2:]]
        told += [f"wrong cause: {p['plant']}; {p['said']}" for p in solid if p["cause"] == "wrong"]
        told += [f"INVENTED {text}" for text in row.get("invented", ())]
        told += [row["error"]] if "error" in row else []
        if told:
            lines += [f"- {row['net']} {row['pair']} [{row['side']}]", *(f"    - {text}" for text in told)]
            lines.append(f"    - `{row['command']}`")
    return "\n".join(lines)
