"""Plants one small bug after another in kernels and estimators, and sees whether the tests near it fail.

    python bench/mutation.py [--native 60] [--estimators 60] [--seed 0] [--json FILE]

A mutant is one operator or number changed: `<` to `<=`, `+` to `-`, a term dropped, a number off by one. Mutants are drawn with
a fixed seed from csrc/cpu (but what needs AMX, where the machine has none) and from pyprune_fast/estimators. A C++ mutant runs
tests/native/kernels_test.cpp at every SIMD level of the machine, and where that passes, the kernels' Python tests on a rebuilt
`_cpu`; a Python mutant runs the estimators' tests. It is killed if a test fails or does not end; what does not compile is drawn
again. Each runs in a copy of the tree, whose tests pass without a bug; results are written after every mutant, and a run that
was ended goes on where it was. Survivors are explained in docs/tests.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pybind11
from limits import offered

from pyprune_fast.study import machine

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden")
INCLUDES = (f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}")
CPU_SECONDS, SECONDS = 300, 3600  # for the tests of one mutant; the second ends those that wait for good
BYTES = 16 << 30  # of address space: a bug may ask for anything
KERNELS, ESTIMATORS = (
    [f"tests/test_{name}.py" for name in names.split()]
    for names in (
        "aura joint take pairs norms entropy corrections extremes isa levels",
        "estimators estimator_laws chunks greedy permutation levels corrections scoring",
    )
)

Row = dict[str, Any]

# What is changed, and into what. clang-format and ruff put spaces round binary operators, and none round those of types.
OPERATORS = {
    " < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > ", " == ": " != ", " != ": " == ", " + ": " - ", " - ": " + ",
    " * ": " + ", " / ": " * ", " % ": " + ", " += ": " -= ", " -= ": " += ", " << ": " >> ", " >> ": " << ",
    " && ": " || ", " || ": " && ", " and ": " or ", " or ": " and ",
}  # fmt: skip
CHANGES = re.compile(
    "|".join(re.escape(text) for text in sorted(OPERATORS, key=len, reverse=True))
    + r"|(?P<term> [+-] [\w.]+(?:\[\w+\])?(?=[;,)\]]))|(?<![\w.\"'])(?P<number>\d+)(?![\w.\"'])"
)


@dataclass(frozen=True)
class Mutant:
    """One change in one line."""

    file: str
    line: int  # from 1
    column: int
    before: str
    after: str

    def applied_to(self, text: str) -> str:
        """The file's text with the change."""
        lines = text.splitlines(keepends=True)
        line = lines[self.line - 1]
        assert line[self.column :].startswith(self.before)
        lines[self.line - 1] = line[: self.column] + self.after + line[self.column + len(self.before) :]
        return "".join(lines)


def mutants_of(file: str, text: str) -> Iterator[Mutant]:
    """Every change that can be made in a file, its comments, docstrings, texts and includes left alone."""
    code = _code_only(text, file.endswith(".py"))
    for number, line in enumerate(code.splitlines(), start=1):
        if re.match(r"\s*(#|import |from |template|static_assert|using |namespace|raise |assert )", line):
            continue
        for found in CHANGES.finditer(line):
            yield from _changes(file, number, found)


def _changes(file: str, line: int, found: re.Match[str]) -> Iterator[Mutant]:
    text, start = found[0], found.start()
    if found["number"]:
        yield Mutant(file, line, start, text, str(int(text) + 1))
    elif found["term"]:
        yield Mutant(file, line, start, text, "")
        yield Mutant(file, line, start, text[:3], OPERATORS[text[:3]])
    else:
        yield Mutant(file, line, start, text, OPERATORS[text])


def _code_only(text: str, python: bool) -> str:
    """The text with blanks in place of comments and strings, so that lines and columns stay."""
    strings = r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\\n])*"'
    pattern = f"{strings}|#[^\n]*" if python else rf"{strings}|//[^\n]*|/\*(?:.|\n)*?\*/"
    return re.sub(pattern, lambda match: re.sub(r"[^\n]", "`", match[0]), text)


def draw(files: Sequence[Path], seed: int) -> list[Mutant]:
    """All mutants of these files in an order drawn by the seed: operators and numbers in turn, while there are both."""
    found = [mutant for file in files for mutant in mutants_of(str(file.relative_to(ROOT)), file.read_text())]
    random.Random(seed).shuffle(found)
    numbers = [mutant for mutant in found if mutant.before.isdigit()]
    operators = [mutant for mutant in found if not mutant.before.isdigit()]
    return [mutant for pair in zip_longest(operators, numbers) for mutant in pair if mutant is not None]


class Tree:
    """A copy of the tree in which mutants live one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("csrc", "pyprune_fast", "tests", "pyproject.toml", "README.md", "docs"):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, folder / name)
        self.objects: dict[str, Path] = {}

    def with_mutant(self, mutant: Mutant) -> tuple[str, str]:
        """Outcome and what found it."""
        path = self.folder / mutant.file
        text = path.read_text()
        try:
            path.write_text(mutant.applied_to(text))
            if mutant.file.endswith(".py"):
                return self._python([*ESTIMATORS, mutant.file])
            return self._native(mutant)
        finally:
            path.write_text(text)

    def compile_all(self) -> None:
        """The objects of the tree without a bug."""
        sources = [*sorted((self.folder / "csrc/cpu").glob("*.cpp")), self.folder / "csrc/binding/cpu.cpp"]
        for source in [*sources, self.folder / "tests/native/kernels_test.cpp"]:
            self.objects[str(source.relative_to(self.folder))] = self._compile(source, "")

    def check(self, kind: str) -> None:
        """Without a bug all tests pass, so that a failure is the mutant's doing.

        Raises:
            RuntimeError: they do not.
        """
        outcome, by = self._tested(self.objects) if kind == "native" else self._python([*ESTIMATORS, "pyprune_fast/estimators"])
        if outcome != "survived":
            raise RuntimeError(f"mutation: wanted tests that pass without a bug, got a failure of {by}")

    def _compile(self, source: Path, suffix: str) -> Path:
        target = self.folder / f"{source.stem}-{source.parent.name}{suffix}.o"
        command = ["g++", *FLAGS, *INCLUDES, "-MMD", "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
        return target

    def _native(self, mutant: Mutant) -> tuple[str, str]:
        changed = str(self.folder / mutant.file)
        objects = dict(self.objects)
        try:
            for name, target in self.objects.items():
                if changed in map(os.path.normpath, target.with_suffix(".d").read_text().split()):
                    objects[name] = self._compile(self.folder / name, "-mutant")
        except subprocess.CalledProcessError:
            return "does not compile", ""
        return self._tested(objects)

    def _tested(self, objects: dict[str, Path]) -> tuple[str, str]:
        test, binding = "tests/native/kernels_test.cpp", "csrc/binding/cpu.cpp"
        shared = [str(target) for name, target in objects.items() if name not in (test, binding)]
        program = self.folder / "kernels_test"
        _run(["g++", str(objects[test]), *shared, "-pthread", "-o", str(program)], self.folder)
        for isa in offered():
            if not _run([str(program)], self.folder, PYPRUNE_FAST_ISA=isa):
                return "killed", f"kernels_test at {isa}"
        module = self.folder / "pyprune_fast" / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
        _run(["g++", "-shared", str(objects[binding]), *shared, "-pthread", "-o", str(module)], self.folder)
        return self._python(KERNELS)

    def _python(self, tests: list[str]) -> tuple[str, str]:
        # No arithmetic of ours is tested by torch's compiler.
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "-k", "not compile and not opcheck", *tests]
        return ("survived", "") if _run(command, self.folder, HYPOTHESIS_PROFILE="sanitize") else ("killed", "Python tests")


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def _run(command: list[str], folder: Path, **environment: str) -> bool:
    """Whether it ended well, in time."""
    one = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
    try:
        run = subprocess.run(
            command, cwd=folder, env={**os.environ, **one, **environment}, capture_output=True, timeout=SECONDS, check=False,
            preexec_fn=_limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0


def sources(kind: str) -> list[Path]:
    """The files that mutants are drawn from."""
    if kind == "estimators":
        return sorted((ROOT / "pyprune_fast/estimators").glob("*.py"))
    files = [path for path in (ROOT / "csrc/cpu").rglob("*") if path.suffix in (".cpp", ".h", ".inl")]
    return sorted(path for path in files if "amx" in offered() or "amx" not in path.name)


def main() -> None:
    """Runs what is not in the results yet."""
    parser = argparse.ArgumentParser(prog="bench/mutation.py", description="Plants bugs, and counts those that tests find.")
    parser.add_argument("--native", type=int, default=60)
    parser.add_argument("--estimators", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=ROOT / "bench/results/mutation.json")
    options = parser.parse_args()
    rows = json.loads(options.json.read_text())["mutants"] if options.json.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        tree.compile_all()
        for kind in ("estimators", "native"):  # in this order: a kernel's mutant leaves its module behind
            if getattr(options, kind):
                tree.check(kind)
                _run_kind(kind, getattr(options, kind), options, rows, tree)


def _run_kind(kind: str, wanted: int, options: argparse.Namespace, rows: list[Row], tree: Tree) -> None:
    done = {json.dumps(row["mutant"]): row for row in rows}
    count = 0
    for mutant in draw(sources(kind), options.seed):
        if count == wanted:
            break
        row = done.get(json.dumps(asdict(mutant)))
        if row is None:
            outcome, by = tree.with_mutant(mutant)
            row = {"kind": kind, "commit": machine()["commit"], "outcome": outcome, "by": by, "mutant": asdict(mutant)}
            rows.append(row)
            _write(options, rows)
            print(kind, count, outcome, by, mutant, flush=True)
        count += row["outcome"] != "does not compile"


def _write(options: argparse.Namespace, rows: list[Row]) -> None:
    scores = {}
    for kind in sorted({str(row["kind"]) for row in rows}):
        outcomes = [row["outcome"] for row in rows if row["kind"] == kind and row["outcome"] != "does not compile"]
        scores[kind] = {"mutants": len(outcomes), "killed": outcomes.count("killed")}
    results = {"machine": machine(), "seed": options.seed, "scores": scores, "mutants": rows}
    partial = options.json.with_suffix(".part")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(options.json)


if __name__ == "__main__":
    main()
