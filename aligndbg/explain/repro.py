"""`--repro`: the operators of the first faults cut out of both models, their tensors, and a script that runs them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from aligndbg.backends.registry import REGISTRY, load
from aligndbg.canonical.evaluate import as_model
from aligndbg.core.errors import UsageError
from aligndbg.core.jsonable import plain_value
from aligndbg.core.types import Array, Backend, Cause, Fault
from aligndbg.explain.case import Case, Context, Half
from aligndbg.explain.make_case import make_case

__all__ = ["write_repro"]


NEEDS = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}  # kinds of file that the script can run
MOST = 3  # faults; what is after the third is more of the same

SCRIPT = '''"""{title}

{summary}

Needs numpy and {needs}. Run it in this folder: it computes both sides from the same values, and compares.
"""

import json

import numpy as np

about = json.load(open("about.json", encoding="utf-8"))
tensors = np.load("tensors.npz")


def run_onnx(path, feeds, output):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run([output], feeds)[0]


def run_tflite(path, feeds, output):
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(model_path=path, num_threads=1)
    details = model.get_input_details()
    for detail, value in zip(details, feeds.values()):
        model.resize_tensor_input(detail["index"], value.shape)
    model.allocate_tensors()
    for detail, value in zip(details, feeds.values()):
        model.set_tensor(detail["index"], value)
    model.invoke()
    return model.get_tensor(model.get_output_details()[0]["index"])


def compute(side):
    part = about[side]
    feeds = {{name: tensors[key] for name, key in part["inputs"].items()}}
    if part["file"] is None:  # this side could not be cut: what it gave when it was run whole
        value = tensors[part["value"]]
    else:
        value = {{"onnx": run_onnx, "tflite": run_tflite}}[part["runtime"]](part["file"], feeds, part["output"])
    if part["scale"] is not None and value.dtype.kind in "iu":
        value = (value.astype(np.float64) - part["zero_point"]) * part["scale"]
    return value.astype(np.float64)


reference, candidate = compute("reference"), compute("candidate")
layout = about["layout"]
candidate = candidate.reshape(layout["from_shape"]).transpose(layout["permutation"]).reshape(reference.shape)
apart = candidate - reference
print("reference:", reference.shape, "mean", reference.mean(), "std", reference.std())
print("candidate:", candidate.shape, "mean", candidate.mean(), "std", candidate.std())
print("largest difference:", np.abs(apart).max())
print("relative L2:", np.linalg.norm(apart) / np.linalg.norm(reference))
'''


def write_repro(
    folder: Path, faults: Sequence[Fault], contexts: Sequence[Context], sides: Mapping[str, Backend]
) -> list[Path]:
    """One folder for each of the first faults; those that cannot be cut out are left out. Raises UsageError."""
    made = []
    for k, (fault, context) in enumerate(zip(faults[:MOST], contexts, strict=False), start=1):
        case = make_case(fault, context)
        if isinstance(case, str):
            continue
        target = folder / f"fault_{k}"
        try:
            target.mkdir(parents=True, exist_ok=True)
            _write(target, case, fault, sides)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"cannot write it: {reason}", context=str(target), hint="give another folder") from None
        made.append(target)
    return made


def _write(target: Path, case: Case, fault: Fault, sides: Mapping[str, Backend]) -> None:
    tensors: dict[str, Array] = {}
    runtimes: list[str] = []
    layout = case.pair.layout
    about: dict[str, object] = {"layout": {"from_shape": layout.from_shape, "permutation": layout.permutation}}
    for side, backend in sides.items():
        half = case.half(side)
        keys = {name: f"{side}{k}" for k, name in enumerate(half.stored)}
        tensors |= {keys[name]: value for name, value in half.stored.items()}
        tensors[f"{side}_output"] = half.value
        content, runtime = _cut(half, backend) if "run" in backend.capabilities else (None, "")
        name = f"{side}.{runtime}"
        if content is not None:
            (target / name).write_bytes(content)
            runtimes.append(runtime)
        quant = half.own.quant(half.output)
        about[side] = {
            "file": name if content is not None else None,
            "runtime": runtime,
            "from": backend.info.path,
            "operators": [n.name for n in half.nodes],
            "inputs": keys,
            "output": half.output,
            "value": f"{side}_output",
            "scale": float(quant.scale[0]) if quant is not None and quant.scale.size == 1 else None,
            "zero_point": int(quant.zero_point[0]) if quant is not None and quant.scale.size == 1 else None,
        }
    np.savez(target / "tensors.npz", allow_pickle=False, **tensors)
    about["cause"] = fault.cause
    (target / "about.json").write_text(json.dumps(plain_value(about), indent=1) + "\n", encoding="utf-8")
    cause = fault.cause or Cause("unexplained", "")
    script = SCRIPT.format(
        title=_quoted(f"{fault.reference_op} {fault.reference} against {fault.candidate_op} {fault.candidate}"),
        summary=_quoted(f"{cause.kind}: {cause.summary}"),
        needs=", ".join(dict.fromkeys(NEEDS[runtime] for runtime in runtimes)) or "nothing else",
    )
    (target / "repro.py").write_text(script, encoding="utf-8")


def _quoted(text: str) -> str:
    """Names from a model, for a docstring."""
    return "".join(ch if ch.isprintable() and ch not in '"\\' else f"<{ord(ch):02x}>" for ch in text)


def _cut(half: Half, backend: Backend) -> tuple[bytes | None, str]:
    """One side as a file, and the runtime that takes it: its own where it can be cut, else ONNX Runtime."""
    entry = REGISTRY.get(backend.info.backend)
    if entry is not None and entry.cut and entry.name in NEEDS:
        nodes = {n.name for n in half.nodes}
        return load(entry.cut)(backend.info.path, nodes, list(half.stored), half.output), entry.name
    if half.program is None:
        return None, ""
    constants = {k: v for k, v in half.program.constants.items() if any(k in s.inputs for s in half.program.steps)}
    return as_model(half.program.steps, half.stored, constants, [half.output], half.program.opset), "onnx"
