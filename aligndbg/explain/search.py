"""Why a fault is one: hypotheses tried on the fault's own tensors, and the one that makes the error vanish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aligndbg.canonical.evaluate import CannotEvaluateError
from aligndbg.core.types import Cause, Fault
from aligndbg.explain.advice import ADVICE
from aligndbg.explain.budget import RAISED_BY, OutOfTimeError, worked
from aligndbg.explain.case import Case, Context, Half
from aligndbg.explain.constant_roles import compared_constants
from aligndbg.explain.hypotheses.activation import Activation
from aligndbg.explain.hypotheses.affine import Affine
from aligndbg.explain.hypotheses.attribute import Attribute, compared_attributes
from aligndbg.explain.hypotheses.attribute_words import AttributeWords
from aligndbg.explain.hypotheses.axis import Axis
from aligndbg.explain.hypotheses.border import Border
from aligndbg.explain.hypotheses.broadcast import Broadcast
from aligndbg.explain.hypotheses.constants import Constants
from aligndbg.explain.hypotheses.epsilon import Epsilon
from aligndbg.explain.hypotheses.fitted_constants import FittedConstants
from aligndbg.explain.hypotheses.given import Given
from aligndbg.explain.hypotheses.input_preparation import InputPreparation
from aligndbg.explain.hypotheses.number_formats import Nonfinite, Precision
from aligndbg.explain.hypotheses.order import Arrangement, Operands
from aligndbg.explain.hypotheses.padding import Padding, StrideOffset
from aligndbg.explain.hypotheses.pooling import Pooling
from aligndbg.explain.hypotheses.quantization import QuantizationScale, QuantizerConstants
from aligndbg.explain.hypotheses.resize import Resize
from aligndbg.explain.hypotheses.stored_bias import StoredBias
from aligndbg.explain.hypotheses.training import ActiveDropout
from aligndbg.explain.hypotheses.whole_numbers import WholeNumbers
from aligndbg.explain.hypothesis import Hypothesis, Tested
from aligndbg.explain.make_case import make_case

__all__ = ["explain_faults"]


MOST_OPERATORS = 20
MOST_TOLD = 4  # differences in the sentence of a fault that nothing explains
HYPOTHESES: tuple[Hypothesis, ...] = (
    Nonfinite(),
    StoredBias(),
    Padding(),
    Border(),
    StrideOffset(),
    Attribute(),
    Given(),
    AttributeWords(),
    Pooling(),
    Axis(),
    Broadcast(),
    Constants(),
    FittedConstants(),
    Operands(),
    Arrangement(),
    InputPreparation(),
    Activation(),
    Resize(),
    Epsilon(),
    WholeNumbers(),
    ActiveDropout(),
    Affine(),
    Precision(),
    QuantizationScale(),
    QuantizerConstants(),
)


def explain_faults(faults: Sequence[Fault], contexts: Sequence[Context], deadline: float) -> tuple[Fault, ...]:
    """Every fault with its cause, by `deadline` (of `budget.worked`); each gets its share of the time left.

    Those that their share was too short for are tried again on what the others left.
    """
    out = list(faults)
    waiting = list(range(len(faults)))
    for _ in range(2):
        for place, k in enumerate(waiting):
            now = worked()
            share = now + (deadline - now) / (len(waiting) - place)
            out[k] = replace(faults[k], cause=explain_fault(faults[k], replace(contexts[k], deadline=share)))
        waiting = [k for k in waiting if _cut_short(out[k].cause)]
        if worked() > deadline:
            break
    return tuple(out)


def _cut_short(cause: Cause | None) -> bool:
    return cause is not None and cause.kind == "unexplained" and bool(cause.details.get("out_of_time"))


def explain_fault(fault: Fault, context: Context) -> Cause:
    """The cause of one fault: the simplest tested one, or `unexplained` with what was tried."""
    if worked() > context.deadline:
        words = f"not tried: out of time ({RAISED_BY} raises it)"
        return Cause("unexplained", words, details={"out_of_time": True})
    try:
        case = make_case(fault, context)
    except CannotEvaluateError as error:
        case = str(error)
    if isinstance(case, str):
        return Cause("unexplained", f"it could not be experimented on: {case}", details={"why": case})
    tested = _tested(case)
    details, cause = _details(case, tested), tested.cause
    if cause is None:
        return Cause("unexplained", _unexplained(tested, details), case.before, None, details)
    return replace(cause, details={**details, "change": ADVICE[cause.kind], **cause.details})


def _tested(case: Case) -> Tested:
    """What all hypotheses show that there was time for."""
    found = Tested()
    for k, hypothesis in enumerate(HYPOTHESES):
        if hypothesis.applies(case):
            try:
                hypothesis.test(case, found)
            except OutOfTimeError:
                left = tuple(h.name for h in HYPOTHESES[k:] if h is hypothesis or h.applies(case))
                return replace(found, out_of_time=True, not_tried=left)
    return found


def _details(case: Case, tested: Tested) -> dict[str, Any]:
    """What is told with every cause: where in each model, the attributes, what was tried and what could not be."""
    both = [program for _, program in case.programs()]
    tried = [{"hypothesis": name, "best_error": error, "by": by} for name, (error, by) in tested.tried.items()]
    return {
        "where": {side: _where(half) for side, half in case.halves.items()},
        "attributes": compared_attributes(case),
        "constants": compared_constants(*both) if len(both) == 2 else [],
        "unit": case.unit,
        **({"whole": case.whole} if case.whole else {}),
        "tried": tried,
        "not_evaluated": {side: half.why_not for side, half in case.halves.items() if half.program is None},
        "out_of_time": tested.out_of_time,
        "not_tried": list(tested.not_tried),
    }


def _where(half: Half) -> dict[str, Any]:
    """The file, the tensor, and the operators with the module or source line that the file knows."""
    operators = [{"name": n.name, "op": n.op_type, "scope": n.scope} for n in half.nodes[:MOST_OPERATORS]]
    return {"file": half.own.path, "tensor": half.output, "operators": operators, "count": len(half.nodes)}


def _unexplained(tested: Tested, details: Mapping[str, Any]) -> str:
    """What was tried, and what is plainly different all the same."""
    tried = ", ".join(tested.tried) or "nothing"
    left = ", ".join(dict.fromkeys(tested.not_tried))
    when = f"; not tried: out of time: {left} ({RAISED_BY} raises it)" if tested.out_of_time else ""
    rows = [row for row in details["attributes"] if not row["same"]][:MOST_TOLD]
    said = [f"{row['op']} {row['attribute']} {row['reference']} against {row['candidate']}" for row in rows]
    said += [f"the {row['role']} of {row['op']}" for row in details["constants"] if "only" not in row][:MOST_TOLD]
    differ = f"; what differs: {', '.join(dict.fromkeys(said))}" if said else ""
    untried = next((row["not_tried"] for row in rows if "not_tried" in row), "")
    return f"no hypothesis makes the error vanish (tried: {tried}){when}{differ}" + (
        f" (not tried: {untried})" if untried else ""
    )
