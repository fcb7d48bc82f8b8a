"""The architecture, held: who may import or include whom, what importing the package loads, and how large a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pyprune_fast"
CODE = (".py", ".cpp", ".h", ".cu", ".cuh")
TEXT = (".md", ".toml", ".yml", ".yaml", ".cfg", ".sh", ".j2")

# Who may import whom: units on a line import each other (not in circles) and those on lines above.
LAYERS = (
    ("levels", "neighborhood", "fingerprint", "_checks", "inputs", "tokens"),
    ("_native", "reference", "jit"),
    ("ops",),
    ("estimators",),
    ("observe", "class_chunks", "distributed", "parallel", "anytime", "scoring", "suggest", "baselines"),
    ("graph", "slicing"),
    ("prune",),
    ("report", "demo", "large", "dryrun", "planned", "watch", "doctor", "study", "cli"),
    ("adapters", "__main__"),
)
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
COMPILED = {"_cpu", "_cuda", "_cuda_emu", "_cuda_jit"}

INCLUDES = {
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "binding": {"core", "cpu", "cuda", "binding"},
    "emulation": {"core", "cuda", "emulation"},
    "jit": {"core", "cuda", "jit"},
}
TORCH, PYTHON = r"torch/|ATen/|c10/|caffe2/", r"Python\.h|pybind11/|nanobind/|numpy/"
CUDA = r"cuda|cub/|thrust/|cooperative_groups|nv"
FORBIDDEN = {
    "core": f"{TORCH}|{PYTHON}|{CUDA}",
    "cpu": f"{TORCH}|{PYTHON}|{CUDA}",
    "cuda": f"{TORCH}|{PYTHON}",
    "binding": TORCH,
    "emulation": f"{TORCH}|{PYTHON}",
    "jit": f"{TORCH}|{PYTHON}",
}


def sources(*folders: str, suffixes: tuple[str, ...] = CODE) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


def tree() -> Iterator[Path]:
    """Every text that people wrote; not what tools left."""
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = {part for part in parts if part.startswith(".")} - {".ci", ".github"}
        written = path.suffix in {*CODE, *TEXT} or path.name in ("Makefile", "run")
        if written and not hidden and parts[0] not in ("build", "dist", "shared", "demo-output", "site") and path.is_file():
            yield path


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- Python --------------------------------------------------------------------------------------------------------------


def unit_of(path: Path) -> str:
    """The part of the package that a file belongs to: pyprune_fast/estimators/aura.py -> estimators."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


# Name that the package offers -> the part that defines it.
ROOT_NAMES = {
    alias.name: node.module
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
    if isinstance(node, ast.ImportFrom) and node.module
    for alias in node.names
}


def imported_units(path: Path) -> set[str]:
    """The parts of the package that a file imports, anywhere in it."""
    here = ("pyprune_fast", *path.relative_to(PACKAGE).parts)[:-1]
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found |= {(*module, alias.name) for alias in node.names}
    return {ROOT_NAMES.get(name[1], name[1]) for name in found if name[0] == "pyprune_fast" and len(name) > 1}


MODULES = [path for path in sources("pyprune_fast") if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_imports_point_downwards(path: Path) -> None:
    unit = unit_of(path)
    assert unit in RANK, f"{unit} has no place in LAYERS"
    imports = imported_units(path) - COMPILED
    assert not imports - RANK.keys()
    assert not {other for other in imports if RANK[other] > RANK[unit]}


def test_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        graph.setdefault(unit_of(path), set()).update(imported_units(path) - {unit_of(path)} - COMPILED)
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("_checks") < order.index("ops") < order.index("scoring")


def test_only_native_loads_the_compiled_modules() -> None:
    assert not {shown(path) for path in MODULES if imported_units(path) & COMPILED}
    assert '"_cpu"' not in "".join(path.read_text() for path in MODULES if unit_of(path) != "_native")


@pytest.mark.parametrize("name", ["oracle", "masked", "architectures", "vision_nets", "sequence_nets"])
def test_oracles_and_their_networks_import_nothing_of_ours(name: str) -> None:
    assert "pyprune_fast" not in (ROOT / "tests" / f"{name}.py").read_text()


def test_importing_loads_no_framework_but_torch() -> None:
    program = """
import sys
import numpy, torch
before = set(sys.modules)
import pyprune_fast
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
print(torch.cuda.is_initialized())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["pyprune_fast", "False"]


# --- C++ -----------------------------------------------------------------------------------------------------------------

NATIVE = sources("csrc", suffixes=(".cpp", ".h", ".cu", ".cuh"))


@pytest.mark.parametrize("path", NATIVE, ids=shown)
def test_includes(path: Path) -> None:
    layer = path.relative_to(ROOT / "csrc").parts[0]
    own, system = (re.findall(rf"^\s*#\s*include\s*{form}", path.read_text(), re.M) for form in ('"([^"]+)"', "<([^>]+)>"))
    for include in own:
        target = (path.parent / include).resolve()
        assert target.is_file(), include
        assert target.relative_to(ROOT / "csrc").parts[0] in INCLUDES[layer], include
    assert not [include for include in system if re.match(FORBIDDEN[layer], include)]


def test_no_backend_by_macro() -> None:
    """A missing CUDA build is a missing module."""
    assert not {shown(path) for path in NATIVE if re.search(r"\bWITH_CUDA\b|\bUSE_CUDA\b", path.read_text())}


# --- the house -----------------------------------------------------------------------------------------------------------


def test_few_environment_switches() -> None:
    names = {name for path in tree() for name in re.findall(r"\bPYPRUNE_FAST_[A-Z][A-Z_]*", path.read_text())}
    assert {"PYPRUNE_FAST_CUDA", "PYPRUNE_FAST_CUDA_ARCHS"} <= names
    assert len(names) <= 4


def test_files_can_be_read_in_one_go() -> None:
    files = [ROOT / "setup.py", *sources("pyprune_fast", "csrc", "tests", "bench")]
    lengths = {shown(path): len(path.read_text().splitlines()) for path in files}
    assert not {path: length for path, length in lengths.items() if length > 400}


def test_version_is_in_one_place() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    named = re.compile(rf"(?<![.\w])__version__|(?i:version|pyprune.fast).*(?<![\d.]){re.escape(version)}(?![\d.])")
    files = [ROOT / "setup.py", ROOT / "README.md", *sources("pyprune_fast", "csrc", "bench")]
    assert not {shown(path) for path in files if named.search(path.read_text())}
    assert len(named.findall((ROOT / "pyproject.toml").read_text())) == 1  # and the search does find it
