"""Graph -> the table of `aligndbg layers`."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from aligndbg.core.types import Graph, Node, Quant, TensorInfo
from aligndbg.report.layers import render_layers


def text_of(graph: Graph, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render_layers(graph, console)
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def test_one_row_an_output_in_execution_order() -> None:
    quant = Quant(np.array([0.1], np.float32), np.array([0]))
    graph = Graph(
        nodes=(
            Node("Conv", "a", ("x",), ("conv",)),
            Node("Split", "b", ("conv",), ("one", "", "two")),
            Node("Loop", "c", ("one",), ("state",)),
        ),
        tensors={
            "x": TensorInfo("x", (1, 3, "h", None), "float32"),
            "conv": TensorInfo("conv", (1, 4, "h", None), "int8", quant),
            "one": TensorInfo("one", (), "float32"),
        },
        inputs=("x",),
        outputs=("two",),
        untapped={"state": "inside a control-flow body"},
    )
    lines = [line.split() for line in text_of(graph).splitlines()]
    rows = [line for line in lines if line and line[0].isdecimal()][:-1]
    assert rows[0] == ["0", "Conv", "conv", "1x4xhx?", "int8", "quantized"]
    assert rows[1] == ["1", "Split", "one", "scalar", "float32"]
    assert rows[2] == ["1", "Split", "two", "?"]
    assert rows[3][:3] == ["2", "Loop", "state"]
    assert "(inside a control-flow body)" in text_of(graph)
    assert "3 nodes, 4 tensors; inputs: x" in text_of(graph)


def test_a_trace_without_a_graph_lists_its_tensors() -> None:
    text = text_of(Graph(tensors={"conv_1": TensorInfo("conv_1", (1, 8), "float32")}))
    assert "conv_1" in text
    assert "0 nodes, 1 tensors" in text


def test_long_names_are_folded_not_cut() -> None:
    name = "scope/" * 40 + "end"
    graph = Graph(nodes=(Node("Op", "n", (), (name,)),), tensors={name: TensorInfo(name, (1, 2), "float32")})
    lines = text_of(graph).splitlines()
    assert max(map(len, lines)) <= 80
    assert name in "".join(line.strip() for line in lines if "scope" in line or "end" in line).replace(" ", "").replace(
        "1x2float32", ""
    )


def test_nothing_from_the_model_is_taken_for_markup_or_control() -> None:
    graph = Graph(
        nodes=(Node("[red]Op[/red]", "n", (), ("\x1b[31mname",)),),
        tensors={"\x1b[31mname": TensorInfo("\x1b[31mname", ("[b]\x07", 2), "[u]float32")},
        inputs=("in\nput",),
    )
    text = text_of(graph, width=200)
    assert "[red]Op[/red]" in text
    assert "[b]\\x07x2" in text
    assert "[u]float32" in text
    assert "in\\x0aput" in text
    assert all(ch.isprintable() or ch == "\n" for ch in text)
