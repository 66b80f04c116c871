"""Makes the models that performance is measured on: `python benchmarks/make_models.py FOLDER [--only NAME,...]`.

Of each network of large_networks.py, with the same random weights, in FOLDER/NAME:

    reference.onnx   as torch.onnx writes it, batch normalization folded                  (needs onnx)
    separate.onnx    as an exporter that folds nothing, other names                       (needs onnx)
    same_names.onnx  reference.onnx, each weight moved by at most one float32 step        (needs onnx)
    candidate.tflite channels last, by Keras                                              (needs tensorflow)
    x.npz            the input, as the ONNX files take it
    program.pt2      a torch.export program, nothing folded                               (needs torch)
    exported.onnx    as torch.onnx writes that, program.npz the input of both             (needs torch, onnxscript)
    tiny.pt2, .onnx  one addition

onnx, tensorflow and torch may live in different environments: what cannot be made is left out and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from large_networks import NETWORKS, Network, fixtures


def write_onnx(network: Network, folder: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    import to_onnx

    class Folded(to_onnx.FoldedOps):
        def relu(self, x: str, name: str) -> str:
            return self._op("Relu", [x], name)

        def sequence(self, x: str, name: str, size: int) -> str:
            flat = self._op("Reshape", [x, self._constant(f"{name}.shape", np.array([1, size, -1]))], name)
            return self._op("Transpose", [flat], name, perm=[0, 2, 1])

        def position(self, x: str, name: str, shape: tuple[int, int]) -> str:
            return self._op("Add", [x, self._constant(name, self.weights.uniform(name, (1, *shape), -1, 1))], name)

        def embed(self, x: str, name: str, shape: tuple[int, int]) -> str:
            return self._op("Gather", [self._constant(name, self.weights.uniform(name, shape, -1, 1)), x], name)

    class Separate(to_onnx.SeparateOps, Folded):
        def layer_norm(self, x: str, name: str, size: int) -> str:
            norm = self.weights.norm(name, size)
            centred = self._op("Sub", [x, self._op("ReduceMean", [x], name, axes=[-1])], name)
            square = self._op("Pow", [centred, self._constant("two", np.float32(2))], name)
            variance = self._op("ReduceMean", [square], name, axes=[-1])
            epsilon = self._constant("epsilon", np.float32(fixtures.NORM_EPSILON))
            root = self._op("Sqrt", [self._op("Add", [variance, epsilon], name)], name)
            scaled = self._op("Mul", [self._op("Div", [centred, root], name), self._gamma(name, norm)], name)
            return self._op("Add", [scaled, self._constant(f"{name}.beta", norm["beta"])], name)

        def _gamma(self, name: str, norm: dict[str, Any]) -> str:
            return self._constant(f"{name}.gamma", norm["gamma"])

    for name, builder in (("reference", Folded), ("separate", Separate)):
        ops = builder(fixtures.Weights())
        result = network.build(ops, "input")
        kind = TensorProto.INT32 if network.tokens else TensorProto.FLOAT
        graph = helper.make_graph(
            ops.nodes,
            name,
            [helper.make_tensor_value_info("input", kind, [1, *network.shape])],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, key) for key, array in ops.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", ops.opset)], ir_version=8)
        save(model, folder / f"{name}.onnx")
        if name == "reference":
            for tensor in model.graph.initializer:
                array = numpy_helper.to_array(tensor)
                if array.dtype == np.float32 and array.ndim:
                    moved = np.nextafter(array, np.float32(np.inf), dtype=np.float32)
                    tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
            save(model, folder / "same_names.onnx")
    np.savez(folder / "x.npz", input=network.sample())


def write_tflite(network: Network, folder: Path) -> None:
    import keras

    import to_tflite

    class Ops(to_tflite.KerasOps):
        def relu(self, x: Any, name: str) -> Any:
            return keras.layers.ReLU()(x)

        def sequence(self, x: Any, name: str, size: int) -> Any:
            return keras.layers.Reshape((-1, size))(x)

        def position(self, x: Any, name: str, shape: tuple[int, int]) -> Any:
            return x + keras.ops.convert_to_tensor(self.weights.uniform(name, (1, *shape), -1, 1))

        def embed(self, x: Any, name: str, shape: tuple[int, int]) -> Any:
            return self._with(keras.layers.Embedding(*shape), x, [self.weights.uniform(name, shape, -1, 1)])

    keras.utils.clear_session()
    shape = to_tflite.channels_last(network.shape)
    entry = keras.Input(shape, batch_size=1, dtype="int32" if network.tokens else "float32")
    model = keras.Model(entry, network.build(Ops(fixtures.Weights()), entry))
    (folder / "candidate.tflite").write_bytes(to_tflite.convert(model))


def write_torch(network: Network, folder: Path) -> None:
    import to_torch
    import torch

    class Tiny(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x + 1

    x = torch.from_numpy(network.sample())
    program = torch.export.export(to_torch.Module(network).eval(), (x,))
    torch.export.save(program, folder / "program.pt2")
    tiny = torch.export.export(Tiny(), (x,))
    torch.export.save(tiny, folder / "tiny.pt2")
    for source, target in ((program, "exported.onnx"), (tiny, "tiny.onnx")):
        exported = torch.onnx.export(source, dynamo=True, verbose=False)
        assert exported is not None
        exported.save(folder / target, external_data=False)
    np.savez(folder / "program.npz", x=network.sample())


WRITERS = {"onnx": write_onnx, "tensorflow": write_tflite, "torch": write_torch}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(NETWORKS), help="networks, separated by commas")
    parser.add_argument("--with", dest="writers", default=",".join(WRITERS), help="packages, separated by commas")
    options = parser.parse_args()
    for package, write in WRITERS.items():
        if package not in options.writers.split(","):
            continue
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: its files are left out", file=sys.stderr)
            continue
        for name in options.only.split(","):
            folder = options.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            write(NETWORKS[name], folder)
            print(f"{folder}: {package}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
