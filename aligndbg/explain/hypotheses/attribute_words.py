"""One of the few words that an attribute may be, where the other side's is not known: it has no such operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aligndbg.canonical.program import Program
from aligndbg.explain import costs
from aligndbg.explain.case import Case, Trial
from aligndbg.explain.hypotheses.attribute import twins
from aligndbg.explain.hypothesis import Hypothesis, other_side

__all__ = ["AttributeWords"]


FLAG = (0, 1)
RECURRENT: dict[str, tuple[Any, ...]] = {"direction": ("forward", "reverse")}
REDUCTION: dict[str, tuple[Any, ...]] = {"reduction": ("none", "add", "mul", "max", "min")}
# What the ONNX specification lets an attribute be, where that is one of a few.
WORDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "GRU": {"linear_before_reset": FLAG, **RECURRENT},
    "LSTM": RECURRENT,
    "RNN": RECURRENT,
    "DepthToSpace": {"mode": ("DCR", "CRD")},
    "ScatterElements": REDUCTION,
    "ScatterND": REDUCTION,
    "GridSample": {
        "align_corners": FLAG,
        "padding_mode": ("zeros", "border", "reflection"),
        "mode": ("bilinear", "nearest", "bicubic", "linear", "cubic"),
    },
    "BatchNormalization": {"training_mode": FLAG},
    "RoiAlign": {"mode": ("avg", "max"), "coordinate_transformation_mode": ("half_pixel", "output_half_pixel")},
    "ArgMax": {"select_last_index": FLAG},
    "ArgMin": {"select_last_index": FLAG},
    "TopK": {"largest": FLAG},
    "CumSum": {"exclusive": FLAG, "reverse": FLAG},
    "Mod": {"fmod": FLAG},
    "Trilu": {"upper": FLAG},
    "LpNormalization": {"p": (1, 2)},
    "Attention": {"is_causal": FLAG, "unidirectional": FLAG},
    "MultiHeadAttention": {"unidirectional": FLAG},
}


class AttributeWords(Hypothesis):
    """Every other word in turn; the other side is said to compute so, never to have it written."""

    name = "attribute_words"

    def applies(self, case: Case) -> bool:
        return any(step.op in WORDS for _, program in case.programs() for step in program.steps)

    def trials(self, case: Case) -> Iterator[Trial]:
        both = dict(case.programs())
        known = twins(both)
        for side, program in both.items():
            for at, step in enumerate(program.steps):
                if step.op in WORDS and at not in known[side]:
                    yield from _each(side, program, at)


def _each(side: str, program: Program, at: int) -> Iterator[Trial]:
    step, values, other = program.steps[at], program.attributes(at), other_side(side)
    for key, words in WORDS[step.op].items():
        own = values.get(key)
        for word in words if key in values else ():
            if word == own:
                continue
            yield Trial(
                "attribute",
                side,
                program.with_attributes(at, **{key: word}),
                f"the {side}'s {step.op} has {key}={own}, the {other} computes as with {key}={word}",
                f"with {key}={word} in the {side}",
                costs.ATTRIBUTE_WORD,
                {side: {key: own}, "explained_by": {key: word}},
                guess=True,
            )
