"""The GPU: device memory through cuda-bindings, and one run of an engine."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from aligndbg.backends.tensorrt.library import numpy_dtype
from aligndbg.core.arrays import in_order
from aligndbg.core.errors import FeedError, ModelError, UnsupportedError
from aligndbg.core.types import Array

__all__ = ["ELSEWHERE", "Device", "device_trouble", "execute", "require_device"]


ELSEWHERE = "capture where there is one (aligndbg capture ... -o trace.safetensors), and diff the trace here"


def device_trouble() -> str:
    """Why nothing can run on a GPU here, in one line; "" where something can."""
    try:
        from cuda.bindings import runtime as cudart
    except ImportError as missing:
        return f"cuda-bindings are not installed ({missing})"
    error, count = cudart.cudaGetDeviceCount()
    if error == cudart.cudaError_t.cudaSuccess:
        return "" if count else "no GPU"
    if error == cudart.cudaError_t.cudaErrorInsufficientDriver:
        return _driver_trouble(cudart)
    if error == cudart.cudaError_t.cudaErrorNoDevice:
        return "no GPU: the driver sees none"
    return f"the GPU cannot be used: {_words(cudart, error)}"


def _driver_trouble(cudart: Any) -> str:
    have, need = cudart.cudaDriverGetVersion()[1], cudart.cudaRuntimeGetVersion()[1]
    if not have:
        return "no NVIDIA driver"
    wanted, most = need // 1000, have // 1000
    way = f"pip install 'cuda-bindings=={most}.*'"
    return f"the NVIDIA driver serves CUDA {most} at most, the installed cuda-bindings want {wanted}: {way}"


def _words(cudart: Any, error: Any) -> str:
    text = cudart.cudaGetErrorString(error)[1]
    return f"{error.name}: {text.decode(errors='replace') if isinstance(text, bytes) else text}"


def require_device() -> None:
    """Raises ModelError where nothing can run on a GPU."""
    trouble = device_trouble()
    if trouble:
        raise ModelError(f"TensorRT engines need a GPU: {trouble}", hint=ELSEWHERE)


class Device:
    """Memory and one stream on the current GPU; what is allocated is freed by `close`.

    Raises ModelError where there is no GPU, and for any CUDA error.
    """

    def __init__(self) -> None:
        require_device()
        from cuda.bindings import runtime as cudart

        self._cudart = cudart
        self._addresses: list[int] = []
        self.stream = int(self._ask(cudart.cudaStreamCreate()))

    def allocate(self, size: int) -> int:
        """The address of `size` bytes (at least one: TensorRT refuses a null address, even of an empty tensor)."""
        address = int(self._ask(self._cudart.cudaMalloc(max(size, 1))))
        self._addresses.append(address)
        return address

    def upload(self, array: Array) -> int:
        """The address of a copy on the device."""
        flat = np.ascontiguousarray(array)
        address = self.allocate(flat.nbytes)
        self._copy(address, flat.ctypes.data, flat.nbytes, "cudaMemcpyHostToDevice")
        return address

    def download(self, address: int, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
        array = np.empty(tuple(shape), dtype)
        self._copy(array.ctypes.data, address, array.nbytes, "cudaMemcpyDeviceToHost")
        return array

    def wait(self, stream: int | None = None) -> None:
        self._ask(self._cudart.cudaStreamSynchronize(self.stream if stream is None else stream))

    def close(self) -> None:
        """Answers are not read: after a failed kernel nothing can be freed, and that failure is the one to tell."""
        while self._addresses:
            self._cudart.cudaFree(self._addresses.pop())
        self._cudart.cudaStreamDestroy(self.stream)

    def _copy(self, to: int, source: int, size: int, kind: str) -> None:
        if size:
            self._ask(self._cudart.cudaMemcpy(to, source, size, getattr(self._cudart.cudaMemcpyKind, kind)))

    def _ask(self, answer: tuple[Any, ...]) -> Any:
        error, *values = answer
        if error != self._cudart.cudaError_t.cudaSuccess:
            raise ModelError(f"CUDA failed: {_words(self._cudart, error)}")
        return values[0] if values else None


def _copied(trt: Any, device: Device, address: int, location: Any, dtype: np.dtype[Any], shape: Any) -> Array:
    """Values that lie on the host (shape tensors) or on the device."""
    if location != trt.TensorLocation.HOST:
        return device.download(address, dtype, shape)
    array = np.empty(tuple(shape), dtype)
    ctypes.memmove(array.ctypes.data, address, array.nbytes)
    return array


def make_listener(trt: Any, device: Device) -> Any:
    """Copies each debug tensor while TensorRT lets its memory be read.

    `counts` tells how often each name came: a tensor in a loop comes once an iteration. What goes wrong is kept in
    `failures`, because TensorRT swallows exceptions in here.
    """

    class Listener(trt.IDebugListener):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IDebugListener.__init__(self)
            self.values: dict[str, Array] = {}
            self.counts: dict[str, int] = {}
            self.failures: dict[str, str] = {}

        def process_debug_tensor(self, addr: int, location: Any, type: Any, shape: Any, name: str, stream: int) -> bool:
            try:
                self.counts[name] = self.counts.get(name, 0) + 1
                device.wait(stream)
                self.values[name] = _copied(trt, device, addr, location, numpy_dtype(type), shape)
            except Exception as error:
                self.failures[name] = str(error)
            return True

    return Listener()


def make_allocator(trt: Any, device: Device) -> Any:
    """Takes an output whose shape depends on the data (NonZero, NMS)."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.address, self.shape = 0, ()

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            self.address = device.allocate(size)
            return self.address

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            self.address = device.allocate(size)
            return self.address

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Allocator()


def execute(
    trt: Any, log: Any, engine: Any, feeds: Mapping[str, Array], taps: Collection[str], *, unfused: bool = False
) -> dict[str, Array]:
    """One run: every output, and the debug tensors of `taps` (with `unfused`, whatever the engine emits).

    A tap that came more than once, or not at all, is left out. Raises ModelError with TensorRT's own words.
    """
    device = Device()
    try:
        context = engine.create_execution_context()
        if context is None:
            raise ModelError(f"TensorRT cannot run the engine: {log.take()}")
        held = _give_inputs(trt, log, engine, context, device, feeds)
        targets = _give_outputs(trt, engine, context, device)
        listener = make_listener(trt, device) if taps or unfused else None
        if listener is not None:
            _listen(log, context, listener, taps, unfused)
        if not context.execute_async_v3(device.stream):
            raise ModelError(f"TensorRT failed to run the engine: {log.take()}")
        device.wait()
        values = {name: _taken(trt, engine, device, name, target) for name, target in targets.items()}
        if listener is not None:
            if listener.failures:
                name, reason = next(iter(listener.failures.items()))
                raise ModelError(f"the debug tensor {name!r} could not be copied: {reason}")
            values |= {name: array for name, array in listener.values.items() if listener.counts[name] == 1}
        del held  # inputs on the host had to live until here
        return values
    finally:
        context = None  # before the memory that it points to
        device.close()


def _listen(log: Any, context: Any, listener: Any, taps: Collection[str], unfused: bool) -> None:
    done = context.set_debug_listener(listener)
    if unfused:
        context.unfused_tensors_debug_state = True
    for name in taps:
        done = done and context.set_tensor_debug_state(name, True)
    if not done:
        raise ModelError(f"TensorRT does not emit debug tensors: {log.take()}")


def _names(trt: Any, engine: Any, mode: str) -> list[str]:
    names = (engine.get_tensor_name(i) for i in range(engine.num_io_tensors))
    return [name for name in names if engine.get_tensor_mode(name) == getattr(trt.TensorIOMode, mode)]


def _give_inputs(
    trt: Any, log: Any, engine: Any, context: Any, device: Device, feeds: Mapping[str, Array]
) -> list[Array]:
    """Returns the arrays that TensorRT reads where they are."""
    held = []
    names = _names(trt, engine, "INPUT")
    _choose_profile(engine, context, device, names, feeds)
    for name in names:
        array = in_order(feeds[name])
        wanted = numpy_dtype(engine.get_tensor_dtype(name))
        if array.dtype != wanted:
            raise FeedError(f"the engine's input {name!r} is {wanted}, not {array.dtype}")
        _refuse_format(trt, engine, name)
        host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        held.append(array)
        address = array.ctypes.data if host else device.upload(array)
        if not context.set_input_shape(name, array.shape) or not context.set_tensor_address(name, address):
            raise FeedError(f"the engine does not take {name!r} of shape {list(array.shape)}: {log.take()}")
    try:
        missing = context.infer_shapes()
    except RuntimeError as error:
        raise ModelError(f"TensorRT cannot infer shapes: {log.take() or error}") from error
    if missing:
        raise ModelError(f"TensorRT cannot infer shapes without {', '.join(missing)}: {log.take()}")
    return held


def _choose_profile(
    engine: Any, context: Any, device: Device, names: Sequence[str], feeds: Mapping[str, Array]
) -> None:
    """The first optimization profile that takes these shapes; 0, whose refusal is then the error, if none does."""

    def takes(profile: int) -> bool:
        for name in names:
            low, _, high = engine.get_tensor_profile_shape(name, profile)
            sizes = feeds[name].shape
            if len(low) != len(sizes) or any(not a <= b <= c for a, b, c in zip(low, sizes, high, strict=True)):
                return False
        return True

    count = engine.num_optimization_profiles
    profile = next((i for i in range(count) if takes(i)), 0) if count > 1 else 0
    if profile and not context.set_optimization_profile_async(profile, device.stream):
        raise ModelError(f"TensorRT refuses the engine's optimization profile {profile}")
    device.wait()


def _refuse_format(trt: Any, engine: Any, name: str) -> None:
    """Vectorized formats pad and interleave channels: such bytes are not the tensor's values in order."""
    form = engine.get_tensor_format(name)
    if form != trt.TensorFormat.LINEAR:
        raise UnsupportedError(
            f"{name!r} is in TensorRT's {form.name} format, which is not read",
            hint="build the engine with linear formats for its inputs and outputs",
        )


def _give_outputs(trt: Any, engine: Any, context: Any, device: Device) -> dict[str, Any]:
    """Where each output will be: an address, an array on the host, or an allocator."""
    targets: dict[str, Any] = {}
    for name in _names(trt, engine, "OUTPUT"):
        _refuse_format(trt, engine, name)
        shape, dtype = tuple(context.get_tensor_shape(name)), numpy_dtype(engine.get_tensor_dtype(name))
        if any(size < 0 for size in shape):
            targets[name] = make_allocator(trt, device)
            context.set_output_allocator(name, targets[name])
            continue
        if engine.get_tensor_location(name) == trt.TensorLocation.HOST:
            targets[name] = np.empty(shape, dtype)
            address = targets[name].ctypes.data
        else:
            address = device.allocate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            targets[name] = (address, shape)
        if not context.set_tensor_address(name, address):
            raise ModelError(f"TensorRT refuses memory for its output {name!r}")
    return targets


def _taken(trt: Any, engine: Any, device: Device, name: str, target: Any) -> Array:
    if isinstance(target, np.ndarray):
        return target
    address, shape = target if isinstance(target, tuple) else (target.address, target.shape)
    return device.download(address, numpy_dtype(engine.get_tensor_dtype(name)), shape)
