"""A network in the files that people make of it: a function for each, and a record of those that could not be made.

`build` writes into one folder a file for each of BUILDS, `in.npz` (the inputs by name) and, last, `build.json`: for
each build its seconds and how far each output is `off` from torch's (relative L2), the truth about what is clean; or
why it `failed`, or was `refused` by the runtime (such a file is not kept).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch.onnx.errors import UnsupportedOperatorError

from zoo.files import RECORD, file_of
from zoo.nets import make
from zoo.record import attempt, distance

__all__ = ["BUILDS", "build"]

CALIBRATION = 6  # inputs that the int8 file's ranges are taken from; the first is the net's own


@dataclass(frozen=True)
class Net:
    name: str
    module: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: list[torch.Tensor]

    @property
    def args(self) -> tuple[torch.Tensor, ...]:
        return tuple(self.inputs.values())

    @property
    def names(self) -> dict[str, list[str]]:
        return {"input_names": list(self.inputs), "output_names": [f"out{k}" for k in range(len(self.outputs))]}


Builder = Callable[[Net, Path], None]
BUILDS: dict[str, Builder] = {}  # in the order of building: some are made from those before


def builds(make_file: Builder) -> Builder:
    BUILDS[make_file.__name__] = make_file
    return make_file


@builds
def dyn(net: Net, folder: Path) -> None:
    path = file_of(folder, "dyn")
    torch.onnx.export(net.module, net.args, path, dynamo=True, external_data=False, verbose=False, **net.names)


@builds
def ts(net: Net, folder: Path) -> None:
    given = {"dynamo": False, **net.names}
    try:
        torch.onnx.export(net.module, net.args, file_of(folder, "ts"), opset_version=17, **given)
    except UnsupportedOperatorError:
        torch.onnx.export(net.module, net.args, file_of(folder, "ts"), opset_version=20, **given)


@builds
def pt2(net: Net, folder: Path) -> None:
    torch.export.save(torch.export.export(net.module, net.args), file_of(folder, "pt2"))


@builds
def sim(net: Net, folder: Path) -> None:
    import onnxsim

    simplified, same = onnxsim.simplify(onnx.load(file_of(folder, "ts")))
    if not same:
        raise ValueError("onnxsim's own check failed")
    onnx.save(simplified, file_of(folder, "sim"))


@builds
def slim(net: Net, folder: Path) -> None:
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(file_of(folder, "dyn"))), file_of(folder, "slim"))


@builds
def fp16(net: Net, folder: Path) -> None:
    from onnxconverter_common import float16

    half = float16.convert_float_to_float16(onnx.load(file_of(folder, "ts")), keep_io_types=True)
    onnx.save(half, file_of(folder, "fp16"))


@builds
def fp16b(net: Net, folder: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(onnx.load(file_of(folder, "dyn")), keep_io_types=False)
    onnx.save(half, file_of(folder, "fp16b"))


@builds
def qdq(net: Net, folder: Path) -> None:
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = _calibration(net)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    wholes = (q.QuantType.QInt8, q.QuantType.QUInt8)
    q.quantize_static(
        file_of(folder, "dyn" if file_of(folder, "dyn").exists() else "ts"),
        file_of(folder, "qdq"),
        Reader(),
        quant_format=q.QuantFormat.QDQ,
        per_channel=True,
        activation_type=wholes[zlib.crc32(net.name.encode()) % 2],  # as many nets have the one as the other
        weight_type=q.QuantType.QInt8,
    )


def _calibration(net: Net) -> Iterator[dict[str, Any]]:
    torch.manual_seed(3)
    yield {name: value.numpy() for name, value in net.inputs.items()}
    for _ in range(CALIBRATION - 1):
        yield {name: _other(value).numpy() for name, value in net.inputs.items()}


def _other(value: torch.Tensor) -> torch.Tensor:
    """Another input of the same kind; words and masks stay."""
    if not value.is_floating_point():
        return value
    return torch.randn_like(value) if value.min() < 0 else torch.rand_like(value)


@builds
def ort_(net: Net, folder: Path) -> None:
    options = _options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(file_of(folder, "ort"))
    ort.InferenceSession(file_of(folder, "dyn" if file_of(folder, "dyn").exists() else "ts"), options)


BUILDS["ort"] = BUILDS.pop("ort_")  # `ort` is the runtime here


def build(name: str, folder: Path, wanted: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Writes the files of `wanted` builds (all without any) of one net; what RECORD then says. Needs its package."""
    module, inputs = make(name)
    with torch.no_grad():
        found = module(*inputs.values())
    net = Net(name, module, inputs, list(found) if isinstance(found, tuple) else [found])
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "in.npz", **{key: value.numpy() for key, value in inputs.items()})
    record = {}
    for key in BUILDS:
        if not wanted or key in wanted:
            path, builder = file_of(folder, key), BUILDS[key]
            record[key] = attempt(path, partial(builder, net, folder), partial(_from_torch, net, path))
    (folder / RECORD).write_text(json.dumps(record, indent=1))
    return record


def _from_torch(net: Net, path: Path) -> list[float]:
    """Relative L2 of each output. Raises what the runtime raises where it refuses the file."""
    if path.suffix == ".pt2":
        with torch.no_grad():
            got = torch.export.load(path).module()(*net.args)
        arrays = [value.numpy() for value in (got if isinstance(got, tuple | list) else [got])]
    else:
        session = ort.InferenceSession(path, _options(), providers=["CPUExecutionProvider"])
        half = {item.name for item in session.get_inputs() if item.type == "tensor(float16)"}
        feeds = {i.name: net.inputs[i.name].numpy() for i in session.get_inputs()}
        arrays = session.run(None, {k: v.astype(np.float16) if k in half else v for k, v in feeds.items()})
    return [distance(a, o.numpy()) for a, o in zip(arrays, net.outputs, strict=True)]


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return options
