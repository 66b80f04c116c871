"""The public face: each verb is a short function over the stages, beside the types that users meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.backends.open import both_opened_in, open_model, opened_in
from aligndbg.core.clock import Clock, Progress
from aligndbg.core.errors import AligndbgError, UsageError
from aligndbg.core.threads import one_blas_thread
from aligndbg.core.types import Status, Trace, Verdict
from aligndbg.diff_result import Diff, DivergedError
from aligndbg.feeds.images import ImageOptions
from aligndbg.feeds.plan import InputOptions, feeds_for
from aligndbg.feeds.samples import list_samples, rows_of
from aligndbg.measure.tolerance import Tolerance, ToleranceRules, check_limits
from aligndbg.pipeline.many import Job, run_here, run_on_dask, run_on_workers
from aligndbg.pipeline.once import Settings, diff_once
from aligndbg.pipeline.rejudge import judge
from aligndbg.report.table import TableView
from aligndbg.trace.capture import capture_with_prints
from aligndbg.trace.store import Store
from aligndbg.trace.writer import write_trace

__all__ = [
    "AligndbgError",
    "Diff",
    "DivergedError",
    "ImageOptions",
    "MemoryBackend",
    "MemoryNode",
    "Status",
    "TableView",
    "Verdict",
    "capture",
    "diff",
    "doctor",
    "judge",
    "layers",
    "open_model",
    "print_layers",
]


def diff(
    reference: Any,
    candidate: Any,
    inputs: Any = None,
    *,
    candidate_inputs: Any = None,
    map: Mapping[str, str] | None = None,
    input_map: Mapping[str, str] | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    min_cosine: float | None = None,
    min_euclid: float | None = None,
    min_sqnr: float | None = None,
    max_lsb: float | None = None,
    tolerances: Sequence[str] = (),
    min_coverage: float = Settings.min_coverage,
    seed: int = 0,
    distribution: str = "uniform",
    val_range: Sequence[str] = (),
    shapes: Sequence[str] = (),
    image: ImageOptions | None = None,
    allow_nonfinite: bool = False,
    max_memory: int | None = None,
    checks: bool = True,
    isolate: bool = True,
    probe: int = 0,
    max_faults: int = Settings.max_faults,
    samples: int | None = None,
    dataset: str | Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    repro: str | Path | None = None,
    details: bool = True,
    timeout: float | None = None,
    explain_time: float | None = None,
    trust: bool = False,
    progress: Progress | bool = False,
) -> Diff:
    """Run two builds of one network on the same input and compare every layer.

    `reference` and `candidate` are paths, `backend:target` strings, open backends or live torch modules. `inputs` are
    the reference's: a dict of arrays by name, arrays in order, one array, file specs as `--input` takes them, or None
    for seeded random ones; the candidate's are worked out, or given as `candidate_inputs`. Tolerances left out come
    from the noise floor of the dtypes. `repro` is a folder for the operators of the first faults, cut out of both
    models, with a script that runs them. `details` keeps a picture of each pair (a few KB: histograms, where it
    differs) for `to_html` and `plot`, and what `judge` needs. `max_memory` (bytes) bounds the tensors held; what is
    over it spills to disk.
    `trust` lets a model file run the code pickled in it. `progress` is True for bars on stderr where that is a
    terminal, or a function called with (stage, steps done, steps in all or None). `timeout` is a hard limit: seconds
    that each model's runtime may take in all, that pairing may, and that comparing may, for one sample (a live object
    runs without a limit).

    `explain_time` is how many seconds of work may go into causes (1.8, or 18 % of the diff where that is more).

    `probe` tests every region between paired tensors on so many random inputs of its own, too, and so finds faults that
    this input hides (dead channels, saturated gates).

    `samples` compares on that many seeded inputs (seed, seed + 1, ...), `dataset` on the files of a folder or the rows
    of an .npz (the first `samples`); the result is the worst of each layer, with statistics. `workers` processes share
    them, or the cluster of a Dask `scheduler` ("tcp://host:8786"); open backends and live modules cannot be sent there.

    Raises AligndbgError (see `aligndbg.core.errors`) for anything the user can mend.
    """
    limits = {"atol": atol, "rtol": rtol, "max_lsb": max_lsb, "timeout": timeout, "explain_time": explain_time}
    limits |= {"min_cosine": min_cosine, "min_euclid": min_euclid, "min_sqnr": min_sqnr}
    check_limits(limits, min_coverage)
    if probe < 0:
        raise UsageError(f"probe is {probe}", hint="give 0 or more")
    _check_counts({"max_faults": max_faults, "samples": samples, "workers": workers}, max_memory)
    everywhere = Tolerance(atol, rtol, None, min_cosine, min_euclid, min_sqnr, max_lsb)
    rules = ToleranceRules(everywhere if everywhere.is_set else None, tolerances)
    options = InputOptions(
        inputs, candidate_inputs, seed, distribution, val_range, shapes, input_map, image, allow_nonfinite
    )
    folder = None if repro is None else Path(repro)
    settings = Settings(rules, map, min_coverage, max_faults, checks, isolate, max_memory, folder, details, probe)
    settings = replace(settings, explain_time=explain_time)
    with ExitStack() as stack, one_blas_thread():
        shown = _shown(progress, stack)
        if dataset is None and (samples or 1) == 1 and workers == 1 and scheduler is None:
            said = _both_defaults(seed, trust, inputs, candidate_inputs)
            ref, cand = both_opened_in(stack, (reference, candidate), timeout, said)
            return diff_once(ref, cand, options, settings, Clock(shown, limit=timeout))
        _check_sharing(inputs, candidate_inputs, workers, scheduler)
        chosen = list_samples(dataset, samples, seed)
        said = _both_defaults(seed, trust, rows_of(chosen), None)
        job = Job((reference, candidate), said, options, settings, timeout)
        if scheduler is not None:
            return run_on_dask(job, chosen, scheduler, shown)
        return run_on_workers(job, chosen, workers, shown) if workers > 1 else run_here(job, chosen, shown)


def _check_sharing(inputs: Any, candidate_inputs: Any, workers: int, scheduler: str | None) -> None:
    if inputs is not None or candidate_inputs is not None:
        hint = "leave the inputs out, or samples, dataset, workers and scheduler"
        raise UsageError("samples are random inputs or a dataset, and inputs are given", hint=hint)
    if workers > 1 and scheduler is not None:
        raise UsageError("both workers and a scheduler are given", hint="a cluster has workers of its own")


def _check_counts(counts: Mapping[str, int | None], max_memory: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"{name} is {count}", hint="give 1 or more")
    if max_memory is not None and max_memory < 0:
        raise UsageError(f"max_memory is {max_memory}", hint="give bytes, 0 or more")


def capture(
    model: Any,
    inputs: Any = None,
    output: str | Path | None = None,
    *,
    seed: int = 0,
    distribution: str = "uniform",
    val_range: Sequence[str] = (),
    shapes: Sequence[str] = (),
    image: ImageOptions | None = None,
    allow_nonfinite: bool = False,
    timeout: float | None = None,
    trust: bool = False,
    progress: Progress | bool = False,
) -> Trace:
    """Run one model on one input and keep every tensor; with `output` (.safetensors or .npz) write the trace."""
    options = InputOptions(inputs, None, seed, distribution, val_range, shapes, None, image, allow_nonfinite)
    with ExitStack() as stack, one_blas_thread():
        clock = Clock(_shown(progress, stack))
        backend = opened_in(stack, model, timeout, _defaults(seed, trust, inputs))
        feeds = feeds_for(backend.graph(), options)[0] if "run" in backend.capabilities else None
        trace = capture_with_prints(backend, feeds, Store(None), clock, "run", prints=False).trace
        if output is not None:
            write_trace(output, trace)
        return trace


def layers(model: Any, *, timeout: float | None = None, trust: bool = False) -> Any:
    """The Graph of a model: its nodes in execution order."""
    with ExitStack() as stack:
        backend = opened_in(stack, model, timeout, _defaults(0, trust, None))
        graph = backend.graph()
        if graph.by_feeds and not graph.nodes:
            raise UsageError(
                "its layers are known only once it runs",
                context=backend.info.path,
                hint="say how large its inputs are: ?shape=1x3x224x224 (of several: shape=x=1x8,mask=1x8)",
            )
        return graph


def print_layers(model: Any, *, timeout: float | None = None, trust: bool = False) -> None:
    """The table of a model's layers on stdout."""
    from aligndbg.report.layers import render_layers
    from aligndbg.report.terminal import stdout_console

    graph = layers(model, timeout=timeout, trust=trust)
    with stdout_console() as console:
        render_layers(graph, console)


def doctor() -> bool:
    """Print which backends work here; False where one of the base install does not."""
    from aligndbg.backends.doctor import check_backends, render_doctor
    from aligndbg.report.terminal import stdout_console

    states = check_backends()
    with stdout_console() as console:
        render_doctor(states, console)
    return not any(state.broken for state in states)


def _both_defaults(
    seed: int, trust: bool, inputs: Any, candidate_inputs: Any
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The reference's and the candidate's, which need not have inputs of the same names."""
    first = _defaults(seed, trust, inputs)
    if candidate_inputs is not None:
        return first, _defaults(seed, trust, candidate_inputs)
    return first, first | ({"inputs": f"?{first['inputs']}"} if "inputs" in first else {})


def _defaults(seed: int, trust: bool, inputs: Any) -> dict[str, str]:
    """What a call says of how a model is opened, for the backends that have such options."""
    said = {"seed": str(seed)} | ({"trust": "yes"} if trust else {})
    if isinstance(inputs, Mapping):
        said["inputs"] = ",".join(str(name) for name in inputs)
    elif inputs is not None:
        given = inputs if isinstance(inputs, list | tuple) else [inputs]
        if not all(isinstance(item, str | Path) for item in given):
            said["inputs"] = str(len(given))
    return said


def _shown(progress: Progress | bool, stack: ExitStack) -> Progress | None:
    """True draws bars on stderr, where that is a terminal."""
    from aligndbg.report.progress import progress_bars

    if progress is True:
        return stack.enter_context(progress_bars())
    return progress or None
