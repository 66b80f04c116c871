"""From ONNX bytes to a TensorRT network, its marks, and a built engine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligndbg.backends.base import choice, count
from aligndbg.backends.tensorrt.library import Library
from aligndbg.backends.tensorrt.session import Device
from aligndbg.core.errors import ModelError, UnsupportedError, UsageError, nearest
from aligndbg.core.types import Array

__all__ = ["OPTIONS", "Network", "Settings", "build", "onnx_names", "sizes_of"]


STRATEGIES = ("debug", "outputs", "unfused", "none")
# word -> BuilderFlags of weakly typed networks, gone in TensorRT 11
PRECISIONS = {"fp32": (), "tf32": (), "fp16": ("FP16",), "bf16": ("BF16",), "int8": ("INT8",), "strong": ()}
ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
OPTIONS = {
    "strategy": "debug (default), outputs, unfused or none: how inner tensors are exposed",
    "precision": "fp32 (default), tf32; before TensorRT 11 also fp16, bf16, int8 and strong (strongly typed)",
    "library": "auto (default), tensorrt or rtx",
    "flags": "further builder flags, such as SPARSE_WEIGHTS,VERSION_COMPATIBLE",
    "optimization_level": "0 to 5, the builder's optimization level",
    "workspace": "MiB of device memory that a layer's tactics may take",
    "timing_cache": "a file that is read if it exists, and written after each build",
    "calibration": "a calibration cache for int8: read if it exists, else made from the feeds and written",
}


@dataclass(frozen=True)
class Settings:
    """What the query of `trt:a.onnx?...` asked for."""

    strategy: str = "debug"
    precision: str = "fp32"
    flags: tuple[str, ...] = ()
    level: int | None = None
    workspace: int | None = None  # bytes
    timing_cache: str = ""
    calibration: str = ""

    @classmethod
    def parse(cls, options: Mapping[str, str], library: Library) -> Settings:
        """Raises UsageError for a value that is not known, or not to this version, saying what to do instead."""
        strategy = choice(options, "strategy", "debug", STRATEGIES)
        precision = choice(options, "precision", "fp32", PRECISIONS)
        level, workspace = (
            count(options, name, 0) if name in options else None for name in ("optimization_level", "workspace")
        )
        if level is not None and level > 5:
            raise UsageError(f"optimization_level={level} is over 5", hint="0 to 5")
        flags = tuple(word.strip().upper() for word in options.get("flags", "").split(",") if word.strip())
        made = cls(
            strategy,
            precision,
            flags,
            level,
            None if workspace is None else workspace << 20,
            options.get("timing_cache", ""),
            options.get("calibration", ""),
        )
        made._check(library)
        return made

    @property
    def mixed(self) -> bool:
        """TensorRT may choose other dtypes than the file's for inner tensors."""
        return bool(PRECISIONS[self.precision])

    def _check(self, library: Library) -> None:
        trt = library.trt
        if library.strong_only and (self.mixed or self.precision == "strong"):
            fact = f"{library.text} has no precision={self.precision}: its networks are strongly typed"
            hint = f"convert the ONNX file itself to {self.precision} (Cast, or Q/DQ nodes for int8), and give that"
            raise UsageError(fact, hint="leave it out" if self.precision == "strong" else hint)
        if self.timing_cache and library.kind == "rtx":
            raise UsageError(f"{library.text} ignores timing caches", hint="leave timing_cache out")
        if self.calibration and self.precision != "int8":
            raise UsageError("calibration without precision=int8", hint="models with Q/DQ nodes need none")
        if self.strategy == "unfused" and not hasattr(trt.INetworkDefinition, "mark_unfused_tensors_as_debug_tensors"):
            raise UsageError(f"{library.text} has no strategy=unfused", hint="TensorRT 10.12 brought it; use debug")
        known = list(trt.BuilderFlag.__members__)
        for flag in self.flags:
            if flag not in known:
                raise UsageError(f"{library.text} has no builder flag {flag}", hint=nearest(flag, known))


class Network:
    """A parsed ONNX model. `tensors` by name; `layers` gives each ONNX node's TensorRT layer types, in order.

    Raises ModelError with the parser's words, which name the node.
    """

    def __init__(self, library: Library, log: Any, model: bytes, path: str, settings: Settings) -> None:
        trt = library.trt
        self.trt, self.log = trt, log
        trt.init_libnvinfer_plugins(log, "")  # some ONNX operators, NonZero among them, are plugins
        try:
            self.builder = trt.Builder(log)
        except TypeError as error:  # pybind11's words for a factory that returned null
            raise ModelError(
                f"{library.text} cannot make a builder: {log.take() or error}",
                hint="it needs a GPU and its driver: aligndbg doctor says what is missing",
            ) from error
        strong = settings.precision == "strong" and not library.strong_only
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if strong else 0
        self.network = self.builder.create_network(flags)
        self._parser = trt.OnnxParser(self.network, log)  # owns the weights until the engine is built
        self._parse(self._parser, model, path, library.text)
        self.tensors: dict[str, Any] = {}
        self.layers: dict[str, list[str]] = {}
        network = self.network
        for i in range(network.num_layers):
            layer = network.get_layer(i)
            for node in onnx_names(layer.metadata):
                self.layers.setdefault(node, []).append(layer.type.name)
            for j in range(layer.num_outputs):
                tensor = layer.get_output(j)
                if tensor is not None:
                    self.tensors[tensor.name] = tensor
        self.inputs = {tensor.name: tensor for tensor in map(network.get_input, range(network.num_inputs))}
        self.outputs = {tensor.name: tensor for tensor in map(network.get_output, range(network.num_outputs))}

    @property
    def dynamic(self) -> bool:
        """An engine fits certain sizes, or certain values of inputs that are shapes."""
        inputs = self.inputs.values()
        return any(tensor.is_shape_tensor or any(size < 0 for size in tensor.shape) for tensor in inputs)

    def mark(self, names: Iterable[str], strategy: str) -> list[str]:
        """Exposes these tensors; returns those that TensorRT refuses. Outputs need no mark."""
        network, refused = self.network, []
        if strategy == "unfused" and not network.mark_unfused_tensors_as_debug_tensors():
            raise UnsupportedError(f"TensorRT refuses to mark unfused tensors: {self.log.take()}")
        for name in names:
            if name in self.outputs:
                continue
            if strategy == "outputs":
                network.mark_output(self.tensors[name])
            elif not network.mark_debug(self.tensors[name]):
                refused.append(name)
        self.log.take()
        return refused

    def _parse(self, parser: Any, model: bytes, path: str, version: str) -> None:
        if parser.parse(model, path):
            return
        problems = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = [f"node {problem.node_name()!r}: {' '.join(problem.desc().split())}" for problem in problems]
        raise ModelError(
            f"{version} cannot parse the model: {'; '.join(reasons) or self.log.take()}",
            hint="TensorRT takes less than ONNX allows: export that node otherwise, or simplify the model first",
        )


def onnx_names(metadata: str) -> list[str]:
    """The ONNX nodes that a layer's metadata lists: `[ONNX Layer: a][ONNX Layer: b]`, each once, in that order."""
    return list(dict.fromkeys(ONNX_LAYER.findall(metadata or "")))


def build(parsed: Network, settings: Settings, feeds: Mapping[str, Array], hint: str = "") -> Any:
    """A serialized engine (IHostMemory). `feeds` give dynamic dimensions, shape inputs and calibration their values.

    Raises ModelError with TensorRT's words and the caller's hint.
    """
    trt, builder, network = parsed.trt, parsed.builder, parsed.network
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # without it the inspector knows names only
    if settings.precision != "tf32":
        config.clear_flag(trt.BuilderFlag.TF32)
    for flag in (*PRECISIONS[settings.precision], *settings.flags):
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
    profile = _profile(parsed, feeds)
    if profile is not None:
        config.add_optimization_profile(profile)
    cache = _timing_cache(trt, config, settings)
    calibrator = _calibration(parsed, settings, config, profile, feeds)
    plan = builder.build_serialized_network(network, config)
    if calibrator is not None:
        calibrator.device.close()
    if plan is None:
        raise ModelError(f"TensorRT cannot build the engine: {parsed.log.take()}", hint=hint)
    if cache is not None:
        Path(settings.timing_cache).write_bytes(bytes(memoryview(cache.serialize())))
    return plan


def _profile(parsed: Network, feeds: Mapping[str, Array]) -> Any:
    """One optimization profile that fits these feeds exactly; None for a model that is static."""
    if not parsed.dynamic:
        return None
    profile = parsed.builder.create_optimization_profile()
    for name, tensor in parsed.inputs.items():
        if tensor.is_shape_tensor:
            values = [int(value) for value in feeds[name].reshape(-1)]
            profile.set_shape_input(name, values, values, values)
        else:
            sizes = feeds[name].shape
            profile.set_shape(name, sizes, sizes, sizes)
    return profile


def _timing_cache(trt: Any, config: Any, settings: Settings) -> Any:
    if not settings.timing_cache:
        return None
    path = Path(settings.timing_cache)
    try:
        stored = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UsageError(f"the timing cache cannot be read: {error.strerror}", context=str(path)) from None
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, False):
        raise UsageError(
            "TensorRT refuses the timing cache: it is of another version or another GPU",
            context=str(path),
            hint="name a file that does not exist yet",
        )
    return cache


def _calibration(parsed: Network, settings: Settings, config: Any, profile: Any, feeds: Mapping[str, Array]) -> Any:
    """For int8 without Q/DQ nodes: the cache of `calibration`, or these feeds as the one batch there is."""
    if settings.precision != "int8" or any("QUANTIZE" in kinds for kinds in parsed.layers.values()):
        return None
    if not settings.calibration:
        raise UsageError(
            "precision=int8 needs Q/DQ nodes in the model, or a calibration cache",
            hint="give ?precision=int8&calibration=a.cache, as your build wrote it",
        )
    if not feeds and not Path(settings.calibration).exists():
        raise UsageError(
            f"there is no {settings.calibration}, and strategy=unfused builds before there are feeds to make it from",
            hint="make it with strategy=debug first",
        )
    calibrator = _calibrator(parsed.trt, Path(settings.calibration), feeds)
    config.int8_calibrator = calibrator
    if profile is not None:
        config.set_calibration_profile(profile)
    return calibrator


def _calibrator(trt: Any, path: Path, feeds: Mapping[str, Array]) -> Any:
    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.device = Device()
            self.given = False

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> list[int] | None:
            if self.given:
                return None
            self.given = True
            return [self.device.upload(feeds[name]) for name in names]

        def read_calibration_cache(self) -> bytes | None:
            return path.read_bytes() if path.exists() else None

        def write_calibration_cache(self, cache: Any) -> None:
            path.write_bytes(bytes(memoryview(cache)))

    return Calibrator()


def sizes_of(shape: Any) -> tuple[int | None, ...] | None:
    """TensorRT's dimensions as ours: None for -1, and for a rank that is not known."""
    try:
        return tuple(size if size >= 0 else None for size in shape)
    except ValueError:  # Dims of unknown rank have no length
        return None
