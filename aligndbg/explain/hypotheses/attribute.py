"""Any other attribute that the same operator has with another value on the two sides; and the table of them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from aligndbg.canonical.evaluate import Step
from aligndbg.canonical.program import Program
from aligndbg.core.types import Layout
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Attribute", "compared_attributes", "same_operators"]


Unlike = Sequence[tuple[str, Any, Any]]
ELSEWHERE = {"perm", "axis", "epsilon"}  # other hypotheses try these, with more than one value
KINDS = {
    "pads": "padding",
    "ceil_mode": "pool_mode",
    "count_include_pad": "pool_mode",
    "cubic_coeff_a": "resize_mode",
    "axes": "axis",
}
# What an operator does where the attribute is not written (ONNX operator specifications).
DEFAULTS: dict[str, Any] = {
    "group": 1, "auto_pad": "NOTSET", "ceil_mode": 0, "count_include_pad": 0, "alpha": None, "transA": 0, "transB": 0,
    "keepdims": 1, "storage_order": 0, "beta": None,
}  # fmt: skip


class Attribute(Hypothesis):
    """Each attribute that differs between operators of one kind, set as on the other side."""

    name = "attribute"

    def applies(self, case: Case) -> bool:
        return len(list(case.programs())) == 2

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs())
        for at_r, at_c in same_operators(both["reference"], both["candidate"]):
            if both["reference"].steps[at_r].op == "Resize":
                continue  # has a hypothesis of its own
            steps = {"reference": both["reference"].steps[at_r], "candidate": both["candidate"].steps[at_c]}
            unlike = differing(steps["reference"], steps["candidate"])
            if len(unlike) > 1 and not ELSEWHERE.intersection(key for key, _, _ in unlike):
                yield from _together(both, {"reference": at_r, "candidate": at_c}, unlike)
            for key, ours, theirs in unlike:
                if key in ELSEWHERE:
                    continue
                values = {"reference": ours, "candidate": theirs}
                for side, at in (("candidate", at_c), ("reference", at_r)):
                    yield Trial(
                        KINDS.get(key, "attribute"),
                        side,
                        both[side].with_attributes(at, **{key: values[other_side(side)]}),
                        f"the candidate's {steps['candidate'].op} has {key}={theirs}, the reference's {key}={ours}",
                        f"with {key}={values[other_side(side)]} in the {side}",
                        costs.OTHERS_ATTRIBUTE,
                        {k: {key: v} for k, v in values.items()},
                    )


def _together(both: Mapping[str, Program], at: Mapping[str, int], unlike: Unlike) -> Iterator[Trial]:
    """All that differ at once: a dilation goes with its pads."""
    for side in ("candidate", "reference"):
        taken = {key: (ours if side == "candidate" else theirs) for key, ours, theirs in unlike}
        words = {
            name: ", ".join(f"{key}={(ours, theirs)[k]}" for key, ours, theirs in unlike)
            for k, name in enumerate(("reference", "candidate"))
        }
        yield Trial(
            "attribute",
            side,
            both[side].with_attributes(at[side], **taken),
            f"the candidate's {both[side].steps[at[side]].op} has {words['candidate']}, "
            f"the reference's {words['reference']}",
            f"with the {other_side(side)}'s in the {side}",
            costs.OTHERS_ATTRIBUTES,
            {"reference": {u[0]: u[1] for u in unlike}, "candidate": {u[0]: u[2] for u in unlike}},
        )


def compared_attributes(case: Case) -> list[dict[str, Any]]:
    """Attributes of the operators that both sides have, in ONNX's words: one row each, differing ones first."""
    both = dict(case.programs())
    if len(both) < 2:
        return []
    rows = []
    for at_r, at_c in same_operators(both["reference"], both["candidate"]):
        r, c = both["reference"].steps[at_r], both["candidate"].steps[at_c]
        other = {key for key, _, _ in differing(r, c)}
        for key in sorted({*r.attributes, *c.attributes}):
            ours, theirs = (_listed(s.attributes.get(key, DEFAULTS.get(key))) for s in (r, c))
            same = key not in other or (key == "axis" and _same_axis(ours, theirs, case.pair.layout))
            rows.append({"op": r.op, "attribute": key, "reference": ours, "candidate": theirs, "same": same})
    return sorted(rows, key=lambda row: row["same"])


def _same_axis(ours: Any, theirs: Any, layout: Layout) -> bool:
    """Whether the candidate's axis is the reference's, renumbered for its layout."""
    rank = len(layout.permutation)
    if not isinstance(ours, int) or not isinstance(theirs, int) or layout.from_shape != layout.candidate_shape:
        return False
    return len(layout.reference_shape) == rank and layout.permutation[ours % rank] == theirs % rank


def differing(r: Step, c: Step) -> list[tuple[str, Any, Any]]:
    """(attribute, reference's, candidate's) where they are not the same."""
    found = []
    for key in sorted({*r.attributes, *c.attributes}):
        ours, theirs = (_listed(s.attributes.get(key, _default(key, r, c))) for s in (r, c))
        if ours != theirs and ours is not None and theirs is not None:
            found.append((key, ours, theirs))
    return found


def _default(key: str, r: Step, c: Step) -> Any:
    """The meaning of a list that is not written: ones or zeros, as many as the other side has."""
    written = r.attributes.get(key, c.attributes.get(key))
    if key in ("strides", "dilations") and written is not None:
        return [1] * len(written)
    if key in ("pads", "output_padding") and written is not None:
        return [0] * len(written)
    return DEFAULTS.get(key)


def same_operators(reference: Program, candidate: Program) -> Iterator[tuple[int, int]]:
    """Steps of one operator, the first of the one with the first of the other, and so on."""
    left: dict[str, list[int]] = {}
    for k, step in enumerate(candidate.steps):
        left.setdefault(step.op, []).append(k)
    for k, step in enumerate(reference.steps):
        if left.get(step.op) and step.op not in ("Transpose", "Reshape", "Identity", "Cast"):
            yield k, left[step.op].pop(0)


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
