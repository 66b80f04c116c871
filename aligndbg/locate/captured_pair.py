"""Both sides as they were run, for the stages that run one of them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aligndbg.core.qdq import is_coarse, is_quantized
from aligndbg.core.types import Array, Backend, Layout, RunAgain
from aligndbg.feeds.translate import FeedPlan
from aligndbg.match.pairing import ByValue
from aligndbg.match.weights import Weights
from aligndbg.trace.capture import Captured

__all__ = ["CapturedPair"]


@dataclass(frozen=True)
class CapturedPair:
    """Both sides as they were run and captured, for the stages that run one of them again; and what values pair."""

    reference: Backend
    candidate: Backend
    feeds: Mapping[str, Array] | None
    plan: FeedPlan
    left: Captured
    right: Captured
    user: Mapping[str, str] | None
    translated: Mapping[str, Array] | None
    weights: Weights
    by_value: ByValue

    @property
    def links(self) -> list[tuple[str, str, Layout]]:
        return [(link.reference, link.candidate, link.layout) for link in self.plan.links]

    @property
    def quantized(self) -> bool:
        """Whether the candidate has tensors on a grid."""
        return is_quantized(self.right.trace)

    def on_grid(self, run_again: RunAgain) -> bool:
        """Whether the side that is not run again has tensors or weights on a grid."""
        return is_coarse(self.right.trace if run_again is RunAgain.REFERENCE else self.left.trace)
