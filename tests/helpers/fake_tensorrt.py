"""A FAKE of TensorRT and of CUDA: ONNX Runtime computes what a GPU would. What passes on it has not run on TensorRT.

It has only names that the real bindings have (`test_the_fake_has_no_name_of_its_own` compares it with
fixtures/tensorrt_api.json), and the manners of the real thing that are known: a listener's memory is valid during the
call only, its exceptions are swallowed, marking an input is accepted and then fails the build, device memory is not
host memory, the builder of a machine without a GPU is a TypeError.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import importlib.machinery
import json
import pickle
import sys
import types
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

Array = np.ndarray[Any, np.dtype[Any]]
OFFSET = 1 << 52  # a device address is its host address plus this, so that reading it as host memory fails


class FakeError(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100


class FakeCopyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class FakeCudart(types.ModuleType):
    """Of cuda.bindings.runtime what the backend calls. `blocks` are the allocations that live."""

    cudaError_t, cudaMemcpyKind = FakeError, FakeCopyKind

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.blocks: dict[int, Any] = {}
        self.streams = 0
        self.state = FakeError.cudaSuccess
        self.driver, self.built_for = 13000, 13050

    def cudaGetDeviceCount(self) -> tuple[Any, int | None]:
        return self.state, None if self.state else 1

    def cudaDriverGetVersion(self) -> tuple[Any, int]:
        return FakeError.cudaSuccess, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[Any, int]:
        return FakeError.cudaSuccess, self.built_for

    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:
        return FakeError.cudaSuccess, error.name.encode()

    def cudaMalloc(self, size: int) -> tuple[Any, int]:
        assert size > 0
        block = ctypes.create_string_buffer(size)
        address = ctypes.addressof(block) + OFFSET
        self.blocks[address] = block
        return FakeError.cudaSuccess, address

    def cudaFree(self, address: int) -> tuple[Any]:
        return (FakeError.cudaSuccess if self.blocks.pop(address, None) else FakeError.cudaErrorInvalidValue,)

    def cudaMemcpy(self, to: int, source: int, size: int, kind: Any) -> tuple[Any]:
        device = to if kind == FakeCopyKind.cudaMemcpyHostToDevice else source
        if not any(start <= device and device + size <= start + len(b) for start, b in self.blocks.items()):
            return (FakeError.cudaErrorInvalidValue,)
        up = kind == FakeCopyKind.cudaMemcpyHostToDevice
        ctypes.memmove(to - OFFSET * up, source - OFFSET * (not up), size)
        return (FakeError.cudaSuccess,)

    def cudaStreamCreate(self) -> tuple[Any, int]:
        self.streams += 1
        return FakeError.cudaSuccess, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        self.streams -= 1
        return (FakeError.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        return (FakeError.cudaSuccess if stream == 7 else FakeError.cudaErrorInvalidValue,)


def words(name: str, text: str) -> Any:
    return enum.Enum(name, {word: i for i, word in enumerate(text.split())})


DataType = words("DataType", "FLOAT HALF BF16 INT8 INT32 INT64 BOOL UINT8 FP8 INT4")
NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
WORDS = {name: word for word, name in NUMPY.items()} | {"uint8": "UINT8", "bfloat16": "BF16"}
LayerType = enum.Enum("LayerType", {"FAKE": 0, "QUANTIZE": 1})


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class ITensor:
    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape
        self.is_shape_tensor, self.is_execution_tensor = False, True


class ILayer:
    def __init__(self, node: Any, outputs: list[ITensor]) -> None:
        self.metadata = f"[ONNX Layer: {node.name}]"
        self.type = LayerType.QUANTIZE if node.op_type == "QuantizeLinear" else LayerType.FAKE
        self._outputs, self.num_outputs = outputs, len(outputs)

    def get_output(self, i: int) -> ITensor:
        return self._outputs[i]


class INetworkDefinition:
    def __init__(self) -> None:
        self._model, self._layers = onnx.ModelProto(), list[ILayer]()
        self._inputs, self._outputs = list[ITensor](), list[ITensor]()
        self._marks, self._unfused = list[str](), False
        self.num_layers = self.num_inputs = self.num_outputs = 0

    def get_layer(self, i: int) -> ILayer:
        return self._layers[i]

    def get_input(self, i: int) -> ITensor:
        return self._inputs[i]

    def get_output(self, i: int) -> ITensor:
        return self._outputs[i]

    def mark_debug(self, tensor: ITensor) -> bool:
        self._marks.append(tensor.name)
        return True

    def mark_output(self, tensor: ITensor) -> None:
        self._outputs.append(tensor)
        self.num_outputs += 1

    def mark_unfused_tensors_as_debug_tensors(self) -> bool:
        self._unfused = True
        return True


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return "some/node"


class OnnxParser:
    def __init__(self, network: INetworkDefinition, log: ILogger) -> None:
        self._network, self.num_errors = network, 0

    def get_error(self, i: int) -> ParserError:
        return ParserError("no importer registered for op: Unheard")

    def parse(self, model: bytes, path: str) -> bool:
        network, proto = self._network, onnx.ModelProto.FromString(model)
        if any(node.domain == "unheard" for node in proto.graph.node):
            self.num_errors = 1
            return False
        assert all(item.type.tensor_type.HasField("shape") for item in proto.graph.input)
        network._model = proto
        graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        stored = {item.name for item in graph.initializer}
        infos = {item.name: item for item in (*graph.input, *graph.value_info, *graph.output)}
        network._inputs = [_tensor(infos[item.name]) for item in graph.input if item.name not in stored]
        for node in proto.graph.node:
            if node.op_type != "Constant":
                outputs = [_tensor(infos[name]) for name in node.output if name in infos]
                network._layers.append(ILayer(node, outputs))
        made = {tensor.name: tensor for layer in network._layers for tensor in layer._outputs}
        network._outputs = [made[item.name] for item in graph.output]
        network.num_layers, network.num_inputs = len(network._layers), len(network._inputs)
        network.num_outputs = len(network._outputs)
        return True


def _tensor(info: Any) -> ITensor:
    kind = info.type.tensor_type
    name = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    sizes = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return ITensor(info.name, DataType[WORDS[name]], sizes)


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, usual: Any, high: Any) -> None:
        self._shapes[name] = (tuple(low), tuple(usual), tuple(high))

    def set_shape_input(self, name: str, low: Any, usual: Any, high: Any) -> None:
        self._shapes[name] = (tuple(low), tuple(usual), tuple(high))


class ITimingCache:
    def serialize(self) -> bytes:
        return b"timings"


class IBuilderConfig:
    def __init__(self) -> None:
        self.profiling_verbosity, self.builder_optimization_level = "LAYER_NAMES_ONLY", 3
        self._flags, self._profiles, self._limits = {"TF32"}, list[IOptimizationProfile](), dict[Any, int]()

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._limits[pool] = size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, stored: bytes) -> ITimingCache | None:
        return None if stored == b"of another version" else ITimingCache()

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        return True


class IBuilderConfigBefore11(IBuilderConfig):
    int8_calibrator: Any = None

    def set_calibration_profile(self, profile: IOptimizationProfile) -> bool:
        return True


class IInt8EntropyCalibrator2:
    pass


class Builder:
    built: ClassVar[list[dict[str, Any]]] = []  # what was built since the fake was installed

    def __init__(self, log: ILogger) -> None:
        self._log = log

    def create_network(self, flags: int) -> INetworkDefinition:
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfigBefore11() if FakeTensorrt.numbers < (11,) else IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        if {tensor.name for tensor in network._inputs} & set(network._marks):
            self._log.log(ILogger.ERROR, "an input is marked")
            return None
        calibrator = getattr(config, "int8_calibrator", None)
        if calibrator is not None:
            _calibrate(calibrator, [tensor.name for tensor in network._inputs])
        plan = {
            "model": network._model.SerializeToString(),
            "inputs": [tensor.name for tensor in network._inputs],
            "outputs": [tensor.name for tensor in network._outputs],
            "dtypes": {t.name: t.dtype.name for t in (*network._inputs, *network._outputs)},
            "shapes": {t.name: t.shape for t in (*network._inputs, *network._outputs)},
            "marks": network._marks,
            "unfused": network._unfused,
            "profiles": [profile._shapes for profile in config._profiles],
            "detailed": config.profiling_verbosity == FakeTensorrt.ProfilingVerbosity.DETAILED,
            "flags": sorted(config._flags),
            "level": config.builder_optimization_level,
            "limits": sorted(config._limits.values()),
        }
        Builder.built.append(plan)
        return b"ftrt" + bytes(20) + bytes(FakeTensorrt.numbers) + pickle.dumps(plan)


def _calibrate(calibrator: Any, names: list[str]) -> None:
    if calibrator.read_calibration_cache() is None:
        assert calibrator.get_batch_size() == 1
        assert all(address > OFFSET for address in calibrator.get_batch(names))
        assert calibrator.get_batch(names) is None
        calibrator.write_calibration_cache(b"scales")


class Runtime:
    def __init__(self, log: ILogger) -> None:
        self._log = log

    def deserialize_cuda_engine(self, data: bytes) -> ICudaEngine | None:
        if tuple(data[24:28]) != FakeTensorrt.numbers:
            self._log.log(ILogger.ERROR, "the version tag does not match")
            return None
        return ICudaEngine(pickle.loads(data[28:]))


class ICudaEngine:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan, self._names = plan, [*plan["inputs"], *plan["outputs"]]
        self.num_io_tensors = len(self._names)
        self.num_optimization_profiles = max(1, len(plan["profiles"]))

    def get_tensor_name(self, i: int) -> str:
        return str(self._names[i])

    def get_tensor_mode(self, name: str) -> Any:
        return getattr(FakeTensorrt.TensorIOMode, "INPUT" if name in self._plan["inputs"] else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._plan["dtypes"][name]]

    def get_tensor_shape(self, name: str) -> Any:
        return self._plan["shapes"][name]

    def get_tensor_location(self, name: str) -> Any:
        return FakeTensorrt.TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return FakeTensorrt.TensorFormat.LINEAR

    def get_tensor_profile_shape(self, name: str, i: int) -> Any:
        return self._plan["profiles"][i][name]

    def is_debug_tensor(self, name: str) -> bool:
        return name in self._plan["marks"]

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._plan)

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self._plan)


class EngineInspector:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    def get_engine_information(self, form: Any) -> str:
        nodes = onnx.ModelProto.FromString(self._plan["model"]).graph.node
        if not self._plan["detailed"]:
            return json.dumps({"Layers": [node.name for node in nodes]})
        layers = [
            {
                "Name": f"fused {node.name}",
                "LayerType": "kgen",
                "Inputs": [{"Name": name} for name in node.input],
                "Outputs": [{"Name": name} for name in node.output],
                "Metadata": f"[ONNX Layer: {node.name}]",
            }
            for node in nodes
        ]
        return json.dumps({"Layers": layers})


class IDebugListener:
    def process_debug_tensor(self, addr: int, location: Any, type: Any, shape: Any, name: str, stream: int) -> bool:
        raise NotImplementedError


class IOutputAllocator:
    def notify_shape(self, tensor_name: str, shape: Any) -> None:
        raise NotImplementedError


class IExecutionContext:
    noise = 0.0  # how much marks move the outputs

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan, self.unfused_tensors_debug_state = plan, False
        self._shapes: dict[str, Any] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._listener: Any = None
        self._on: set[str] = set()

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self._shapes[name] = tuple(shape)
        declared = self._plan["shapes"][name]
        fits = len(declared) == len(shape) and all(d in (-1, s) for d, s in zip(declared, shape, strict=True))
        profiles = self._plan["profiles"]
        return fits and (not profiles or profiles[0][name][0] <= tuple(shape) <= profiles[0][name][2])

    def set_optimization_profile_async(self, i: int, stream: int) -> bool:
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return address > 0

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        self._allocators[name] = allocator
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._plan["inputs"] if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> Any:
        """From the inputs' shapes alone; -1 where that does not settle it."""
        model = onnx.ModelProto.FromString(self._plan["model"])
        for item in model.graph.input:
            for size, known in zip(item.type.tensor_type.shape.dim, self._shapes[item.name], strict=True):
                size.dim_value = known
        del model.graph.value_info[:]
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        return next(_tensor(item).shape for item in (*graph.output, *graph.value_info) if item.name == name)

    def set_debug_listener(self, listener: Any) -> bool:
        self._listener = listener
        return True

    def set_tensor_debug_state(self, name: str, state: bool) -> bool:
        if name in self._plan["marks"]:
            self._on.add(name)
        return name in self._plan["marks"]

    def execute_async_v3(self, stream: int) -> bool:
        import onnxruntime

        model = onnx.ModelProto.FromString(self._plan["model"])
        computed = [name for node in model.graph.node for name in node.output if name and node.op_type != "Constant"]
        unfused = computed[::2] if self._plan["unfused"] and self.unfused_tensors_debug_state else []
        emitted = [name for name in computed if name in self._on or name in unfused]
        heads = list(dict.fromkeys((*self._plan["outputs"], *emitted)))
        del model.graph.output[:]
        for name in heads:
            model.graph.output.add().name = name
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {item.name: self._fed(item.name) for item in session.get_inputs()}
        values = dict(zip(heads, session.run(heads, feeds), strict=True))
        for name in emitted:
            self._emit(name, values[name], stream)
        for name in self._plan["outputs"]:
            moved = bool(self._plan["marks"]) and values[name].dtype.kind == "f"
            self._write(name, values[name] + values[name].dtype.type(IExecutionContext.noise * moved))
        return True

    def _fed(self, name: str) -> Array:
        array = np.empty(self._shapes[name], NUMPY[self._plan["dtypes"][name]])
        ctypes.memmove(array.ctypes.data, self._addresses[name] - OFFSET, array.nbytes)
        return array

    def _emit(self, name: str, value: Array, stream: int) -> None:
        address = FakeTensorrt.cudart.cudaMalloc(max(value.nbytes, 1))[1]
        data = np.ascontiguousarray(value)
        ctypes.memmove(address - OFFSET, data.ctypes.data, data.nbytes)
        kind, place = DataType[WORDS[value.dtype.name]], FakeTensorrt.TensorLocation.DEVICE
        with contextlib.suppress(Exception):  # as the real one does
            self._listener.process_debug_tensor(address, place, kind, value.shape, name, stream)
        ctypes.memset(address - OFFSET, 0xFF, max(value.nbytes, 1))
        FakeTensorrt.cudart.cudaFree(address)

    def _write(self, name: str, value: Array) -> None:
        allocator = self._allocators.get(name)
        if allocator is not None:
            self._addresses[name] = allocator.reallocate_output(name, 0, max(value.nbytes, 1), 256)
            allocator.notify_shape(name, value.shape)
        data = np.ascontiguousarray(value)
        ctypes.memmove(self._addresses[name] - OFFSET, data.ctypes.data, data.nbytes)


class FakeTensorrt(types.ModuleType):
    """The module `tensorrt`, as version 10.16 or 11.4 would have it."""

    cudart: FakeCudart
    numbers: tuple[int, ...] = ()
    DataType, LayerType = DataType, LayerType
    TensorIOMode = words("TensorIOMode", "NONE INPUT OUTPUT")
    TensorLocation = words("TensorLocation", "DEVICE HOST")
    TensorFormat = words("TensorFormat", "LINEAR CHW32")
    ProfilingVerbosity = words("ProfilingVerbosity", "LAYER_NAMES_ONLY DETAILED NONE")
    LayerInformationFormat = words("LayerInformationFormat", "ONELINE JSON")
    MemoryPoolType = words("MemoryPoolType", "WORKSPACE")
    NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})

    def __init__(self, version: str) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
        self.init_libnvinfer_plugins = lambda log, namespace: True
        old = version.startswith("10.")
        self.BuilderFlag = words("BuilderFlag", "TF32 SPARSE_WEIGHTS DEBUG" + " FP16 BF16 INT8" * old)
        for cls in FAKES:
            if old or cls is not IInt8EntropyCalibrator2:
                setattr(self, cls.__name__, cls)


FAKES = (
    Builder, EngineInspector, IBuilderConfig, ICudaEngine, IDebugListener, IExecutionContext, IInt8EntropyCalibrator2,
    ILayer, ILogger, INetworkDefinition, IOptimizationProfile, IOutputAllocator, ITensor, ITimingCache, OnnxParser,
    ParserError, Runtime,
)  # fmt: skip
ENUMS = (
    "DataType", "LayerType", "TensorIOMode", "TensorLocation", "TensorFormat", "ProfilingVerbosity",
    "LayerInformationFormat", "MemoryPoolType", "NetworkDefinitionCreationFlag", "BuilderFlag",
)  # fmt: skip


def install_fake_tensorrt(monkeypatch: pytest.MonkeyPatch, version: str = "10.16.1.11") -> FakeTensorrt:
    """Until the test's end `import tensorrt` and `import cuda.bindings.runtime` give fakes."""
    fake, cudart = FakeTensorrt(version), FakeCudart()
    cuda, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
    cuda.bindings, bindings.runtime = bindings, cudart  # type: ignore[attr-defined]
    modules = {"tensorrt": fake, "cuda": cuda, "cuda.bindings": bindings, "cuda.bindings.runtime": cudart}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(FakeTensorrt, "cudart", cudart, raising=False)
    monkeypatch.setattr(FakeTensorrt, "numbers", tuple(int(part) for part in version.split(".")))
    monkeypatch.setattr(Builder, "built", [])
    return fake
