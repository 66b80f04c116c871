"""Which feeds each side gets: from the user, a trace, or at random; and whether both got the same logical input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aligndbg.core.arrays import as_array
from aligndbg.core.errors import UsageError, nearest
from aligndbg.core.types import Array, Backend, Graph, TensorInfo, Trace
from aligndbg.feeds.check import check_feed
from aligndbg.feeds.difference import FeedFinding, logical_difference
from aligndbg.feeds.files import load_inputs
from aligndbg.feeds.images import ImageOptions
from aligndbg.feeds.integers import informative_integers
from aligndbg.feeds.random_inputs import parse_ranges, parse_shapes, random_inputs
from aligndbg.feeds.translate import FeedPlan, translate

__all__ = ["Feeding", "InputOptions", "feeds_for", "plan_feeds"]


@dataclass(frozen=True)
class InputOptions:
    """Where inputs come from. `inputs` is None (seeded random), arrays by name, arrays in order, one array, or specs
    as `--input` takes them; `candidate_inputs` likewise, fed to the candidate as they are."""

    inputs: Any = None
    candidate_inputs: Any = None
    seed: int = 0
    distribution: str = "uniform"
    val_range: Sequence[str] = ()
    shapes: Sequence[str] = ()
    input_map: Mapping[str, str] | None = None
    image: ImageOptions | None = None
    allow_nonfinite: bool = False


@dataclass(frozen=True)
class Feeding:
    """The reference's feeds and the ways to feed the candidate, the most plausible first.

    `findings` tell what differs where the user fed the candidate apart, and `translated` is then what the reference's
    feeds would be there: what a layer's own error is judged with. A side that is a trace has no plan to run.
    """

    reference: Mapping[str, Array] | None
    plans: tuple[FeedPlan, ...]
    notes: tuple[str, ...] = ()
    findings: tuple[FeedFinding, ...] = ()
    translated: Mapping[str, Array] | None = None


def feeds_for(
    graph: Graph, options: InputOptions, hints: Sequence[TensorInfo] = ()
) -> tuple[dict[str, Array], list[str]]:
    """Feeds for one model, checked against its signature, and notes on what was chosen for the user."""
    infos = _inputs_of(graph)
    notes: list[str] = []
    if options.inputs is None:
        ranges = parse_ranges(options.val_range, infos) or None
        shapes = parse_shapes(options.shapes, infos)
        made = random_inputs(
            infos,
            seed=options.seed,
            distribution=options.distribution,
            val_range=ranges,
            shapes=shapes,
            hints=hints,
            notes=notes,
        )
        return made, notes
    for option, value in (("val_range", options.val_range), ("shapes", options.shapes)):
        if value:
            raise UsageError(f"{option} is for random inputs, and inputs are given", hint="leave one of the two out")
    return _given(options.inputs, infos, options, notes), notes


def _inputs_of(graph: Graph) -> list[TensorInfo]:
    return [graph.tensors.get(name, TensorInfo(name)) for name in graph.inputs]


def _given(inputs: Any, infos: Sequence[TensorInfo], options: InputOptions, notes: list[str]) -> dict[str, Array]:
    if isinstance(inputs, (str, Path)):
        inputs = [inputs]
    if isinstance(inputs, Mapping):
        arrays = {str(k): as_array(v) for k, v in inputs.items()}
    elif isinstance(inputs, (list, tuple)) and inputs and all(isinstance(i, (str, Path)) for i in inputs):
        return load_inputs([str(i) for i in inputs], infos, options.image, options.allow_nonfinite, notes)
    else:
        values = inputs if isinstance(inputs, (list, tuple)) else (inputs,)
        if len(values) > len(infos):
            raise UsageError(
                f"{len(values)} inputs are given, the model has {len(infos)}",
                hint="pass a dict of arrays by input name: " + ", ".join(i.name for i in infos),
            )
        arrays = {info.name: as_array(v) for info, v in zip(infos, values, strict=False)}
    known = {info.name: info for info in infos}
    for name in arrays:
        if name not in known:
            raise UsageError(f"the model has no input {name!r}", hint=nearest(name, known))
    missing = [name for name in known if name not in arrays]
    if missing:
        raise UsageError(f"no value is given for the input {missing[0]!r}", hint="give one for every input")
    return {name: check_feed(known[name], a, options.allow_nonfinite)[0] for name, a in arrays.items()}


def plan_feeds(reference: Backend, candidate: Backend, options: InputOptions) -> Feeding:
    """How both sides are fed. Raises UsageError where a trace without feeds needs them, or where feeds conflict."""
    ref_graph, cand_graph = _signature(reference.graph()), _signature(candidate.graph())
    ref_trace, cand_trace = _trace(reference), _trace(candidate)
    if cand_trace is not None and options.candidate_inputs is not None:
        raise UsageError(
            "the candidate is a trace: nothing is fed to it",
            context=candidate.info.path,
            hint="leave --candidate-input out: a trace brings its own feeds",
        )
    if ref_trace is not None and cand_trace is not None:
        return _both_recorded(ref_trace, cand_trace, options)
    if ref_trace is not None:
        return _from_reference_trace(ref_trace, cand_graph, options, reference.info.path)
    if cand_trace is not None:
        return _from_candidate_trace(ref_graph, cand_trace, options, candidate.info.path)
    hints = [cand_graph.tensors[name] for name in cand_graph.inputs if name in cand_graph.tensors]
    feeds, notes = feeds_for(ref_graph, options, hints)
    if options.inputs is None and options.candidate_inputs is None:

        def runs(tried: Mapping[str, Array]) -> None:
            plan = translate(tried, ref_graph, cand_graph, options.input_map)[0]
            for side, graph, fed in ((reference, ref_graph, tried), (candidate, cand_graph, plan.feeds)):
                dict(side.run(fed, list(graph.outputs)))

        ranges = parse_ranges(options.val_range, _inputs_of(ref_graph))
        fixed = frozenset(feeds) if "" in ranges else frozenset(ranges)
        feeds = informative_integers(feeds, (ref_graph, cand_graph), options.seed, fixed, runs)
    return _to_be_run(feeds, ref_graph, cand_graph, options, notes)


def _signature(graph: Graph) -> Graph:
    """What the model itself says that it takes: an earlier sample's number of axes is no promise of its own."""
    if not graph.by_feeds:
        return graph
    said = {name: graph.tensors[name] for name in graph.inputs}
    free = {n: replace(info, shape=None) for n, info in said.items() if info.shape and set(info.shape) == {None}}
    return replace(graph, tensors={**graph.tensors, **free})


def _to_be_run(
    feeds: Mapping[str, Array], ref_graph: Graph, cand_graph: Graph, options: InputOptions, notes: list[str]
) -> Feeding:
    """A candidate that is run: fed what is worked out from the reference's feeds, or what the user gives."""
    if options.candidate_inputs is None:
        plans = translate(feeds, ref_graph, cand_graph, options.input_map)
        return Feeding(feeds, tuple(plans), tuple(notes), _verify(feeds, plans[0], ref_graph, cand_graph))
    own = _given(options.candidate_inputs, _inputs_of(cand_graph), options, notes)
    try:
        plans = translate(feeds, ref_graph, cand_graph, options.input_map)
    except UsageError as error:
        if options.input_map:
            raise
        note = f"whether both sides are fed alike was not checked: {error.fact}"
        return Feeding(feeds, (FeedPlan(own, ()),), (*notes, note))
    shaped = (plan for plan in plans if all(array.shape == own[name].shape for name, array in plan.feeds.items()))
    plan = next(shaped, plans[0])
    given = replace(plan, feeds=own)
    return Feeding(feeds, (given,), tuple(notes), _verify(feeds, given, ref_graph, cand_graph), plan.feeds)


def _verify(feeds: Mapping[str, Array], plan: FeedPlan, ref_graph: Graph, cand_graph: Graph) -> tuple[FeedFinding, ...]:
    quants_r = {name: info.quant for name, info in ref_graph.tensors.items()}
    quants_c = {name: info.quant for name, info in cand_graph.tensors.items()}
    return tuple(logical_difference(feeds, plan.feeds, plan.links, quants_r, quants_c))


def _trace(backend: Backend) -> Trace | None:
    if "run" in backend.capabilities:
        return None
    trace: Trace = backend.trace()  # type: ignore[attr-defined]  # what a backend without "run" has instead
    return trace


def _recorded_feeds(trace: Trace, names: Sequence[str], whose: str, path: str) -> tuple[dict[str, Array], Graph]:
    """A trace's feeds; of a trace made by others, the entries called like the other side's inputs."""
    feeds = dict(trace.feeds) if trace.feeds else {n: trace.values[n] for n in names if n in trace.values}
    if not feeds:
        raise UsageError(
            f"the {whose} is a trace without feeds",
            context=path,
            hint="say what it was recorded with: --input x.npz (arrays by input name)",
        )
    tensors = {n: trace.graph.tensors.get(n) or TensorInfo(n, a.shape, str(a.dtype)) for n, a in feeds.items()}
    return feeds, Graph(tensors=tensors, inputs=tuple(feeds))


def _from_candidate_trace(ref_graph: Graph, cand_trace: Trace, options: InputOptions, path: str) -> Feeding:
    notes: list[str] = []
    if options.inputs is not None:
        feeds, notes = feeds_for(ref_graph, options)
        if not cand_trace.feeds:
            return Feeding(
                feeds, (FeedPlan({}, ()),), (*notes, "the trace does not say what it was fed; --input is trusted")
            )
        recorded, graph = _recorded_feeds(cand_trace, ref_graph.inputs, "candidate", path)
        plan = replace(translate(feeds, ref_graph, graph, options.input_map)[0], feeds=recorded)
        _refuse_conflict(_verify(feeds, plan, ref_graph, graph), path)
        return Feeding(feeds, (replace(plan, feeds={}),), tuple(notes))
    recorded, graph = _recorded_feeds(cand_trace, ref_graph.inputs, "candidate", path)
    back = None if options.input_map is None else {c: r for r, c in options.input_map.items()}
    feeds = dict(translate(recorded, graph, ref_graph, back)[0].feeds)
    missing = [n for n in ref_graph.inputs if n not in feeds]
    if missing:
        raise UsageError(f"the trace has no feed for the input {missing[0]!r}", context=path, hint="--input x.npz")
    links = translate(feeds, ref_graph, graph, options.input_map)[0].links
    return Feeding(feeds, (FeedPlan({}, links),), tuple(notes))


def _refuse_conflict(found: Sequence[FeedFinding], path: str) -> None:
    if found:
        raise UsageError(
            f"--input conflicts with what the trace was recorded with: {found[0].what}",
            context=path,
            hint="leave --input out: the trace brings its own feeds",
        )


def _from_reference_trace(ref_trace: Trace, cand_graph: Graph, options: InputOptions, path: str) -> Feeding:
    if not ref_trace.feeds and options.inputs is not None:
        feeds, notes = feeds_for(cand_graph, options)
        note = "the trace does not say what it was fed; --input is trusted"
        links = translate(feeds, cand_graph, cand_graph)[0].links
        known = tuple(link for link in links if link.reference in ref_trace.values)
        return Feeding(None, (FeedPlan(feeds, known),), (*notes, note))
    recorded, graph = _recorded_feeds(ref_trace, cand_graph.inputs, "reference", path)
    notes = []
    if options.inputs is not None:
        given, notes = feeds_for(graph, options)
        _refuse_conflict(_verify(recorded, translate(given, graph, graph)[0], graph, graph), path)
    return _to_be_run(recorded, graph, cand_graph, options, notes)


def _both_recorded(ref_trace: Trace, cand_trace: Trace, options: InputOptions) -> Feeding:
    if options.inputs is not None:
        raise UsageError("both sides are traces: nothing is run", hint="leave --input out")
    if not ref_trace.feeds or not cand_trace.feeds:
        return Feeding(
            None, (FeedPlan({}, ()),), ("not both traces say what they were fed; they are taken to be alike",)
        )
    recorded, graph = _recorded_feeds(ref_trace, (), "reference", ref_trace.info.path)
    theirs, their_graph = _recorded_feeds(cand_trace, (), "candidate", cand_trace.info.path)
    plan = replace(translate(recorded, graph, their_graph, options.input_map)[0], feeds=theirs)
    return Feeding(recorded, (plan,), (), _verify(recorded, plan, graph, their_graph))
