"""How the candidate's inputs are made from the reference's feeds. Knows numpy only.

`translate` gives the plausible ways, the conventional one first: which input is which, in which layout, in which
dtype. `feeds.difference` then verifies that both sides got the same thing.
"""

from __future__ import annotations

import difflib
import heapq
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from aligndbg.core.arrays import is_float_dtype, numpy_dtype
from aligndbg.core.errors import FeedError, UsageError, nearest
from aligndbg.core.types import Array, Graph, Layout, Quant, TensorInfo
from aligndbg.feeds.layouts import describe_layout, fitting_layouts, is_usual, layout_cost

__all__ = ["FeedLink", "FeedPlan", "real_values", "translate"]

MAX_PLANS = 24  # every order of four inputs alike, or of four equal axes
MAX_COMBINATIONS = 10 * MAX_PLANS  # of the inputs' layouts, among which the least unusual are chosen
# What exporters and quantizers add to an input's name.
DECORATION = re.compile(
    r"serving|default|u?int\d+|float(16|32)?|fp(16|32)|(de)?quantized?|quant|tfl|tensor|statefulpartitionedcall"
)


class _Source(NamedTuple):
    """The reference input that one candidate input is fed from."""

    name: str
    how: str


class FeedLink(NamedTuple):
    """One candidate input, the reference input it is fed from, and how (evidence in words)."""

    reference: str
    candidate: str
    layout: Layout
    how: str


@dataclass(frozen=True)
class FeedPlan:
    """One way to feed the candidate. `ambiguous` names the candidate inputs that nothing but convention settles.

    `unused` are reference inputs without a counterpart (a converter drops an input that no output needs).
    """

    feeds: Mapping[str, Array]
    links: tuple[FeedLink, ...]
    ambiguous: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def real_values(array: Array, quant: Quant | None) -> Array:
    """The array itself, or what its quantized integers stand for (float32)."""
    return array if quant is None or is_float_dtype(array.dtype) else quant.dequantize(array)


def translate(
    feeds: Mapping[str, Array], reference: Graph, candidate: Graph, mapping: Mapping[str, str] | None = None
) -> list[FeedPlan]:
    """Plans to feed the candidate from the reference's `feeds`, the most plausible first; at least one, at most 24.

    Inputs are paired by `mapping` (reference name -> candidate name), then by equal names, by equal names after the
    exporters' decorations are dropped, then by what fits; inputs that only convention tells apart give several plans.
    So do layouts: equal shapes are fed as they are and channels-first goes to channels-last; what else fits (H == W
    may be swapped) comes in later plans. Dynamic dimensions of the candidate take the reference's. Floats are cast or
    quantized with the candidate's own parameters, integers must fit exactly.

    Raises UsageError for a `mapping` that names no input, or where nothing fits; FeedError for values out of range.
    """
    translation = _Translation(feeds, reference, candidate)
    pinned = translation.pin(mapping or {})
    plans: list[FeedPlan] = []
    for pairing in itertools.islice(translation.pairings(pinned), MAX_PLANS):
        plans.extend(translation.plans(pairing))
    if not plans:
        raise translation.no_fit()
    ambiguous = _told_apart_by_nothing(plans, translation)
    ranked = sorted(enumerate(plans), key=lambda item: (translation.cost(item[1]), item[0]))
    return [FeedPlan(plan.feeds, plan.links, ambiguous, plan.unused) for _, plan in ranked[:MAX_PLANS]]


def _told_apart_by_nothing(plans: Sequence[FeedPlan], translation: _Translation) -> tuple[str, ...]:
    """Candidate inputs with several sources, or with two layouts that are both conventional."""
    sources: dict[str, set[str]] = {}
    usual: dict[str, set[tuple[int, ...]]] = {}
    for link in (link for plan in plans for link in plan.links):
        sources.setdefault(link.candidate, set()).add(link.reference)
        if is_usual(link.layout):
            usual.setdefault(link.candidate, set()).add(link.layout.permutation)
    return tuple(
        name for name in translation.candidate.inputs if len(sources.get(name, ())) > 1 or len(usual.get(name, ())) > 1
    )


class _Translation:
    """Both signatures, and the arrays that are to be fed."""

    def __init__(self, feeds: Mapping[str, Array], reference: Graph, candidate: Graph) -> None:
        self.feeds, self.reference, self.candidate = feeds, reference, candidate
        self.left = [name for name in reference.inputs if name in feeds] or list(feeds)
        self.infos = {name: candidate.tensors.get(name, TensorInfo(name)) for name in candidate.inputs}
        self.quants = {name: reference.tensors.get(name, TensorInfo(name)).quant for name in self.left}
        self._layouts: dict[tuple[str, str], list[Layout]] = {}
        self._arrays: dict[tuple[str, str, Layout], Array] = {}

    def layouts(self, left: str, right: str) -> list[Layout]:
        key = (left, right)
        if key not in self._layouts:
            self._layouts[key] = fitting_layouts(self.feeds[left].shape, self.infos[right].shape)
        return self._layouts[key]

    def fits(self, left: str, right: str) -> bool:
        quant, info = self.quants[left], self.infos[right]
        return bool(self.layouts(left, right)) and not _refusal(self.feeds[left], quant, info)

    def pin(self, mapping: Mapping[str, str]) -> dict[str, _Source]:
        """Candidate inputs whose source is settled by the user or by a name."""
        pinned: dict[str, _Source] = {}
        for left, right in mapping.items():
            for name, known, side in ((left, self.left, "reference"), (right, list(self.infos), "candidate")):
                if name not in known:
                    raise UsageError(f"the {side} has no input {name!r}", hint=nearest(name, known))
            if not self.fits(left, right):
                raise self.no_fit()
            pinned[right] = _Source(left, "mapped by the user")
        for words, how in ((str, "same name"), (_words, "same name but for decorations")):
            taken = {source.name for source in pinned.values()}
            lefts = [name for name in self.left if name not in taken]
            rights = [name for name in self.infos if name not in pinned]
            for right in rights:
                same = [left for left in lefts if words(left) == words(right) and words(right)]
                rivals = [name for name in rights if words(name) == words(right)]
                if len(same) == len(rivals) == 1 and self.fits(same[0], right):
                    pinned[right] = _Source(same[0], how)
        return pinned

    def pairings(self, pinned: Mapping[str, _Source]) -> Iterator[dict[str, _Source]]:
        """Every assignment of the candidate's other inputs, similar names and positions first."""
        open_inputs = [name for name in self.infos if name not in pinned]
        taken = {source.name for source in pinned.values()}
        free = [name for name in self.left if name not in taken]
        choices = {right: self._ranked(right, free) for right in open_inputs}

        def extend(chosen: dict[str, str]) -> Iterator[dict[str, str]]:
            if len(chosen) == len(open_inputs):
                yield chosen
                return
            right = open_inputs[len(chosen)]
            for left in choices[right]:
                if left not in chosen.values():
                    yield from extend({**chosen, right: left})

        for chosen in extend({}):
            how = {right: "the only one that fits" if len(choices[right]) == 1 else "by position" for right in chosen}
            yield {name: pinned.get(name) or _Source(chosen[name], how[name]) for name in self.infos}

    def _ranked(self, right: str, free: Sequence[str]) -> list[str]:
        fitting = [left for left in free if self.fits(left, right)]
        place = list(self.infos).index(right)
        return sorted(fitting, key=lambda left: (-_likeness(left, right), abs(self.left.index(left) - place)))

    def plans(self, pairing: Mapping[str, _Source]) -> Iterator[FeedPlan]:
        """The pairing in each combination of layouts, the least unusual first."""
        options = [self.layouts(source.name, right) for right, source in pairing.items()]
        used = {source.name for source in pairing.values()}
        unused = tuple(name for name in self.left if name not in used)
        combinations = itertools.islice(itertools.product(*options), MAX_COMBINATIONS)
        for layouts in heapq.nsmallest(MAX_PLANS, combinations, key=_unusualness):
            links = tuple(
                FeedLink(source.name, right, layout, f"{source.how}, {describe_layout(layout)}")
                for (right, source), layout in zip(pairing.items(), layouts, strict=True)
            )
            yield FeedPlan({link.candidate: self._array(link) for link in links}, links, (), unused)

    def _array(self, link: FeedLink) -> Array:
        key = (link.reference, link.candidate, link.layout)
        if key not in self._arrays:
            self._arrays[key] = _convert(
                self.feeds[link.reference], self.quants[link.reference], self.infos[link.candidate], link.layout
            )
        return self._arrays[key]

    def cost(self, plan: FeedPlan) -> tuple[float, int]:
        """Unlike names first, then unusual layouts."""
        unlike = -sum(_likeness(link.reference, link.candidate) for link in plan.links)
        return round(unlike, 9), _unusualness(link.layout for link in plan.links)

    def no_fit(self) -> UsageError:
        left = ", ".join(f"{n}: {self.feeds[n].dtype} {list(self.feeds[n].shape)}" for n in self.left) or "none"
        shapes = {i.name: "of any shape" if i.shape is None else list(i.shape) for i in self.infos.values()}
        right = ", ".join(f"{i.name}: {i.dtype} {shapes[i.name]}" for i in self.infos.values()) or "none"
        return UsageError(
            f"the reference's inputs ({left}) do not fit the candidate's ({right}){self._why_not()}",
            hint="give the candidate its own by --candidate-input, or set dynamic sizes by --shape",
        )

    def _why_not(self) -> str:
        """What keeps an input of the candidate from being fed, where one thing does."""
        for name, info in self.infos.items():
            shaped = [left for left in self.left if self.layouts(left, name)]
            reasons = [_refusal(self.feeds[left], self.quants[left], info) for left in shaped]
            if all(reasons):
                return f": {reasons[0] if reasons else f'nothing that the reference is fed has the shape of {name!r}'}"
        more = len(self.infos) - len(self.left)
        return f": the candidate has {more} input{'s' * (more > 1)} more" if more > 0 else ""


def _unusualness(layouts: Iterable[Layout]) -> int:
    return sum(layout_cost(layout.permutation) for layout in layouts)


def _words(name: str) -> str:
    """The name without what exporters add: `serving_default_x_int8:0` -> `x`."""
    parts = re.split(r"[^a-z0-9]+", re.sub(r":\d+$", "", name.lower()))
    return " ".join(part for part in parts if part and not DECORATION.fullmatch(part))


def _likeness(left: str, right: str) -> float:
    return difflib.SequenceMatcher(None, _words(left), _words(right)).ratio() if _words(left) and _words(right) else 0.0


def _refusal(array: Array, quant: Quant | None, info: TensorInfo) -> str:
    """Why the input's dtype cannot take these values, or ""."""
    if not info.dtype:
        return ""
    want = numpy_dtype(info.dtype, info.name)
    if is_float_dtype(want) or info.quant is not None:
        return ""
    real = real_values(array, quant)
    with np.errstate(all="ignore"):
        if np.array_equal(real.astype(want).astype(real.dtype), real):
            return ""
    return f"the {info.dtype} input {info.name!r} has no quantization, and the values do not fit it as they are"


def _convert(array: Array, quant: Quant | None, info: TensorInfo, layout: Layout) -> Array:
    """The reference's feed in the candidate's layout and dtype."""
    want = numpy_dtype(info.dtype, info.name) if info.dtype else array.dtype
    if _same_quantization(array, quant, info, want):
        return np.ascontiguousarray(layout.to_candidate(array)).reshape(layout.candidate_shape)
    real = layout.to_candidate(real_values(array, quant))
    if info.quant is not None and not is_float_dtype(want):
        return info.quant.quantize(real, want)
    with np.errstate(all="ignore"):
        cast = real.astype(want)
    if is_float_dtype(want) and is_float_dtype(real.dtype):
        lost = int(np.count_nonzero(np.isfinite(real.astype(np.float64)) & ~np.isfinite(cast.astype(np.float64))))
        if lost:
            raise FeedError(
                f"{lost} values of the feed overflow the {info.dtype} input {info.name!r}", hint="feed smaller values"
            )
    return np.ascontiguousarray(cast).reshape(layout.candidate_shape)


def _same_quantization(array: Array, quant: Quant | None, info: TensorInfo, want: np.dtype[Any]) -> bool:
    if array.dtype != want or (quant is None) != (info.quant is None):
        return False
    if quant is None or info.quant is None:
        return True
    if quant.scale.size > 1 or info.quant.scale.size > 1:
        return False  # per channel: the axes may differ, so go by the real values
    return bool(
        quant.scale.flat[0] == info.quant.scale.flat[0] and quant.zero_point.flat[0] == info.quant.zero_point.flat[0]
    )
