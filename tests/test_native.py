"""The kernels as plain C++: on this machine, and on aarch64 where a cross compiler and an emulator are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "tests" / "native" / "kernels_test.cpp", *sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))]
HAS_AARCH64 = all(shutil.which(tool) for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64"))


@pytest.mark.parametrize(
    ("compiler", "runner"),
    [
        pytest.param("g++", [], id="this machine"),
        pytest.param(
            "aarch64-linux-gnu-g++",
            ["qemu-aarch64"],
            id="aarch64",
            marks=pytest.mark.skipif(not HAS_AARCH64, reason="no aarch64-linux-gnu-g++ with qemu-aarch64 here"),
        ),
    ],
)
def test_kernels_without_python(tmp_path: Path, compiler: str, runner: list[str]) -> None:
    program = tmp_path / "kernels_test"
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-static", "-pthread"]
    subprocess.run([compiler, *flags, *map(str, SOURCES), "-o", str(program)], check=True)
    run = subprocess.run([*runner, str(program)], capture_output=True, text=True)
    assert run.stdout == "ok\n", run.stdout + run.stderr
    assert run.returncode == 0
