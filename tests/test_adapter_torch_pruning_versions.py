"""The adapter's tests once more, under the other versions of Torch-Pruning that it is for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(sys.prefix) / "peers"  # where the Makefile puts them


@pytest.mark.parametrize(("version", "parts"), [("1.3.7", [""]), ("1.5.3", ["", "_step"])])
def test_another_version(version: str, parts: list[str]) -> None:
    folder = PEERS / f"torch-pruning-{version}"
    if not folder.is_dir() and not os.environ.get("CI"):
        pytest.skip(f"torch-pruning {version} is not in {folder}: make puts it there")
    found = "from importlib.metadata import version; print(version('torch-pruning'))"
    tests = [f"tests/test_adapter_torch_pruning{part}.py" for part in parts]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    for command, wanted in ((["-c", found], version), (["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], " passed")):
        run = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr
        assert wanted in run.stdout
