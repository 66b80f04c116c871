"""Graph -> a table of its layers in execution order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligndbg.core.types import Graph, TensorInfo
from aligndbg.report.words import clean, shape_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["render_layers"]


def render_layers(graph: Graph, console: Console) -> None:
    """One row a node output: number, op, name, shape, dtype; what cannot be tapped says why."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("#", "op", "output", "shape", "dtype"):
        table.add_column(name, no_wrap=name != "output", overflow="fold")
    rows = 0
    for i, node in enumerate(graph.nodes):
        for output in node.outputs:
            if not output:
                continue
            info = graph.tensors.get(output, TensorInfo(output))
            note = f"  ({graph.untapped[output]})" if output in graph.untapped else ""
            kind = info.dtype + (" quantized" if info.quant is not None else "")
            table.add_row(
                str(i), *(Text(clean(cell)) for cell in (node.op_type, output + note, shape_text(info.shape), kind))
            )
            rows += 1
    if not graph.nodes:  # a trace without a graph
        for i, (name, info) in enumerate(graph.tensors.items()):
            table.add_row(str(i), "", *(Text(clean(cell)) for cell in (name, shape_text(info.shape), info.dtype)))
            rows += 1
    console.print(table)
    console.print(Text(f"{len(graph.nodes)} nodes, {rows} tensors; inputs: " + ", ".join(map(clean, graph.inputs))))
