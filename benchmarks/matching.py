"""What pairing costs against the number of nodes: `python benchmarks/matching.py [--sizes 500,1000,2000,5000,10000]`.

The pair is a residual network of plain operators, computed here with numpy, and its copy under other names, in another
topological order, channels last. `faults` changes some weights of the copy: what comes after the first has no equal, as
in the first round of a real diff. `--lost` gives all tensors of the copy after the first tenth the values of others.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import Any

import numpy as np

from aligndbg.core.types import Graph, Layout, LayoutKind, ModelInfo, Node, TensorInfo, Trace
from aligndbg.match.pairing import match, pair_by_value
from aligndbg.match.weights import weight_print
from aligndbg.measure.fingerprint import fingerprint

Array = np.ndarray[Any, np.dtype[Any]]
CHANNELS, SIDE = 12, 4
BLOCK_NODES = 8  # Conv, Relu, Conv, Sigmoid, Mul, Tanh, Add, Add


def network(nodes: int, faults: int, seed: int = 0) -> tuple[list[Node], dict[str, Array], dict[str, Array]]:
    """Nodes, values by tensor (1, C, H, W), and weights (C, C, 1, 1), of a network with about `nodes` nodes."""
    rng = np.random.default_rng(seed)
    blocks = nodes // BLOCK_NODES
    spoilt = set(np.linspace(blocks // 10, blocks - 1, faults, dtype=int).tolist()) if faults else set()
    made: list[Node] = []
    values = {"x": rng.standard_normal((1, CHANNELS, SIDE, SIDE)).astype(np.float32)}
    weights: dict[str, Array] = {}

    def add(op: str, inputs: list[str], value: Array) -> str:
        name = f"t{len(made)}"
        made.append(Node(op, f"n{len(made)}", tuple(inputs), (name,)))
        values[name] = value.astype(np.float32)
        return name

    def convolve(x: str, wrong: bool) -> str:
        kernel = rng.standard_normal((CHANNELS, CHANNELS, 1, 1)).astype(np.float32) / math.sqrt(CHANNELS)
        kernel = kernel * np.float32(1.5) if wrong else kernel
        name = f"w{len(weights)}"
        weights[name] = kernel
        return add("Conv", [x, name], np.einsum("oc,nchw->nohw", kernel[:, :, 0, 0], values[x]))

    x = "x"
    for k in range(blocks):
        y = convolve(x, k in spoilt)
        y = add("Relu", [y], np.maximum(values[y], 0))
        y = convolve(y, wrong=False)
        gate = add("Sigmoid", [y], 1 / (1 + np.exp(-values[y])))
        y = add("Mul", [y, gate], values[y] * values[gate])
        z = add("Tanh", [x], np.tanh(values[x]))
        y = add("Add", [y, z], values[y] + values[z])
        x = add("Add", [x, y], (values[x] + values[y]) / np.float32(1.4))
    return made, values, weights


def as_trace(nodes: list[Node], values: dict[str, Array], weights: dict[str, Array], output: str) -> Trace:
    tensors = {n: TensorInfo(n, v.shape, "float32") for n, v in (values | weights).items()}
    graph = Graph(tuple(nodes), tensors, ("x",), (output,), frozenset(weights))
    return Trace(ModelInfo("", "memory"), graph, values, {"x": values["x"]}, tuple(values))


def moved(nodes: list[Node], values: dict[str, Array], weights: dict[str, Array], output: str) -> Trace:
    """The same under other names, channels last, each parallel branch run before the other."""
    rename = {name: f"v{(i * 7919) % (len(values) + len(weights))}_" for i, name in enumerate((*values, *weights))}
    rename["x"] = "x"
    order = sorted(range(len(nodes)), key=lambda i: (i // BLOCK_NODES, nodes[i].op_type != "Tanh", i))
    renamed = [
        Node(
            nodes[i].op_type, "", tuple(rename[n] for n in nodes[i].inputs), tuple(rename[n] for n in nodes[i].outputs)
        )
        for i in order
    ]
    arrays = {rename[n]: np.ascontiguousarray(v.transpose(0, 2, 3, 1)) for n, v in values.items()}
    return as_trace(renamed, arrays, {rename[n]: w for n, w in weights.items()}, rename[output])


def lose(values: dict[str, Array]) -> None:
    """Shuffles what each tensor after the first tenth holds."""
    rng = np.random.default_rng(1)
    for name in list(values)[len(values) // 10 :]:
        values[name] = rng.permutation(values[name].reshape(-1)).reshape(values[name].shape)


def measure(nodes: int, faults: int, lost: bool) -> tuple[int, float, int]:
    """Nodes, CPU seconds of the match alone, pairs found."""
    plain, changed = network(nodes, 0), network(nodes, faults)
    if lost:
        lose(changed[1])
    output = plain[0][-1].outputs[0]
    left, right = as_trace(*plain, output), moved(*changed, output)
    prints = [{n: fingerprint(v) for n, v in t.values.items()} for t in (left, right)]
    shape, other = left.values["x"].shape, right.values["x"].shape
    entry = Layout(LayoutKind.PERMUTE, other, (0, 3, 1, 2), shape, other)
    kernels = [node.inputs[1] for node in right.graph.nodes if node.op_type == "Conv"]
    renamed = dict(zip(plain[2], kernels, strict=True))
    known = {n: weight_print(w) for n, w in plain[2].items()}
    theirs = {renamed[n]: weight_print(w) for n, w in changed[2].items()}
    start = time.process_time()
    found = match(*pair_by_value(left, right, *prints, inputs=[("x", "x", entry)], weights=lambda: (known, theirs)))
    return len(plain[0]), time.process_time() - start, len(found.pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="500,1000,2000,5000,10000", help="numbers of nodes, separated by commas")
    parser.add_argument("--faults", default="0,3", help="numbers of changed weights, separated by commas")
    parser.add_argument("--lost", action="store_true", help="values that tell nothing after the first tenth")
    options = parser.parse_args()
    print("| faults | nodes | pairs | CPU seconds | ms a node |\n|---|---|---|---|---|")
    for faults in map(int, options.faults.split(",")):
        for size in map(int, options.sizes.split(",")):
            nodes, seconds, pairs = measure(size, faults, options.lost)
            print(f"| {faults} | {nodes} | {pairs} | {seconds:.2f} | {1e3 * seconds / nodes:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
