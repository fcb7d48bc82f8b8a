"""`pyprune-fast doctor`: it says what is so, as text and JSON, and its exit code is the verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyprune_fast import _native, cli, doctor, reference
from pyprune_fast._native import build_info

ROOT = Path(__file__).parents[1]


def test_text_and_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    info = build_info()
    assert found["versions"] == {name: info[name] for name in ("pyprune_fast", "torch", "python")}
    assert found["cpu"]["isa"] == _native.cpu.isa()
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert 0 < found["memory"]["available"] <= found["memory"]["total"]
    assert {"report", "demo", "numba", "cupy"} <= found["extras"].keys()
    assert not {"test", "lint", "docs"} & found["extras"].keys()
    for name in (*found["versions"], *found["extras"], "CPU kernels", "CUDA kernels", "threads", "memory"):
        assert sum(line[4:].startswith(f"{name} ") for line in text.splitlines()[:-1]) == 1, name
    assert text.endswith("The CPU kernels work.\n")


def test_missing_extras_come_with_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "pillow":
            raise doctor.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(doctor, "version", version)
    found = doctor.examine()
    assert found["extras"]["demo"] == {  # the report's, which the demo names as an extra, among them
        "present": ["jinja2 1", "matplotlib 1", "h5py 1"],
        "missing": ["pillow>=10"],
        "command": "pip install 'pillow>=10'",
    }
    assert found["ok"]
    assert "--  demo          missing: pillow>=10; to get it: pip install 'pillow>=10'" in doctor.report(found)


def test_wrong_counts_are_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    aura_counts = reference.aura_counts

    def wrong(*arguments) -> None:
        aura_counts(*arguments)
        arguments[5][0, 0, 0, 0, 0] += 1

    monkeypatch.setattr(reference, "aura_counts", wrong)
    assert cli.main(["doctor"]) == 1
    assert "!!  CPU kernels   counts differ from plain torch's" in capsys.readouterr().out


WITHOUT_KERNELS = """
import sys, warnings
sys.modules["pyprune_fast._cpu"] = None
warnings.simplefilter("ignore")
from pyprune_fast import cli
sys.exit(cli.main(["doctor"]))
"""


def doctor_alone(program: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, check=False)


def test_only_slow_fallbacks_are_exit_1() -> None:
    run = doctor_alone(WITHOUT_KERNELS)
    assert run.returncode == 1, run.stderr
    assert "!!  CPU kernels   slow: the work is done by numba" in run.stdout
    assert "pip install --force-reinstall pyprune-fast" in run.stdout
    assert run.stdout.endswith("see !! above.\n")


def test_a_level_that_is_not_there_is_exit_1() -> None:
    run = doctor_alone("import sys; from pyprune_fast import cli; sys.exit(cli.main(['doctor']))", PYPRUNE_FAST_ISA="mmx")
    assert run.returncode == 1
    assert "PYPRUNE_FAST_ISA: wanted one of portable" in run.stderr


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (
            {"count": 2, "reason": "", "runtime": 13000, "driver": 13010},
            "ok  CUDA kernels  built; 2 device(s), runtime 13.0, driver 13.1",
        ),
        (
            {"count": 0, "reason": "no device is detected", "runtime": 13000, "driver": 12080},
            "--  CUDA kernels  CUDA finds no device: no device is detected; CUDA tensors would be counted in plain torch",
        ),
    ],
)
def test_devices_and_versions(monkeypatch: pytest.MonkeyPatch, status: dict, line: str) -> None:
    class Built:
        def device_status(self) -> dict:
            return status

    monkeypatch.setattr(_native, "cuda", Built())
    _native.cuda_trouble.cache_clear()
    try:
        found = doctor.examine()
    finally:
        _native.cuda_trouble.cache_clear()
    assert line in doctor.report(found).splitlines()
    assert found["ok"]
