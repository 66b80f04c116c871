"""Any other attribute that the same operator has with another value on the two sides; and the table of them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import SIDES, Case, Trial
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["Attribute", "compared_attributes", "same_axes", "same_operators", "twins"]


Unlike = Sequence[tuple[str, Any, Any]]
ELSEWHERE = {"perm", "axis", "epsilon"}  # other hypotheses try these, with more than one value
KINDS = {
    "pads": "padding",
    "ceil_mode": "pool_mode",
    "count_include_pad": "pool_mode",
    "cubic_coeff_a": "resize_mode",
    "axes": "axis",
}
# Say again what shapes say, or nothing of what is computed: unwritten they are no difference.
REPEATED = {"kernel_shape", "output_shape", "hidden_size", "num_outputs", "split", "momentum", "storage_order", "perm"}
RESIZE_READS = {"nearest_mode": ("nearest",), "cubic_coeff_a": ("cubic",), "exclude_outside": ("cubic",)}
ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


class Attribute(Hypothesis):
    """Each attribute that differs between operators of one kind, set as on the other side."""

    name = "attribute"
    from_files = True

    def applies(self, case: Case) -> bool:
        return len(list(case.programs())) == 2

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs())
        for at in same_operators(both):
            if both["reference"].steps[at["reference"]].op == "Resize":
                continue  # has a hypothesis of its own
            unlike = [u for u in differing(case, both, at) if u[0] not in ELSEWHERE]
            if len(unlike) > 1:
                yield from _set(both, at, unlike, "attribute", costs.OTHERS_ATTRIBUTES)  # a dilation with its pads
            for one in unlike:
                pad = both["reference"].steps[at["reference"]].op == "Pad"
                kind = "padding" if pad else KINDS.get(one[0], "attribute")
                yield from _set(both, at, [one], kind, costs.OTHERS_ATTRIBUTE)


def _set(both: Mapping[str, Program], at: Mapping[str, int], unlike: Unlike, kind: str, cost: float) -> Iterator[Trial]:
    """These attributes of one operator as the other side has them, on either side."""
    held = {"reference": {u[0]: u[1] for u in unlike}, "candidate": {u[0]: u[2] for u in unlike}}
    words = {side: ", ".join(f"{key}={_said(value)}" for key, value in held[side].items()) for side in SIDES}
    op = both["candidate"].steps[at["candidate"]].op
    for side in reversed(SIDES):
        yield Trial(
            kind,
            side,
            both[side].with_attributes(at[side], **held[other_side(side)]),
            f"the candidate's {op} has {words['candidate']}, the reference's {words['reference']}",
            f"with {words[other_side(side)] if len(unlike) == 1 else 'the ' + other_side(side) + chr(39) + 's'} "
            f"in the {side}",
            cost,
            held,
        )


def compared_attributes(case: Case) -> list[dict[str, Any]]:
    """Attributes of the operators that both sides have, in ONNX's words: one row each, differing ones first.

    Also of programs that could not be run: then with the reason why a difference was not tried.
    """
    both = {side: half.plain or half.written for side, half in case.halves.items()}
    programs = {side: program for side, program in both.items() if program is not None}
    if len(programs) < 2:
        return []
    why_not = next((half.why_not for half in case.halves.values() if half.program is None), "")
    rows = []
    for at in same_operators(programs):
        unlike = {key: (ours, theirs) for key, ours, theirs in differing(case, programs, at)}
        steps = [programs[side].steps[at[side]] for side in SIDES]
        values = [_values(programs[side], at[side]) for side in SIDES]
        for key in sorted({*steps[0].attributes, *steps[1].attributes}):
            ours, theirs = unlike.get(key, tuple(_listed(v.get(key)) for v in values))
            row = {"op": steps[0].op, "attribute": key, "reference": ours, "candidate": theirs}
            not_tried = {"not_tried": why_not} if key in unlike and why_not else {}
            rows.append({**row, "same": key not in unlike, **not_tried})
    return sorted(rows, key=lambda row: row["same"])


def differing(case: Case, programs: Mapping[str, Program], at: Mapping[str, int]) -> list[tuple[str, Any, Any]]:
    """(attribute, reference's, candidate's) of one operator on both sides, where they do not mean the same."""
    r, c = (_values(programs[side], at[side]) for side in SIDES)
    found = []
    for key in sorted({*r, *c}):
        ours, theirs = _listed(r.get(key, c.get(key))), _listed(c.get(key, r.get(key)))
        if key in REPEATED and (ours is None or theirs is None or key in ("momentum", "storage_order")):
            continue
        ours, theirs = _unwritten(ours, theirs, key), _unwritten(theirs, ours, key)
        if ours != theirs and not (key in ("axis", "axes") and same_axes(case, "reference", ours, theirs)):
            found.append((key, ours, theirs))
    return found


def _values(program: Program, at: int) -> dict[str, Any]:
    values = {key: value for key, value in program.attributes(at).items() if _matters(program, at, key)}
    if "activations" in values and "activations" not in program.steps[at].attributes:
        count = 2 if values.get("direction") == "bidirectional" else 1
        values["activations"] = ACTIVATIONS.get(program.steps[at].op, []) * count
    return values


def _matters(program: Program, at: int, key: str) -> bool:
    """False for what a resize of this mode does not read."""
    mode = program.attributes(at).get("mode")
    read = RESIZE_READS.get(key)
    return read is None or program.steps[at].op != "Resize" or mode in read


def _unwritten(value: Any, other: Any, key: str) -> Any:
    """The meaning of a list that is not written: ones or zeros, as many as the other side has."""
    if value is None and other is not None and key in ("strides", "dilations"):
        return [1] * len(other)
    if value is None and other is not None and key in ("pads", "output_padding"):
        return [0] * len(other)
    return value


def same_axes(case: Case, side: str, ours: Any, theirs: Any) -> bool:
    """Whether these axes of `side` are those of the other one, counted from the end or renumbered for its layout."""
    r, c = ([v] if isinstance(v, int) else v for v in ((ours, theirs) if side == "reference" else (theirs, ours)))
    if not isinstance(r, list) or not isinstance(c, list) or len(r) != len(c):
        return False
    near = {case.pair, *(p for p in case.context.pairs if p.reference in case.half("reference").feeds)}
    for layout in (p.layout for p in near):
        rank = len(layout.permutation)
        if layout.from_shape != layout.candidate_shape or len(layout.reference_shape) != rank or not rank:
            continue
        if {layout.permutation[a % rank] for a in r} == {a % rank for a in c}:
            return True
    return False


def same_operators(programs: Mapping[str, Program]) -> Iterator[dict[str, int]]:
    """By side, the steps of one operator: the first of the one with the first of the other, and so on."""
    left: dict[str, list[int]] = {}
    for k, step in enumerate(programs["candidate"].steps):
        left.setdefault(step.op, []).append(k)
    for k, step in enumerate(programs["reference"].steps):
        if left.get(step.op) and step.op not in ("Transpose", "Reshape", "Identity", "Cast"):
            yield {"reference": k, "candidate": left[step.op].pop(0)}


def twins(programs: Mapping[str, Program]) -> dict[str, dict[int, int]]:
    """By side, the step of the other side that is each step's counterpart: what that file says needs no guess."""
    if len(programs) < 2:
        return {side: {} for side in programs}
    pairs = list(same_operators(programs))
    return {side: {at[side]: at[other_side(side)] for at in pairs} for side in SIDES}


def _said(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
