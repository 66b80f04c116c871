"""Every TensorRT and CUDA name that the adapter, and the fake, use exists in the real bindings.

fixtures/tensorrt_api.json holds what the wheels of the lowest and highest supported versions have, and some between.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
from pathlib import Path

import pytest

import fake_tensorrt
from aligndbg.backends.tensorrt import build, library
from fake_tensorrt import FakeTensorrt

ROOT = Path(__file__).parents[3]
API: dict[str, dict[str, list[str]]] = json.loads((ROOT / "fixtures" / "tensorrt_api.json").read_text())
SOURCES = sorted((ROOT / "aligndbg" / "backends" / "tensorrt").glob("*.py"))

# A variable or attribute of this name, in the adapter, holds an object of that class.
ROLES = {
    "builder": "Builder", "cache": "ITimingCache", "config": "IBuilderConfig", "context": "IExecutionContext",
    "engine": "ICudaEngine", "inspector": "EngineInspector", "layer": "ILayer", "network": "INetworkDefinition",
    "parser": "OnnxParser", "problem": "ParserError", "profile": "IOptimizationProfile", "runtime": "Runtime",
    "tensor": "ITensor",
}  # fmt: skip
# What only some versions have, where the adapter asks first: from and before which TensorRT, and whether RTX has it
# (None: never asked of RTX).
SOMETIMES = {
    "INetworkDefinition.mark_unfused_tensors_as_debug_tensors": ((10, 12), (99,), True),
    "IExecutionContext.unfused_tensors_debug_state": ((10, 12), (99,), True),
    "IInt8EntropyCalibrator2": ((10,), (11,), None),
    "IBuilderConfig.int8_calibrator": ((10,), (11,), None),
    "IBuilderConfig.set_calibration_profile": ((10,), (11,), None),
}
BASES = ("ILogger", "IDebugListener", "IOutputAllocator")  # virtual methods are not members of the Python class


def owner(node: ast.expr) -> str:
    """The name that an attribute is asked of: `network` of `network.x`, `parsed.network.x` and `self._network.x`."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.strip("_")


def used_names() -> set[str]:
    """`Class.member` or `Class` of TensorRT, as the adapter's source asks for them."""
    found = set()
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            if owner(node.value) in ROLES:
                found.add(f"{ROLES[owner(node.value)]}.{node.attr}")
            elif owner(node.value) == "trt" and id(node) not in inner:
                found.add(node.attr)
            elif isinstance(node.value, ast.Attribute) and owner(node.value.value) == "trt":
                found.add(f"{node.value.attr}.{node.attr}")
    found |= {
        f"DataType.{word}" for word in ("FLOAT", "HALF", "BF16", "FP8", "INT8", "UINT8", "INT32", "INT64", "BOOL")
    }
    found |= {"TensorIOMode.INPUT", "TensorIOMode.OUTPUT", "LayerType.QUANTIZE", "DataType.INT4"}
    return {name for name in found if not name.startswith("__")}


def has(surface: dict[str, list[str]], name: str) -> bool:
    cls, _, member = name.partition(".")
    if not member:
        return cls in surface or cls in surface[""]
    return cls in surface and (member in surface[cls] or member.startswith("__"))


def numbers(version: str) -> tuple[bool, tuple[int, ...]]:
    kind, text = version.split()
    return kind == "rtx", tuple(int(part) for part in text.split("."))


def test_the_source_is_read_as_it_is_meant() -> None:
    used = used_names()
    assert {"INetworkDefinition.mark_debug", "IExecutionContext.set_debug_listener", "BuilderFlag.TF32"} <= used
    assert {name.split(".")[0] for name in used} >= {*ROLES.values(), *BASES, "TensorLocation", "MemoryPoolType"}
    assert len(used) > 80


@pytest.mark.parametrize("version", API)
def test_every_name_that_the_adapter_uses_is_in_the_real_bindings(version: str) -> None:
    rtx, parts = numbers(version)
    for name in sorted(used_names()):
        expected: bool | None = True
        for sometimes, (first, last, in_rtx) in SOMETIMES.items():
            if name == sometimes or name.startswith(f"{sometimes}."):
                expected = in_rtx if rtx else first <= parts < last
        assert expected is None or has(API[version], name) == expected, f"{version}: {name}"


@pytest.mark.parametrize("version", API)
def test_precisions_exist_where_they_are_offered(version: str) -> None:
    rtx, parts = numbers(version)
    offered = not rtx and parts < (11,)
    for flags in build.PRECISIONS.values():
        for flag in flags:
            assert has(API[version], f"BuilderFlag.{flag}") or not offered


def test_every_dtype_of_the_real_bindings_is_read_or_refused_with_a_reason() -> None:
    words = {word for surface in API.values() for word in surface["DataType"]} - {"name", "value", "itemsize"}
    assert words == {*library.DTYPES, *library.UNREADABLE}


def test_the_recorded_names_are_those_of_the_installed_library() -> None:
    """So the way in which the record was made is right, of at least this one version."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install .[tensorrt-rtx]")
    import make_tensorrt_api

    recorded = API.get(f"rtx {trt.__version__}")
    if recorded is None:
        pytest.skip(f"{trt.__version__} is not among the recorded versions")
    here = make_tensorrt_api.surface(trt)
    here["DataType"].remove("itemsize")  # added in Python, by the package above the bindings
    assert here == recorded


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_the_fake_has_no_name_of_its_own(version: str) -> None:
    surface, fake = API[f"tensorrt {version}"], FakeTensorrt(version)
    for cls in fake_tensorrt.FAKES:
        if hasattr(fake, cls.__name__):
            own = set() if cls.__name__ in BASES else {"built", "noise"}  # the fake's own knobs
            methods = {name for name in vars(cls) if not name.startswith("_")} - own
            virtual = {"log", "process_debug_tensor", "notify_shape"} if cls.__name__ in BASES else set()
            assert methods - virtual <= set(surface[cls.__name__]), cls.__name__
    for name in fake_tensorrt.ENUMS:
        assert set(getattr(fake, name).__members__) - {"FAKE"} <= set(surface[name]), name
    assert hasattr(fake, "IInt8EntropyCalibrator2") == ("IInt8EntropyCalibrator2" in surface)


def test_no_extra_asks_an_index_for_tensorrt_itself() -> None:
    """Its wheels fetch their libraries from NVIDIA's index, and fail where that is out of reach."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    packages = {name: {re.split(r"[^\w-]", line)[0] for line in text.split("\n")} for name, text in extras.items()}
    assert not [name for name, wanted in packages.items() if wanted & {"tensorrt", "tensorrt-cu12", "tensorrt-cu13"}]
    assert "tensorrt-rtx-cu13" in packages["tensorrt-rtx"]
    assert packages["tensorrt"] - {""} == {"cuda-bindings"}


def test_cuda_bindings_have_what_is_called_and_take_plain_numbers() -> None:
    """Without a driver each call answers with an error code; it must not be a TypeError."""
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings are not installed")
    names = {name for name in vars(fake_tensorrt.FakeCudart) if name.startswith("cuda")}
    assert names <= set(dir(cudart))
    source = (ROOT / "aligndbg/backends/tensorrt/session.py").read_text()
    called = set(re.findall(r"_?cudart\.(\w+)", source)) | set(re.findall(r'"(cudaMemcpy\w+)"', source))
    assert called <= names | set(cudart.cudaMemcpyKind.__members__)
    assert set(fake_tensorrt.FakeError.__members__) <= set(cudart.cudaError_t.__members__)
    up = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
    for answer in (cudart.cudaMemcpy(0, 0, 0, up), cudart.cudaFree(0), cudart.cudaStreamSynchronize(0)):
        assert isinstance(answer[0], cudart.cudaError_t)
