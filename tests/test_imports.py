"""The import law, by folder: who may import whom, which packages and when, and what `import aligndbg` costs.

A room is a folder or a file directly in aligndbg/. Every import counts: those inside functions, those for types alone.
"""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import aligndbg

# Folder -> the folders that it may import, and the packages that its functions may.
LAW = {
    "core": ("", "ml_dtypes psutil threadpoolctl"),
    "measure": ("core", "ml_dtypes"),
    "canonical": ("core", "onnx onnxruntime"),
    "feeds": ("core", "ml_dtypes PIL"),
    "trace": ("core measure", "safetensors"),
    "match": ("core measure", ""),
    "backends": ("core canonical trace backends.worker", "rich"),
    "backends.onnx": ("core canonical trace backends", "google onnx onnxruntime"),
    "backends.tensorflow": ("core canonical trace backends", "h5py keras tensorflow tf_keras"),
    "backends.tensorrt": ("core canonical trace backends", "cuda ml_dtypes onnx"),
    "backends.tflite": ("core canonical trace backends", "ai_edge_litert flatbuffers ml_dtypes"),
    "backends.torch": ("core canonical trace backends", "ml_dtypes torch"),
    "backends.worker": ("core canonical trace backends", ""),
    "locate": ("core measure feeds trace match", ""),
    "explain": ("core measure canonical feeds trace match backends backends.tflite backends.torch locate", "ml_dtypes"),
    "verdict": ("core measure locate", ""),
    "result": ("core measure verdict", ""),
    "report": ("core measure result", "jinja2 markupsafe matplotlib msgspec pandas rich"),
    "diff_result": ("core result report", "matplotlib pandas"),
    "pipeline": ("core measure feeds trace match backends locate explain verdict diff_result", "distributed psutil"),
    "api": ("core measure feeds trace backends report diff_result pipeline", ""),
    "assertion": ("core api", ""),
    "cli": ("core api", ""),
    "testing": ("core", "pytest"),
    "pytest_plugin": ("api assertion", "pytest"),
    "__init__": ("core api assertion", ""),
    "__main__": ("cli", ""),
}
# How an ONNX file is read and rewritten, whichever runtime then runs it: any backend may use these, no other's files.
FOR_EVERY_BACKEND = {f"aligndbg.backends.onnx.{name}" for name in ("file", "graph", "edit")}
FOR_PYTEST = {"testing", "pytest_plugin"}  # imported by pytest's users alone
MOST_FLOORS, MOST_FILES = 12, 7

PACKAGE = Path(aligndbg.__file__).parent


class Import(NamedTuple):
    """`target` is a module of ours or a package of others; `early` when importing the module imports it too."""

    module: str
    target: str
    line: int
    early: bool


def imports_of(package: Path) -> dict[str, list[Import]]:
    """By module. A relative import is one of the package ""."""
    paths = {
        ".".join(("aligndbg", *path.relative_to(package).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
    }

    def visit(node: ast.AST, module: str, early: bool) -> Iterator[Import]:
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "" if node.level else node.module or ""
            targets = [deep if (deep := f"{base}.{alias.name}") in paths else base for alias in node.names]
        for target in dict.fromkeys(targets):
            root = target.partition(".")[0]
            yield Import(module, target if root == "aligndbg" else root, getattr(node, "lineno", 0), early)
        early &= not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        early &= not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from visit(child, module, early)

    return {module: list(visit(ast.parse(path.read_text("utf-8")), module, True)) for module, path in paths.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def folder(module: str) -> str:
    """The room, or of a backend its own folder in there."""
    parts = module.split(".")
    return f"backends.{parts[2]}" if parts[1:2] == ["backends"] and len(parts) > 3 else room(module)


def floors(graph: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Each node on the first floor above all that it imports. Raises CycleError."""
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    found = []
    while sorter.is_active():
        found.append(sorter.get_ready())
        sorter.done(*found[-1])
    return found


def complaints(package: Path) -> Iterator[str]:
    found = imports_of(package)
    modules = {module: {each.target for each in imports} & found.keys() - {module} for module, imports in found.items()}
    rooms: dict[str, set[str]] = {}
    for module, targets in modules.items():
        rooms.setdefault(room(module), set()).update({room(target) for target in targets} - {room(module)})
    try:
        floors(modules)
        if (count := len(floors(rooms))) > MOST_FLOORS:
            yield f"the rooms stand on {count} floors"
    except CycleError as error:
        yield f"a circle: {error.args[1]}"
    if (count := len(list(package.glob("*.py")))) > MOST_FILES:
        yield f"{count} files at the top"
    for each in itertools.chain.from_iterable(found.values()):
        if (why := against(each)) != "":
            yield f"{each.module}:{each.line} imports {each.target}: {why}"


def against(found: Import) -> str:
    """What the law has against an import, or ""."""
    here = folder(found.module)
    folders, packages = LAW.get(here, ("", ""))
    if found.target.startswith("aligndbg"):
        there = "backends" if found.target in FOR_EVERY_BACKEND else folder(found.target)
        return "" if there in (here, *folders.split()) else f"{here} may not import {there}"
    if found.target in sys.stdlib_module_names or found.target == "numpy":
        return ""
    if found.early and not (found.target == "pytest" and here in FOR_PYTEST):
        return "outside a function"
    return "" if found.target in packages.split() else f"{here} may not"


def test_the_package_keeps_the_law() -> None:
    assert list(complaints(PACKAGE)) == []


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"core.a": "import aligndbg.core.b", "core.b": "def f():\n import aligndbg.core.a"}, "a circle: ['aligndbg."),
        ({"locate.a": "from aligndbg.match import a", "match.a": "", "match.b": "if TYPE_CHECKING:\n"
          " from aligndbg.locate import b", "locate.b": ""}, "a circle: ['"),
        ({"core.a": "from aligndbg.trace import b", "trace.b": ""}, "core.a:1 imports aligndbg.trace.b: core may not"),
        ({"match.a": "def f():\n from aligndbg.locate.b import c", "locate.b": ""}, "match may not import locate"),
        ({"match.a": "from . import b", "match.b": ""}, "match.a:1 imports : outside"),
        ({"core.a": "import onnx"}, "imports onnx: outside a function"),
        ({"core.a": "def f():\n import onnx.helper"}, "imports onnx: core may not"),
        ({"backends.torch.a": "def f():\n import onnx"}, "imports onnx: backends.torch may not"),
        ({"backends.torch.a": "from aligndbg.backends.onnx import wire", "backends.onnx.wire": ""}, "torch may not"),
        ({"backends.torch.a": "from aligndbg.backends.onnx.file import x", "backends.onnx.file": ""}, ""),
        ({"utils.a": "from aligndbg.core import b", "core.b": ""}, "utils may not import core"),
        (dict.fromkeys("abcdefgh", ""), "8 files at the top"),
        ({f"r{k}.a": f"import aligndbg.r{k + 1}.a" if k < 12 else "" for k in range(13)}, "on 13 floors"),
    ],
)  # fmt: skip
def test_a_broken_law_is_seen(tmp_path: Path, files: Mapping[str, str], complaint: str) -> None:
    for name, text in files.items():
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    said = "\n".join(complaints(tmp_path))
    assert complaint in said if complaint else not said


@pytest.mark.parametrize(
    ("module", "loaded"),
    [
        ("aligndbg", {"numpy"}),
        ("aligndbg.cli.main", set()),
        ("aligndbg.core.errors", set()),
        ("aligndbg.backends.registry", set()),
    ],
)
def test_an_import_loads_nothing_heavier(module: str, loaded: set[str]) -> None:
    script = f"import sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names) - {"aligndbg"} <= loaded
