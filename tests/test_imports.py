"""The import law: who may import whom, what may be imported when, and what `import aligndbg` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import aligndbg
from aligndbg.backends.registry import REGISTRY

PACKAGE = Path(aligndbg.__file__).parent
MODULES = {
    ".".join(("aligndbg", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Stage -> its modules (below "aligndbg"; a trailing dot takes everything under it), in the order of the pipeline.
STAGES = {
    "nouns": ("_types", "_errors", "_version", "_parallel", "_memory", "_segments"),
    "registry": ("_registry",),
    "metrics": ("metrics", "tolerance", "_blocks", "_details", "_fingerprint", "_joint"),
    "feeds": ("feeds", "_feed_check", "_feed_layouts", "_feed_plans", "_images", "_random_feeds"),
    "arrays": ("_arrays", "_npy"),
    "files": ("_files",),
    "store": ("store", "_trace_format", "_trace_read", "_trace_write"),
    "tracing": ("tracing",),
    "worker": ("_worker", "_channel", "_open"),
    "evaluate": ("_evaluate",),
    "backends": ("backends", "backends."),
    "match": ("match", "match."),
    "locate": ("locate", "locate.", "faults", "grid", "_lockstep"),
    "explain": ("explain", "explain."),
    "verdict": ("verdict",),
    "report": ("report", "report."),
    "result": ("_diff", "_baseline", "_basis", "_saved"),
    "api": (
        *(
            "_api",
            "_feeding",
            "_session",
            "_capturing",
            "_isolating",
            "_explaining",
            "_repro",
            "_samples",
            "_checks",
        ),
        *("_sampling", "_dataset"),
        *("_assert", "_reproduce", "_basis_of", "_rejudge"),
    ),
    "face": ("",),
    "testing": ("testing", "testing."),
    "entry": ("cli", "pytest_plugin", "__main__"),
}
# What a stage may import besides itself, and the packages it may import inside functions.
MAY_IMPORT = {
    "nouns": set[str](),
    "registry": set[str](),
    "metrics": {"nouns"},
    "feeds": {"nouns", "arrays", "metrics"},
    "arrays": {"nouns"},
    "files": {"nouns"},
    "store": {"nouns", "arrays", "files"},
    "tracing": {"nouns", "arrays", "store"},
    "worker": {"nouns", "registry", "arrays"},
    "evaluate": {"nouns"},
    "backends": {"nouns", "store"},
    "match": {"nouns", "metrics"},
    "locate": {"nouns", "arrays", "metrics", "match", "verdict"},
    "explain": {"nouns", "metrics", "evaluate", "feeds", "match", "locate"},
    "verdict": {"nouns", "metrics"},
    "report": {"nouns", "metrics", "registry", "files"},
    "result": {"nouns", "metrics", "report"},
    "api": set(STAGES) - {"face", "testing", "entry"},
    "face": {"nouns"},
    "testing": {"nouns", "registry", "face"},
    "entry": {"nouns", "registry", "face"},
}
PACKAGES = {
    "metrics": {"ml_dtypes"},
    "feeds": {"ml_dtypes", "PIL"},
    "arrays": {"ml_dtypes", "psutil"},
    "store": {"safetensors"},
    "explain": {"ml_dtypes"},
    "worker": {"psutil"},
    "evaluate": {"onnx", "onnxruntime"},
    "report": {"pandas", "matplotlib", "jinja2", "markupsafe", "rich"},
    "result": {"msgspec"},
    "api": {"distributed", "psutil", "threadpoolctl"},
    "testing": {"pytest"},
    "entry": {"pytest", "rich"},
}
# How an ONNX file is read and rewritten, whichever runtime then runs it: any backend may use these, no other's files.
ONNX_FILE = {"_onnx_model", "_onnx_graph", "_onnx_rewrite"}
STDLIB_ONLY = {"_errors", "_registry", "_version", "cli", "__main__"}


@dataclass(frozen=True)
class Import:
    """One import that happens at run time; `late` when inside a function, `target` a module's full name."""

    target: str
    line: int
    late: bool

    @property
    def root(self) -> str:
        return self.target.split(".", maxsplit=1)[0]


def imports_of(module: str, path: Path) -> list[Import]:
    return list(_visit(ast.parse(path.read_text(encoding="utf-8")), module, path.name == "__init__.py", late=False))


def _visit(node: ast.AST, module: str, is_package: bool, late: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        children: list[ast.AST] = list(node.orelse)  # the body is for the type checker: no import at run time
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, late) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, module, is_package)
        for alias in node.names:
            deeper = f"{base}.{alias.name}"
            yield Import(deeper if deeper in MODULES else base, node.lineno, late)
    late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from _visit(child, module, is_package, late)


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parents = module.split(".")
    kept = parents[: len(parents) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def stage_of(module: str) -> str:
    name = module.removeprefix("aligndbg").removeprefix(".")
    for stage, members in STAGES.items():
        if any(name == member or (member.endswith(".") and name.startswith(member)) for member in members):
            return stage
    pytest.fail(f"{module} belongs to no stage: name it in STAGES, with what it may import")


def family(module: str) -> str:
    """Of a backend's module: `backends.onnx_` and its private `backends._onnx_graph` are both "onnx"."""
    return module.rsplit(".", maxsplit=1)[-1].strip("_").split("_")[0]


def may_import(module: str, target: str) -> bool:
    stage, other = stage_of(module), stage_of(target)
    if stage == other == "backends":
        return family(module) == family(target) or target.removeprefix("aligndbg.backends.") in ONNX_FILE
    if stage == "backends" and other == "store":
        return family(module) == "recorded"
    if stage == "nouns":
        return False
    return other == stage or other in MAY_IMPORT[stage]


def late_packages(module: str) -> set[str] | None:
    """Packages that the module may import inside functions; None where only other backends' are refused."""
    return None if stage_of(module) == "backends" else PACKAGES.get(stage_of(module), set())


def foreign_packages(module: str) -> set[str]:
    """What other backends need and this one does not."""
    families = {family(entry.target.split(":")[0]): set(entry.needs) for entry in REGISTRY.values()}
    own = families.get(family(module), set())
    return set().union(*families.values()) - own


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_stage_may(module: str) -> None:
    inside = [found for found in imports_of(module, MODULES[module]) if found.root == "aligndbg"]
    broken = [f"line {found.line}: {found.target}" for found in inside if not may_import(module, found.target)]
    assert not broken, f"{module} ({stage_of(module)}) may import {sorted(MAY_IMPORT[stage_of(module)])} only"


@pytest.mark.parametrize("module", MODULES)
def test_packages_other_than_numpy_are_imported_inside_functions(module: str) -> None:
    light = {*sys.stdlib_module_names, "aligndbg"}
    if module.removeprefix("aligndbg.") not in STDLIB_ONLY:
        light.add("numpy")
    early = [found for found in imports_of(module, MODULES[module]) if not found.late]
    if module in ("aligndbg.testing", "aligndbg.pytest_plugin") or module.startswith("aligndbg.testing."):
        light.add("pytest")  # imported by pytest's users alone
    assert not [f"line {found.line}: {found.target}" for found in early if found.root not in light]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_knows_no_framework_but_its_own(module: str) -> None:
    outside = [
        found
        for found in imports_of(module, MODULES[module])
        if found.root not in {*sys.stdlib_module_names, "aligndbg", "numpy"}
    ]
    allowed = late_packages(module)
    foreign = foreign_packages(module)
    broken = [found for found in outside if (found.root in foreign if allowed is None else found.root not in allowed)]
    assert not [f"line {found.line}: {found.target}" for found in broken]


def loaded_by(statement: str) -> set[str]:
    """Packages outside the standard library that `statement` loads into a fresh interpreter."""
    script = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names) - {"aligndbg"}


def test_import_loads_numpy_and_nothing_heavier() -> None:
    assert loaded_by("import aligndbg") <= {"numpy"}


@pytest.mark.skipif("aligndbg.cli" not in MODULES, reason="this tree has no command line yet")
def test_the_command_line_loads_nothing_before_it_runs_a_command() -> None:
    assert loaded_by("import aligndbg.cli") == set()


def test_a_law_that_is_broken_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "values.py"
    source.write_text("import onnx\nfrom ..backends import onnx_\ndef f():\n    from aligndbg import _api\n")
    found = imports_of("aligndbg.match.values", source)
    assert [(each.root, each.late) for each in found] == [("onnx", False), ("aligndbg", False), ("aligndbg", True)]
    assert [may_import("aligndbg.match.values", each.target) for each in found[1:]] == [False, False]
