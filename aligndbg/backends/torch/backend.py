"""PyTorch: live modules, torch.export programs, TorchScript files, factories."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

import numpy as np

from aligndbg.backends.base import (
    BaseBackend,
    check_array,
    check_names,
    check_options,
    checked_feeds,
    count,
    digest,
    tensor_of,
    yes,
)
from aligndbg.backends.torch.arrays import to_array, to_tensor
from aligndbg.backends.torch.context import quiet, seeded
from aligndbg.backends.torch.file import load
from aligndbg.backends.torch.graph import build_graph
from aligndbg.backends.torch.programs import Program, program_of
from aligndbg.backends.torch.record import Recorder, flat_tensors, watch
from aligndbg.backends.torch.replay import SlotOverrides, replay
from aligndbg.backends.torch.tape import Tape
from aligndbg.core.errors import AligndbgError, FeedError, ModelError, UnsupportedError, UsageError, nearest
from aligndbg.core.regions import needed
from aligndbg.core.types import Array, Graph, ModelInfo, Overrides, TensorInfo

__all__ = ["TorchBackend"]


class TorchBackend(BaseBackend):
    """One torch program: graph, run and override.

    `target` is a path (.pt2, TorchScript), `file.py:factory`, `package.module:factory`, or a live nn.Module,
    ScriptModule or ExportedProgram. What a program computes depends on what it is fed, so its graph has no nodes until
    it has run once; `run` with an empty `fetch` does no more than that. The run is written down operator by operator
    (in-place writes taken apart) and played again for every later `run` on the same feeds; when only graph outputs are
    fetched and nothing is overridden, the program itself runs, unwatched.

    Raises UsageError for an unknown option or what is no network, ModelError for a file that cannot be read.
    """

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "weights": "a state_dict to load into what the factory made (weights only: nothing is unpickled)",
        "inputs": "which parameters of forward() are fed, as in input_ids,attention_mask; or how many",
        "shape": "shapes of the inputs, as in 1x3x224x224 or x=1x8,mask=1x8, to list layers without running",
        "device": "cpu, cuda, ... (default: where the module is; files: cpu)",
        "threads": "a number (default: as many as torch chooses); values depend on it",
        "seed": "of torch's, numpy's and Python's random numbers (default 0)",
        "eval": "yes puts the module in evaluation mode",
        "trust": "yes lets a file run the code pickled in it",
    }
    capabilities = frozenset({"graph", "run", "override"})

    def __init__(self, target: Any, options: Mapping[str, str]) -> None:
        check_options("torch", self.OPTIONS, options)
        import torch

        self._path = target if isinstance(target, str) else type(target).__name__
        self._seed = count(options, "seed", 0)
        self._threads = count(options, "threads", 0) or torch.get_num_threads()
        with seeded(self._seed):
            live = target
            if isinstance(target, str):
                live = load(target, options.get("weights", ""), yes(options, "trust"), options.get("device", "cpu"))
        if yes(options, "eval") and hasattr(live, "eval") and isinstance(live, torch.nn.Module):
            live.eval()
        self._device = _moved(live, options.get("device", ""), self._path)
        self._program: Program = program_of(live, options.get("inputs", ""), self._path)
        self._inputs = _with_shapes(self._program.inputs, options.get("shape", ""))
        opened = {"device": str(self._device), "threads": str(self._threads), "seed": str(self._seed)}
        self.info = ModelInfo(self._path, "torch", f"torch {torch.__version__}", opened)
        self._tape: Tape | None = None
        self._written: list[Any] = []  # parameters and buffers that a run changes
        self._fed = ""
        self._graph: Graph | None = None
        self._slots: dict[str, int] = {}

    def graph(self) -> Graph:
        """The graph of the last feeds; before any, one of zeros where all shapes are known, else without nodes."""
        if self._graph is None and all(info.static_shape is not None for info in self._inputs):
            with contextlib.suppress(ModelError):  # zeros may be nothing it can take: real feeds will tell
                self._record({info.name: _zeros(info) for info in self._inputs})
        if self._graph is None:
            self._graph = self._signature()
        return self._graph

    def _signature(self) -> Graph:
        """What is known before it runs."""
        tensors = {info.name: info for info in self._inputs}
        return Graph(tensors=tensors, inputs=tuple(tensors), notes=self._program.notes, by_feeds=True)

    def run(
        self,
        feeds: Mapping[str, Array],
        fetch: Sequence[str],
        overrides: Overrides | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """Yields (name, array) in execution order; see `Backend.run`. Arguments are checked before it returns."""
        wanted = list(dict.fromkeys(fetch))
        changed: Mapping[Any, Array] = overrides or {}
        signature = self._graph or self._signature()
        if self._tape is None or feeds.keys() >= set(signature.inputs) or not wanted:
            arrays = checked_feeds(signature, feeds, self._path)
            self._record(arrays)
            check_names(self.graph(), self._slots, wanted, changed, self._path)
        else:  # the graph is that of the last run: what is asked may need fewer feeds
            check_names(signature, self._slots, wanted, changed, self._path)
            arrays = checked_feeds(signature, feeds, self._path, needed(signature, wanted, changed)[1])
        over = self._checked_overrides(changed)
        if not wanted:
            return iter(())
        if not changed and set(wanted) <= set(self.graph().outputs):
            return self._plain(arrays, wanted)
        return self._replay(arrays, wanted, over)

    def close(self) -> None:
        """Drops what was recorded. The module is as it was."""
        self._tape, self._fed = None, ""

    def _checked_overrides(self, overrides: Mapping[Any, Array]) -> SlotOverrides:
        """What gives them, by slot. Those past the bound are not held, but read again when the replay comes to them."""
        assert self._tape is not None
        out: SlotOverrides = {}
        size = 0
        for key in overrides:
            name, array = tensor_of(key), np.asarray(overrides[key])
            slot = self._tape.slots[self._slots[name]]
            check_array(f"override of {name!r}", TensorInfo(name, slot.size, slot.dtype), array, self._path)
            size += array.nbytes
            past = self._bound is not None and size > self._bound
            place = self._slots[name] if key == name else (self._slots[name], key[1])
            out[place] = partial(overrides.__getitem__, key) if past else partial(np.asarray, array)
        return out

    def _record(self, arrays: Mapping[str, Array]) -> None:
        """Writes a new tape, unless the one there is holds for these feeds too."""
        fed = _digest_of(arrays, values=not self._program.fixed_path)
        if self._tape is not None and fed == self._fed:
            return
        recorder = Recorder(lambda word, weight: name(word, weight))
        feeds = self._tensors(arrays)
        for key, tensor in feeds.items():
            recorder.add_input(key, tensor)
        recorder.add_state(self._program.state)
        with self._quiet(), seeded(self._seed), self._program.namer() as name:
            try:
                with watch(recorder):
                    result = self._program.run_watched(feeds)
                outputs = flat_tensors(result)
            except AligndbgError:
                raise
            except Exception as error:  # anything that a user's forward() may raise
                raise self._failed(error, arrays) from error
            finally:
                recorder.restore()
        if not outputs:
            raise UsageError(f"forward() gives no tensor but a {type(result).__name__}", context=self._path)
        self._tape, self._fed = recorder.finish(outputs), fed
        self._slots = {slot.name: i for i, slot in enumerate(self._tape.slots)}
        self._graph = build_graph(self._tape, self._inputs, (*self._program.notes, *recorder.notes))
        self._written = [kept for kept, _ in recorder.saved]

    def _plain(self, arrays: Mapping[str, Array], wanted: list[str]) -> Iterator[tuple[str, Array]]:
        assert self._tape is not None
        saved = [(tensor, tensor.detach().clone()) for tensor in self._written]
        with self._quiet(), seeded(self._seed):
            try:
                outputs = flat_tensors(self._program.run(self._tensors(arrays)))
            except Exception as error:
                raise self._failed(error, arrays) from error
            finally:
                _restore(saved)
        if len(outputs) != len(self._tape.outputs):
            raise ModelError("it gives other outputs when it is run again on the same feeds", context=self._path)
        found = {self._tape.slots[s].name: t for s, t in zip(self._tape.outputs, outputs, strict=True)}
        ranked = sorted(wanted, key=lambda name: self._slots[name])
        return iter([(name, to_array(found[name])) for name in ranked])

    def _replay(
        self, arrays: Mapping[str, Array], wanted: list[str], over: SlotOverrides
    ) -> Iterator[tuple[str, Array]]:
        assert self._tape is not None
        inputs = self._tape.inputs
        feeds = {inputs[name]: tensor for name, tensor in self._tensors(arrays).items()}
        asked = {self._slots[name]: name for name in wanted if name not in inputs}
        for name in wanted:
            if name in inputs:
                yield name, np.array(arrays[name])
        yield from replay(self._tape, feeds, asked, over, self._device, self._quiet, self._seed)

    def _tensors(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            try:
                return {name: to_tensor(array, self._device) for name, array in arrays.items()}
            except TypeError as error:
                raise FeedError(f"torch has no such type: {error}", context=self._path) from error

    def _quiet(self) -> AbstractContextManager[None]:
        return quiet(self._threads)

    def _failed(self, error: Exception, arrays: Mapping[str, Array]) -> ModelError:
        text = " ".join((str(error).strip().splitlines() or [""])[:2])
        fed = ", ".join(f"{name}: {array.dtype.name}{list(array.shape)}" for name, array in arrays.items())
        last = next((n for n, a in arrays.items() if a.ndim == 4 and a.shape[3] < min(a.shape[1:3])), "")
        hint = f"it was fed {fed}; give what it takes by --input, or sizes by --shape"
        if last:
            n, h, w, c = arrays[last].shape
            hint = f"it was fed {fed}, channels last; where it wants them first: --shape {last}={n}x{c}x{h}x{w}"
        return ModelError(f"forward() failed: {type(error).__name__}: {text[:400]}", context=self._path, hint=hint)


def _restore(saved: list[tuple[Any, Any]]) -> None:
    import torch

    with torch.inference_mode(False), torch.no_grad():
        for tensor, value in saved:
            tensor.copy_(value)


def _moved(live: Any, device: str, path: str) -> Any:
    """Moves a loaded program where the user wants it; its device."""
    import torch

    if device:
        try:
            wanted = torch.device(device)
            if isinstance(live, torch.export.ExportedProgram):
                raise UnsupportedError("an exported program stays on the device that it was exported for", context=path)
            live.to(wanted)
            return wanted
        except (RuntimeError, AssertionError) as error:
            text = str(error).splitlines()[0]
            raise UsageError(f"device={device!r} cannot be had: {text}", context=path) from error
    holder = live.state_dict if isinstance(live, torch.export.ExportedProgram) else dict(live.named_parameters())
    return next((tensor.device for tensor in holder.values()), torch.device("cpu"))


def _with_shapes(infos: tuple[TensorInfo, ...], text: str) -> tuple[TensorInfo, ...]:
    if not text:
        return infos
    given: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        name, _, sizes = part.rpartition("=")
        if not sizes or not all(size.isdecimal() for size in sizes.split("x")):
            raise UsageError(f"shape={text!r} is not a shape", hint="as in shape=1x3x224x224 or shape=x=1x8,mask=1x8")
        given[name or infos[0].name] = tuple(int(size) for size in sizes.split("x"))
    for name in given:
        if name not in {info.name for info in infos}:
            raise UsageError(f"shape= names no input {name!r}", hint=nearest(name, [info.name for info in infos]))
    return tuple(TensorInfo(i.name, given.get(i.name, i.shape), i.dtype) for i in infos)


def _zeros(info: TensorInfo) -> Array:
    if info.dtype == "bfloat16" or info.dtype.startswith("float8"):
        import ml_dtypes

        return np.zeros(info.static_shape or (), getattr(ml_dtypes, info.dtype))
    return np.zeros(info.static_shape or (), info.dtype or "float32")


def _digest_of(arrays: Mapping[str, Array], values: bool) -> str:
    made = hashlib.blake2b()
    for name, array in arrays.items():
        made.update(f"{name}:{array.dtype.name}:{array.shape};".encode())
        if values:
            made.update(digest(array))
    return made.hexdigest()
